package upstream

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"strings"
	"testing"

	"token-sidecar/internal/secret"
)

// forms are the ways in which a service may repeat what it received.
var forms = map[string]func(string) string{
	"as it is": func(s string) string { return s },
	"JSON":     quoted,
	"JSON, all \\u": func(s string) string {
		out := ""
		for _, r := range s {
			if r > 0xffff {
				r -= 0x10000
				out += fmt.Sprintf(`\u%04X\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
				continue
			}
			out += fmt.Sprintf(`\u%04x`, r)
		}
		return out
	},
	"JSON, slashes":      func(s string) string { return strings.ReplaceAll(quoted(s), "/", `\/`) },
	"JSON in JSON":       func(s string) string { return quoted(quoted(s)) },
	"form":               url.QueryEscape,
	"path":               url.PathEscape,
	"all percent":        func(s string) string { return percent(s, "%%%02x") },
	"all percent, upper": func(s string) string { return percent(s, "%%%02X") },
	"form in JSON":       func(s string) string { return quoted(url.QueryEscape(s)) },
	"HTML":               html.EscapeString,
	"JSON in HTML":       func(s string) string { return html.EscapeString(quoted(quoted(s))) },
	"base64":             func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"base64 for URLs":    func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
	"Basic":              func(s string) string { return base64.StdEncoding.EncodeToString([]byte("id:" + s)) },
	"Basic, longer id":   func(s string) string { return base64.StdEncoding.EncodeToString([]byte("my-id:" + s + "\n")) },
	"base64 of JSON": func(s string) string {
		return base64.StdEncoding.EncodeToString([]byte(`{"client_secret":"` + s + `"}`))
	},
}

func quoted(s string) string {
	b, _ := json.Marshal(s)
	return string(b[1 : len(b)-1])
}

func percent(s, form string) (out string) {
	for _, b := range []byte(s) {
		out += fmt.Sprintf(form, b)
	}
	return out
}

var someSecrets = []string{
	"s3cr3t-of-the-client", `a"b\c/d+e f%41&<g>`, "пароль-密码-🔑-x", "+++ %% \\\\ ///",
	"\\u0041bcdefg",
}

func TestEchoes(t *testing.T) {
	for _, s := range someSecrets {
		for name, form := range forms {
			body := `{"message":"you sent ` + form(s) + `."}`
			if !echoes([]byte(body), secret.Hide(s)) {
				t.Errorf("%s of %q is not found in %s", name, s, body)
			}
			for _, other := range someSecrets {
				if other != s && echoes([]byte(body), secret.Hide(other)) {
					t.Errorf("%q is found in %s", other, body)
				}
			}
		}
	}
	for _, harmless := range []string{
		"", `{"access_token":"x","expires_in":60}`, `\`, `\u`, `\u00`, `%`, `%4`, `\ud800`,
		`\ud800\u`, "&#x110000;",
	} {
		if echoes([]byte(harmless), secret.Hide("s3cr3t")) {
			t.Errorf("found in %q", harmless)
		}
	}
	if echoes([]byte("anything"), secret.Hide("")) {
		t.Error("no secret is found everywhere")
	}
}

// FuzzEchoes: a secret is found in any surroundings, in each form.
func FuzzEchoes(f *testing.F) {
	f.Add("s3cr3t-of-the-client", `{"a":"`, `"}`)
	f.Add(`a"b\c`, `%4`, `\`)
	f.Fuzz(func(t *testing.T, s, before, after string) {
		if len(s) < minEncoded || strings.ToValidUTF8(s, "") != s || strings.ContainsAny(before, `\%&+`) {
			t.Skip("the secret is too short or not UTF-8, or what stands before it could be the beginning of an escape")
		}
		for _, name := range []string{"as it is", "JSON", "JSON, all \\u", "form", "all percent"} {
			if body := before + forms[name](s) + after; !echoes([]byte(body), secret.Hide(s)) {
				t.Errorf("%s of %q is not found in %q", name, s, body)
			}
		}
	})
}

// TestNoEchoIsPassedOn: nothing of a 2xx, and only status and code of a refusal.
func TestNoEchoIsPassedOn(t *testing.T) {
	const s = "the-client-secret" // as in service.client
	for name, form := range forms {
		inBubble(t, func(t *testing.T, service *service) {
			service.is("token", mood{body: `{"access_token":"x","expires_in":60,"debug":"` + strings.ReplaceAll(form(s), `"`,
				"") + `"}`})
			service.is("refused",
				mood{status: 403, body: `{"errorCode":"NOT_AUTHORIZED","message":"` + form(s) +
					`","x-humanapi-request-id":"id-1"}`})
			service.is("code", mood{
				status: 403, body: `{"errorCode":"` + form(s) + `"}`,
				header: map[string][]string{"X-Humanapi-Request-Id": {form(s)}},
			})
			c := service.client(func(o *Options) { o.MaxAttempts = 1 })
			if e := ask(t, c, named("token")); e == nil || e.Kind != BadResponse || strings.Contains(e.Error(), s) {
				t.Errorf("%s: a token was %v", name, e)
			}
			e := ask(t, c, named("refused"))
			if e == nil || e.Status != 403 || e.Code != "NOT_AUTHORIZED" || e.RequestID != "id-1" || len(e.Body.Reveal()) > 0 {
				t.Errorf("%s: a refusal was %+v, %s", name, e, e.Body.Reveal())
			}
			e = ask(t, c, named("code"))
			if e == nil || e.Status != 403 || e.Code != "" || e.RequestID != "" || len(e.Body.Reveal()) > 0 {
				t.Errorf("%s: a refusal was %+v, %s", name, e, e.Body.Reveal())
			}
		})
	}
}

func TestBodiesAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		filled := func(size int) string {
			body := `{"access_token":"x","expires_in":60,"filling":""}`
			return strings.Replace(body, `""`, `"`+strings.Repeat("x", size-len(body))+`"`, 1)
		}
		c := s.client(func(o *Options) { o.MaxAttempts = 1 })
		s.is("fits", mood{body: filled(256 << 10)})
		if e := ask(t, c, named("fits")); e != nil {
			t.Error(e)
		}
		s.is("large", mood{body: filled(256<<10 + 1)})
		if e := ask(t, c, named("large")); e == nil || e.Kind != BadResponse {
			t.Errorf("%v", e)
		}
	})
}

func BenchmarkEchoes(b *testing.B) {
	body := []byte(`{"access_token":"` + strings.Repeat("x", 900) + `","expires_in":86400,"token_type":"Bearer"}`)
	worst := bytes.Repeat([]byte(`\u0025%5c&amp;+`), 256<<10/15)
	for name, text := range map[string][]byte{"a token": body, "the worst": worst} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				echoes(text, secret.Hide("s3cr3t-of-the-client"))
			}
		})
	}
}
