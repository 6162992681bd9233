package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"pgregory.net/rapid"

	"token-sidecar/internal/secret"
	"token-sidecar/proxy/vend"
	"token-sidecar/upstream"
)

// A padder extends the auth service's answers about users named bytes-N or unknown-bytes-N to N bytes.
type padder struct{ vend.AuthService }

func padded(s *settings) {
	s.wrap = func(auth vend.AuthService) vend.AuthService { return padder{auth} }
}

func (p padder) Token(ctx context.Context, req upstream.Request) (*upstream.Answer, error) {
	answer, err := p.AuthService.Token(ctx, req)
	_, size, padded := strings.Cut(req.UserID.Reveal(), "bytes-")
	length, _ := strconv.Atoi(size)
	var refused *upstream.Error
	switch {
	case !padded:
	case errors.As(err, &refused):
		refused.Body = pad(refused.Body, length)
	case err == nil:
		answer.Body = pad(answer.Body, length)
	}
	return answer, err
}

// pad adds a field to the end of a JSON object, so that it has that length.
func pad(body secret.Value[[]byte], length int) secret.Value[[]byte] {
	object := bytes.TrimRight(body.Reveal(), "}\n")
	const field, end = `,"scope":"`, `"}`
	return secret.Hide(fmt.Appendf(object, "%s%s%s", field,
		strings.Repeat("x", max(0, length-len(object)-len(field)-len(end))), end))
}

func plainGet(user string) string {
	return "GET /token?client_user_id=" + user +
		" HTTP/1.1\r\nHost: localhost:8080\r\nAuthorization: Bearer the-right-one\r\nAccept: */*\r\n\r\n"
}

func plainPost(user string) string {
	body := `{"client_user_id":"` + user + `","client_secret":"x"}`
	return fmt.Sprintf("POST /v1/connect/token HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer the-right-one\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// linesOfHeads are further header fields of a request.
var linesOfHeads = []string{
	"Accept: */*", "user-agent: x", "Connection: keep-alive", "Authorization: Bearer the-right-one",
	"authorization: bearer the-right-one",
	"AUTHORIZATION: Bearer the-right-one", "Authorization: Bearer a-wrong-one", "Authorization: Basic the-right-one",
	"Authorization:",
	"Connection: close", "Pragma: no-cache", "Cache-Control: no-cache", "Host: localhost", "host: evil.example",
	"HOST: localhost",
	"X-Forwarded-For: a", "Origin: null", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: cors", "Content-Length: 3",
	"Content-Length: 0",
	"CONTENT-LENGTH: 3", "Content-Type: text/plain", "Content-Type: application/json", "Transfer-Encoding: chunked",
	"transfer-encoding: x",
	"Expect: 100-continue", " folded: yes", "Accept : a", "Accept: \x01", "Accept: \x80", "X-Rejected-Token-Hash: 00",
	"Upgrade: h2c",
}

var (
	targetsOfCalls = []string{
		"/token?client_user_id=%61", "/token?client_user_id=a&client_user_id=a", "/token?client_user_id=a#b", "/token?",
		"/token", "/tokens?client_user_id=a", "/tokens",
		"/token?client_user_id=unknown-a", "/token?client_user_id=a&type=session&client_user_email=b", "/token?type=client",
		"//token?client_user_id=a",
		"/token?client_user_id=a&extra_scopes=b", "/v1/connect/token?client_user_id=a", "/v1/connect/token",
		"/v1/admin/token", "http://localhost/token?client_user_id=a", "*", "",
	}
	hostsOfCalls  = []string{"host: 127.0.0.1:8080", "Host: evil.example", "Host: a/b", "Host:", "Accept: y"}
	bodiesOfCalls = []string{
		`{"client_user_id":"a","client_id":"b"}`, `{"client_user_id":"a",`, "client_user_id=a", "",
		strings.Repeat(plainGet("a"), 60)[:4096], // as long as net/http's buffer, and looks like requests
	}
)

// oddRequests are plain requests with one or two changes.
func oddRequests() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		method := rapid.SampledFrom([]string{"GET", "POST"}).Draw(t, "method")
		target, version, host, end := "/token?client_user_id=a", " HTTP/1.1", "Host: localhost", "\r\n"
		kind, body := asJSON, `{"client_user_id":"a"}`
		if method == "POST" {
			target = "/token"
		}
		var lines []string
		chunked := false
		for range rapid.IntRange(1, 2).Draw(t, "changes") {
			switch rapid.IntRange(0, 10).Draw(t, "change") {
			case 0:
				method = rapid.SampledFrom([]string{"DELETE", "HEAD", "PATCH", "GET", "POST"}).Draw(t, "other method")
			case 1:
				target = rapid.SampledFrom(targetsOfCalls).Draw(t, "other target")
			case 2:
				version = rapid.SampledFrom([]string{" HTTP/1.0", "", "  HTTP/1.1", " HTTP/1.1 "}).Draw(t, "other version")
			case 3:
				host = rapid.SampledFrom(hostsOfCalls).Draw(t, "other host")
			case 4:
				body = rapid.SampledFrom(bodiesOfCalls).Draw(t, "other body")
			case 5:
				end = "\n"
			case 6:
				kind = rapid.SampledFrom([]string{asForm, "text/plain", asJSON + "; charset=utf-8", ""}).Draw(t, "other kind")
			case 7:
				chunked = true
			default:
				lines = append(lines, rapid.SampledFrom(linesOfHeads).Draw(t, "line"))
			}
		}
		head := append([]string{method + " " + target + version, host, "Authorization: Bearer the-right-one"}, lines...)
		if method != "POST" && method != "PATCH" {
			return strings.Join(head, end) + end + end
		}
		if kind != "" {
			head = append(head, "Content-Type: "+kind)
		}
		switch {
		case chunked:
			head, body = append(head, "Transfer-Encoding: chunked"), chunks(body, rapid.IntRange(1, 5000).Draw(t, "chunk"))
		case body != "":
			head = append(head, fmt.Sprint("Content-Length: ", len(body)))
		}
		return strings.Join(head, end) + end + end + body
	})
}

