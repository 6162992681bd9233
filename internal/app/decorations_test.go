package app

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/settings"
	"token-sidecar/internal/testbed"
)

// decorations are what editors, shells and manifests add around a secret.
var decorations = map[string]func(string) string{
	"LF":           func(s string) string { return s + "\n" },
	"CR LF":        func(s string) string { return s + "\r\n" },
	"BOM":          func(s string) string { return "\ufeff" + s },
	"BOM, CR LF":   func(s string) string { return "\ufeff" + s + "\r\n" },
	"blanks":       func(s string) string { return " \t" + s + " " },
	"several":      func(s string) string { return "\n\ufeff\r\n" + s + "\r\n\r\n\ufeff" },
	"lines, CR LF": func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") },
}

// secretive are the settings that contain an identity or a secret, themselves or in a file.
func secretive() (names []string) {
	s := settings.Settings{ClientSecret: secret.Hide("x"), RedisURL: secret.Hide("x")}
	for _, setting := range s.List(nil) {
		hidden := setting.Value == secret.Hide("x").String()
		if hidden || strings.HasSuffix(setting.Name, "_FILE") || setting.Name == "HUMANAPI_CLIENT_ID" {
			names = append(names, setting.Name)
		}
	}
	return names
}

// TestWhatIsAroundASecretIsNoPartOfIt: whichever setting or file is decorated, the sidecar works with undecorated
// others.
func TestWhatIsAroundASecretIsNoPartOfIt(t *testing.T) {
	auth := testbed.StartAuthTLS(t)
	cert, key := testbed.Certificate(t)
	redis := testbed.StartTLSRedis(t, cert, key, "--requirepass", "of-redis")
	const callerToken = "of-callers"
	plain := map[string]string{
		"HUMANAPI_CLIENT_SECRET_FILE": testbed.WriteFile(t, "secret", "sandbox-secret"),
		"CALLER_TOKEN_FILE":           testbed.WriteFile(t, "caller", callerToken),
		"REDIS_CA_FILE":               cert,
		"REDIS_PASSWORD_FILE":         testbed.WriteFile(t, "password", "of-redis"),
		"ENCRYPTION_KEYS_FILE": testbed.WriteFile(t, "keys",
			strings.Repeat("A", 43)+"=\n"+strings.Repeat("B", 42)+"A="),
		"AUDIT_KEY_FILE": testbed.WriteFile(t, "audit-key", strings.Repeat("A", 43)+"=\n"+strings.Repeat("B", 42)+"A="),
		"AUDIT_LOG":      testbed.WriteFile(t, "audit.log", ""),
		"REDIS_URL":      redis.URL(), "HUMANAPI_CLIENT_SECRET": "", "REDIS_TIMEOUT": "2s",
	}
	for _, pair := range auth.Environ() {
		if name, value, _ := strings.Cut(pair, "="); name != "HUMANAPI_CLIENT_SECRET" {
			plain[name] = value
		}
	}
	// A setting used instead of others.
	instead := map[string][2]string{
		"HUMANAPI_CLIENT_SECRET": {"sandbox-secret", "HUMANAPI_CLIENT_SECRET_FILE"},
		"REDIS_URL":              {strings.Replace(redis.URL(), "//", "//:of-redis@", 1), "REDIS_PASSWORD_FILE"},
	}
	start := func(t *testing.T, environ map[string]string) *Parts {
		t.Helper()
		var list []string
		for name, value := range environ {
			list = append(list, name+"="+value)
		}
		s, err := settings.Load(list)
		if err != nil {
			t.Fatal(err)
		}
		parts, err := NewParts(s, Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(parts.Close)
		return parts
	}
	ask := func(t *testing.T, parts *Parts, user string) (cacheStatus string) {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet,
			"http://localhost/token?client_user_id="+url.QueryEscape(user), nil)
		r.Header.Set("Authorization", "Bearer "+callerToken)
		rec := httptest.NewRecorder()
		parts.Handler.ServeHTTP(rec, r)
		if rec.Code != http.StatusOK {
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
		return rec.Header().Get("Cache-Status")
	}
	other := start(t, plain)
	names := secretive()
	if len(names) < 8 {
		t.Fatalf("only %q", names)
	}
	for _, name := range names {
		for what, decorate := range decorations {
			for _, where := range []string{"environment", "file"} {
				isFile := strings.HasSuffix(name, "_FILE")
				if where == "file" && !isFile || where == "environment" && strings.Contains(what, "lines") {
					continue
				}
				t.Run(strings.Join([]string{name, what, where}, "/"), func(t *testing.T) {
					environ := maps.Clone(plain)
					if in, ok := instead[name]; ok {
						environ[name] = in[0]
						delete(environ, in[1])
					}
					value := environ[name]
					if value == "" {
						t.Fatal("give this test a value of the setting")
					}
					environ[name] = decorate(value)
					if where == "file" {
						environ[name] = testbed.WriteFile(t, "decorated", decorate(testbed.ReadFile(t, value)))
					}
					ask(t, other, t.Name())
					if status := ask(t, start(t, environ), t.Name()); !strings.HasSuffix(status, "detail=redis") {
						t.Errorf("it does not share tokens with a sidecar whose settings are plain: %s", status)
					}
				})
			}
		}
	}
}
