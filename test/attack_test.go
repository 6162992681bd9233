package test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
)

// dribble sends its text byte by byte, one second apart, until the other side closes.
type dribble string

// TestAttacks sends raw bytes over a socket. Each row is refused and never reaches the auth service, even on a
// connection with good requests before it.
func TestAttacks(t *testing.T) {
	auth := testbed.StartAuth(t)
	s := testbed.StartSidecar(t, auth.Environ()...)
	const ask = "GET /token?client_user_id=alice HTTP/1.1\r\n"
	get := func(headers ...string) string { return ask + strings.Join(headers, "\r\n") + "\r\n\r\n" }
	post := func(body string, headers ...string) string {
		return "POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + strings.Join(headers,
			"\r\n") + "\r\n\r\n" + body
	}
	json := func(body string) string { return post(body, fmt.Sprint("Content-Length: ", len(body))) }
	query := func(q string) string { return "GET /token?" + q + " HTTP/1.1\r\nHost: localhost\r\n\r\n" }
	before := map[string]int{"first on its connection": 0, "behind good ones": 2}
	for name, c := range map[string]struct {
		bytes  any // string or dribble
		status int // 0: the connection is closed without an answer
		code   string
	}{
		"rebinding":                     {get("Host: evil.example"), 421, "MISDIRECTED_HOST"},
		"rebinding, our port":           {get("Host: evil.example:8080"), 421, "MISDIRECTED_HOST"},
		"rebinding, capitals":           {get("Host: EVIL.EXAMPLE"), 421, "MISDIRECTED_HOST"},
		"rebinding, trailing dot":       {get("Host: localhost."), 421, "MISDIRECTED_HOST"},
		"rebinding, trailing dots":      {get("Host: localhost..:8080"), 421, "MISDIRECTED_HOST"},
		"rebinding, subdomain":          {get("Host: localhost.evil.example"), 421, "MISDIRECTED_HOST"},
		"rebinding, nip.io":             {get("Host: 127.0.0.1.nip.io"), 421, "MISDIRECTED_HOST"},
		"rebinding, other loopback":     {get("Host: 127.0.0.2"), 421, "MISDIRECTED_HOST"},
		"rebinding, short IPv4":         {get("Host: 127.1"), 421, "MISDIRECTED_HOST"},
		"rebinding, decimal IPv4":       {get("Host: 2130706433"), 421, "MISDIRECTED_HOST"},
		"rebinding, zero":               {get("Host: 0.0.0.0"), 421, "MISDIRECTED_HOST"},
		"rebinding, long IPv6":          {get("Host: [0:0:0:0:0:0:0:1]"), 421, "MISDIRECTED_HOST"},
		"rebinding, mapped IPv6":        {get("Host: [::ffff:7f00:1]"), 421, "MISDIRECTED_HOST"},
		"rebinding, zone":               {get("Host: [::1%25eth0]"), 421, "MISDIRECTED_HOST"},
		"rebinding, empty":              {get("Host: "), 421, "MISDIRECTED_HOST"},
		"rebinding, no Host":            {get("X-A: b"), 400, ""},
		"rebinding, HTTP/1.0":           {"GET /token?client_user_id=alice HTTP/1.0\r\n\r\n", 421, "MISDIRECTED_HOST"},
		"rebinding, two Hosts":          {get("Host: localhost", "Host: evil.example"), 400, ""},
		"rebinding, user info":          {get("Host: localhost@evil.example"), 400, ""},
		"rebinding, absolute form":      {"GET http://evil.example/token?client_user_id=alice HTTP/1.1\r\nHost: localhost\r\n\r\n", 421, "MISDIRECTED_HOST"},
		"rebinding, hostile port":       {get("Host: localhost:8080.evil.example"), 421, "MISDIRECTED_HOST"},
		"SSRF, X-Forwarded-For":         {get("Host: localhost", "X-Forwarded-For: 10.0.0.1"), 403, "CALLER_NOT_ALLOWED"},
		"SSRF, odd case":                {get("Host: localhost", "x-fOrWaRdEd-FoR: 10.0.0.1"), 403, "CALLER_NOT_ALLOWED"},
		"SSRF, empty":                   {get("Host: localhost", "X-Forwarded-For:"), 403, "CALLER_NOT_ALLOWED"},
		"SSRF, Forwarded":               {get("Host: localhost", "Forwarded: for=10.0.0.1"), 403, "CALLER_NOT_ALLOWED"},
		"SSRF, X-Real-IP":               {get("Host: localhost", "X-Real-IP: 10.0.0.1"), 403, "CALLER_NOT_ALLOWED"},
		"web page, Origin":              {get("Host: localhost", "Origin: https://evil.example"), 403, "CALLER_NOT_ALLOWED"},
		"web page, our own Origin":      {get("Host: localhost", "Origin: http://localhost:8080"), 403, "CALLER_NOT_ALLOWED"},
		"web page, null Origin":         {get("Host: localhost", "Origin: null"), 403, "CALLER_NOT_ALLOWED"},
		"web page, cross-site":          {get("Host: localhost", "Sec-Fetch-Site: cross-site"), 403, "CALLER_NOT_ALLOWED"},
		"web page, same-site":           {get("Host: localhost", "Sec-Fetch-Site: same-site"), 403, "CALLER_NOT_ALLOWED"},
		"web page, simple POST":         {"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", 415, "UNSUPPORTED_MEDIA_TYPE"},
		"web page, preflight":           {"OPTIONS /token HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, "METHOD_NOT_ALLOWED"},
		"all of the server":             {"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, "NOT_FOUND"},
		"tunnel":                        {"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 421, "MISDIRECTED_HOST"},
		"smuggling, CL and TE":          {post("0\r\n\r\n", "Content-Length: 5", "Transfer-Encoding: chunked"), 400, "INVALID_REQUEST"},
		"smuggling, TE and CL":          {post("0\r\n\r\n", "Transfer-Encoding: chunked", "Content-Length: 5"), 400, "INVALID_REQUEST"},
		"smuggling, TE of HTTP/1.0":     {strings.Replace(post("0\r\n\r\n", "Transfer-Encoding: chunked"), "HTTP/1.1", "HTTP/1.0", 1), 400, "INVALID_REQUEST"},
		"smuggling, folded CL":          {post("{}", "Content-Length:\r\n 2"), 400, "INVALID_REQUEST"},
		"smuggling, two equal CL":       {post("{}", "Content-Length: 2", "Content-Length: 2"), 400, "INVALID_REQUEST"},
		"chunked without end":           {post("2\r\n{}\r\n7\r\n", "Transfer-Encoding: chunked"), 400, "INVALID_REQUEST"},
		"chunked, a MiB":                {post("100000\r\n"+strings.Repeat(" ", 1<<20)+"\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), 413, "BODY_TOO_LARGE"},
		"chunked, huge chunk":           {post("ffffffffffffffff\r\n", "Transfer-Encoding: chunked"), 400, "INVALID_REQUEST"},
		"smuggling, two CL":             {post("{}", "Content-Length: 2", "Content-Length: 3"), 400, ""},
		"smuggling, list of CL":         {post("{}", "Content-Length: 2, 3"), 400, ""},
		"smuggling, signed CL":          {post("{}", "Content-Length: +2"), 400, ""},
		"smuggling, negative CL":        {post("{}", "Content-Length: -2"), 400, ""},
		"smuggling, hex CL":             {post("{}", "Content-Length: 0x2"), 400, ""},
		"smuggling, odd TE":             {post("0\r\n\r\n", "Transfer-Encoding: xchunked"), 501, ""},
		"smuggling, two TE":             {post("0\r\n\r\n", "Transfer-Encoding: chunked", "Transfer-Encoding: identity"), 501, ""},
		"smuggling, space before colon": {get("Host: localhost", "Content-Length : 5"), 400, ""},
		"smuggling, folded header":      {get("Host: localhost", "X-Forwarded-For:\r\n 10.0.0.1"), 403, "CALLER_NOT_ALLOWED"},
		"smuggling, NUL in a header":    {get("Host: localhost", "X-A: b\x00c"), 400, ""},
		"smuggling, body of a GET":      {"GET /token?client_user_id=alice HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nGET /", 400, "INVALID_REQUEST"},
		"smuggling, bare CR":            {"GET /token?client_user_id=alice HTTP/1.1\rHost: localhost\r\r", 400, ""},
		"slow headers":                  {dribble(ask + "Host: localhost\r\nX-A: " + strings.Repeat("a", 1000)), 0, ""},
		"slow body":                     {dribble(post(strings.Repeat(" ", 1000), "Content-Length: 1000")), 400, "INVALID_REQUEST"},
		"silence":                       {"", 0, ""},
		"100,000 headers":               {ask + "Host: localhost\r\n" + strings.Repeat("X-A: b\r\n", 100_000) + "\r\n", 431, ""},
		"a long header":                 {get("Host: localhost", "X-A: "+strings.Repeat("a", 1<<20)), 431, ""},
		"a long target":                 {query("client_user_id=" + strings.Repeat("a", 1<<20)), 431, ""},
		"a huge body":                   {post(strings.Repeat(" ", 1<<20), "Content-Length: 1048576"), 413, "BODY_TOO_LARGE"},
		"a body that is said to be":     {post("{}", "Content-Length: 99999999999"), 413, "BODY_TOO_LARGE"},
		"deep JSON":                     {json(strings.Repeat(`{"a":`, 3000)), 400, "INVALID_REQUEST"},
		"repeated field":                {query("client_user_id=alice&client_user_id=bob"), 400, "INVALID_REQUEST"},
		"repeated, escaped name":        {query("client_user_id=alice&%63lient_user_id=bob"), 400, "INVALID_REQUEST"},
		"repeated in JSON":              {json(`{"client_user_id":"alice","client_user_id":"bob"}`), 400, "INVALID_REQUEST"},
		"repeated in JSON, other case":  {json(`{"client_user_id":"alice","CLIENT_USER_ID":"bob"}`), 400, "INVALID_REQUEST"},
		"NUL":                           {query("client_user_id=alice%00bob"), 400, "INVALID_REQUEST"},
		"NUL in JSON":                   {json(`{"client_user_id":"alice\u0000bob"}`), 400, "INVALID_REQUEST"},
		"invalid UTF-8":                 {query("client_user_id=alice%c0%ae"), 400, "INVALID_REQUEST"},
		"raw UTF-8":                     {query("client_user_id=alice\xc0\xae"), 400, ""},
		"invalid UTF-8 in JSON":         {json("{\"client_user_id\":\"\xc3\x28\"}"), 400, "INVALID_REQUEST"},
		"half a surrogate":              {json(`{"client_user_id":"\udc00"}`), 400, "INVALID_REQUEST"},
		"traversal":                     {"GET /v1/../token?client_user_id=alice HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, "NOT_FOUND"},
		"escaped path":                  {"GET /token%2f?client_user_id=alice HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, "NOT_FOUND"},
		"HTTP/2 without TLS":            {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 421, "MISDIRECTED_HOST"},
		"TLS":                           {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, ""},
		"noise":                         {"\x00\x01\x02\x03\r\n\r\n", 400, ""},
	} {
		for where, good := range before {
			if c.bytes == "" && good > 0 {
				continue // as for an idle connection
			}
			t.Run(name+", "+where, func(t *testing.T) {
				t.Parallel()
				status, body := attack(t, s.Addr, good, c.bytes)
				if status != c.status || (c.code != "" && !strings.Contains(body, `"errorCode":"`+c.code+`"`)) {
					t.Errorf("%d %s; want %d %s", status, body, c.status, c.code)
				}
			})
		}
	}
	t.Cleanup(func() {
		if n := auth.Counts().Calls; n != 1 {
			t.Errorf("%d calls to the auth service, one was needed", n)
		}
		mustGet(t, s, "alice")
	})
}

// attack sends that many good requests, then bytes, and returns the answer to those; the status is 0 if the connection
// is closed without one.
func attack(t *testing.T, addr string, good int, what any) (status int, body string) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(context.WithoutCancel(t.Context()), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
	answers := bufio.NewReader(conn)
	for range good {
		send(conn, "GET /token?client_user_id=alice HTTP/1.1\r\nHost: localhost\r\n\r\n")
		res, err := http.ReadResponse(answers, nil)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("a good request: %v", err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
	go send(conn, what)
	res, err := http.ReadResponse(answers, nil)
	if err != nil {
		if netErr := net.Error(nil); errors.As(err, &netErr) && netErr.Timeout() {
			t.Error("neither an answer nor the end of the connection")
		}
		return 0, ""
	}
	defer func() { _ = res.Body.Close() }()
	content, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	return res.StatusCode, string(content)
}

func send(conn net.Conn, what any) {
	switch what := what.(type) {
	case string:
		_, _ = io.WriteString(conn, what)
	case dribble:
		// All but the end at once, or it would take too long.
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		at := max(0, len(what)-900)
		if _, err := io.WriteString(conn, string(what[:at])); err != nil {
			return
		}
		for _, b := range []byte(what[at:]) {
			<-tick.C
			if _, err := conn.Write([]byte{b}); err != nil {
				return
			}
		}
	}
}