// A piece of a script is sent in one write, after a wait.
type piece struct {
	wait time.Duration
	text string
}

// scripts are what callers send: plain requests and odd ones, separate, joined or in parts.
func scripts() *rapid.Generator[[]piece] {
	return rapid.Custom(func(t *rapid.T) []piece {
		user := rapid.SampledFrom([]string{
			"b", "b", "bytes-2048", "bytes-2049", "bytes-4000", "bytes-10000",
			"unknown-bytes-2047", "unknown-bytes-3000",
		}).Draw(t, "user")
		script := []piece{{0, plainGet("a")}, {0, plainGet(user)}}
		for range rapid.IntRange(1, 5).Draw(t, "times") {
			wait := rapid.SampledFrom([]time.Duration{
				0, 0, 0, 0, 0, 503 * time.Millisecond, 503 * time.Millisecond,
				1003 * time.Millisecond, 6007 * time.Millisecond, 70011 * time.Millisecond, 300013 * time.Millisecond,
			}).Draw(t,
				"wait")
			text := plainGet("a")
			switch rapid.IntRange(0, 6).Draw(t, "kind") {
			case 0:
			case 1:
				text = plainPost(user)
			case 2:
				text = chunkedPost("/token", chunks(`{"client_user_id":"a"}`, 9), "Authorization: Bearer the-right-one",
					"Content-Type: application/json")
			default:
				text = oddRequests().Draw(t, "odd")
			}
			// net/http tolerates empty lines before a request, if the last one was a POST.
			text = rapid.SampledFrom([]string{"", "", "", "\r\n", "\n", "\r\n\r\n", "\r\n\r\n\r\n"}).Draw(t,
				"empty lines") + text
			switch rapid.IntRange(0, 5).Draw(t, "how") {
			case 0:
				script = append(script, piece{wait, text + plainGet(user) + plainPost("a")})
			case 1:
				cut := rapid.IntRange(1, len(text)).Draw(t, "cut")
				script = append(script, piece{0, text[:cut]}, piece{wait, text[cut:] + plainGet(user)[:cut%40]},
					piece{0, plainGet(user)[cut%40:]})
			case 2:
				lines := strings.SplitAfter(text+plainGet(user), "\n")
				cut := rapid.IntRange(1, len(lines)).Draw(t, "lines")
				script = append(script, piece{0, plainGet("a") + strings.Join(lines[:cut], "")},
					piece{wait, strings.Join(lines[cut:], "")})
			case 3: // a body that looks like a request and arrives alone
				hidden := plainGet(user)
				script = append(script,
					piece{wait, text + fmt.Sprintf("POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n",
						len(hidden))}, piece{0, hidden})
			default:
				script = append(script, piece{wait, text})
			}
		}
		return append(script, piece{0, plainGet("a")}, piece{1003 * time.Millisecond, plainPost("a")})
	})
}
