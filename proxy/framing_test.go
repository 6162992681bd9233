package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// bothPaths runs test against a server with the fast path and one without.
func bothPaths(t *testing.T, change func(*settings), test func(t *testing.T, l *line)) {
	t.Helper()
	for name, fast := range map[string]bool{"fast path": true, "net/http": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := connect(t, fast, change)
				defer func() {
					l.close()
					time.Sleep(time.Second) // net/http lingers on a connection that it closes
				}()
				test(t, l)
			})
		})
	}
}

// chunks is body as sent by a client that does not know its length, in pieces of that size.
func chunks(body string, size int) string {
	var b strings.Builder
	for len(body) > 0 {
		n := min(size, len(body))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	return b.String() + "0\r\n\r\n"
}

func chunkedPost(path, body string, lines ...string) string {
	return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n" + strings.Join(append(lines,
		"", body), "\r\n")
}

// TestChunkedBodies: clients that write the body while sending it do not know its length.
func TestChunkedBodies(t *testing.T) {
	const kind, body = "Content-Type: application/json", `{"client_user_id":"a"}`
	filled := func(size int) string { return body + strings.Repeat(" ", size-len(body)) }
	for name, c := range map[string]struct {
		text   string
		status int
		part   string
	}{
		"JSON":               {chunkedPost("/token", chunks(body, 100), kind), 200, "access_token"},
		"byte by byte":       {chunkedPost("/token", chunks(body, 1), kind), 200, "access_token"},
		"form":               {chunkedPost("/token", chunks("client_user_id=a", 5), "Content-Type: application/x-www-form-urlencoded"), 200, "access_token"},
		"drop-in":            {chunkedPost("/v1/connect/token", chunks(body, 7), kind), 200, "access_token"},
		"capitals":           {strings.Replace(chunkedPost("/token", chunks(body, 7), kind), "Encoding: chunked", "ENCODING:  CHUNKED ", 1), 200, "access_token"},
		"extension":          {chunkedPost("/token", strings.Replace(chunks(body, 100), "\r\n", ";a=b\r\n", 1), kind), 200, "access_token"},
		"trailer":            {chunkedPost("/token", strings.TrimSuffix(chunks(body, 100), "\r\n")+"Content-Length: 7\r\nX-A: b\r\n\r\n", kind), 200, "access_token"},
		"16 KiB":             {chunkedPost("/token", chunks(filled(16<<10), 1000), kind), 200, "access_token"},
		"16 KiB and a byte":  {chunkedPost("/token", chunks(filled(16<<10+1), 1000), kind), 413, "BODY_TOO_LARGE"},
		"no end in sight":    {chunkedPost("/token", strings.TrimSuffix(chunks(filled(1<<20), 1000), "0\r\n\r\n"), kind), 413, "BODY_TOO_LARGE"},
		"nothing":            {chunkedPost("/token", chunks("", 1), kind), 400, "INVALID_REQUEST"},
		"broken":             {chunkedPost("/token", "7\r\n{\"clien\r\nxx\r\n", kind), 400, "before it was complete"},
		"of a GET":           {strings.Replace(chunkedPost("/token?client_user_id=a", chunks("", 1)), "POST", "GET", 1), 400, "with POST only"},
		"a wrong field":      {chunkedPost("/token", chunks(`{"a":1}`, 100), kind), 400, "is not a field"},
		"of the wrong media": {chunkedPost("/token", chunks(body, 100), "Content-Type: text/plain"), 415, "UNSUPPORTED_MEDIA_TYPE"},
	} {
		t.Run(name, func(t *testing.T) {
			bothPaths(t, nil, func(t *testing.T, l *line) {
				l.ask(t, plainGet("a"))
				l.ask(t, plainGet("a"))
				began := time.Now()
				go func() { _, _ = io.WriteString(l.Conn, c.text) }()
				if status, said := l.read(t); status != c.status || !strings.Contains(said, c.part) ||
					time.Since(began) > time.Second {
					t.Errorf("after %v %d %s; want %d with %q", time.Since(began), status, said, c.status, c.part)
				}
				if c.status != 200 {
					return
				}
				for _, text := range []string{c.text, plainPost("a"), plainGet("b")} { // on the same connection
					if status, said := l.ask(t, text); status != 200 {
						t.Errorf("then %d %s", status, said)
					}
				}
			})
		})
	}
}

// TestSmuggling: what two parsers could read as different requests is refused, even where net/http drops the ambiguity,
// and the connection is closed.
func TestSmuggling(t *testing.T) {
	const length, body = "Content-Length: 22", `{"client_user_id":"a"}`
	hidden := "GET /token?client_user_id=hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
	for name, c := range map[string]struct {
		text   string
		status int // 501, and statuses without an errorCode, come from net/http
		code   string
	}{
		"both, length first":       {strings.Replace(chunkedPost("/token", chunks(body, 99)), "Transfer", length+"\r\nTransfer", 1), 400, "INVALID_REQUEST"},
		"both, coding first":       {chunkedPost("/token", chunks(body, 99), length), 400, "INVALID_REQUEST"},
		"both, odd case":           {chunkedPost("/token", chunks(body, 99), "cOnTeNt-LeNgTh: 22"), 400, "INVALID_REQUEST"},
		"both, no body":            {chunkedPost("/token", "0\r\n\r\n", "Content-Length: 5"), 400, "INVALID_REQUEST"},
		"both, a request within":   {chunkedPost("/token", "0\r\n\r\n"+hidden, fmt.Sprint("Content-Length: ", 5+len(hidden))), 400, "INVALID_REQUEST"},
		"both, of a GET":           {strings.Replace(chunkedPost("/token?client_user_id=a", "0\r\n\r\n", "Content-Length: 5"), "POST", "GET", 1), 400, "INVALID_REQUEST"},
		"length folded":            {"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length:\r\n 22\r\n\r\n" + body, 400, "INVALID_REQUEST"},
		"length twice, the same":   {"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + length + "\r\n" + length + "\r\n\r\n" + body, 400, "INVALID_REQUEST"},
		"length twice, of a GET":   {"GET /token?client_user_id=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", 400, "INVALID_REQUEST"},
		"length twice, unlike":     {"POST /token HTTP/1.1\r\nHost: localhost\r\n" + length + "\r\nContent-Length: 21\r\n\r\n" + body, 400, ""},
		"coding twice":             {chunkedPost("/token", chunks(body, 99), "Transfer-Encoding: chunked"), 501, ""},
		"coding listed twice":      {strings.Replace(chunkedPost("/token", chunks(body, 99)), ": chunked", ": chunked, chunked", 1), 501, ""},
		"another coding":           {strings.Replace(chunkedPost("/token", chunks(body, 99)), ": chunked", ": gzip, chunked", 1), 501, ""},
		"identity":                 {strings.Replace(chunkedPost("/token", body, length), ": chunked", ": identity", 1), 501, ""},
		"no coding":                {strings.Replace(chunkedPost("/token", body, length), ": chunked", ":", 1), 501, ""},
		"coding folded":            {strings.Replace(chunkedPost("/token", chunks(body, 99)), ": chunked", ":\r\n chunked", 1), 400, "INVALID_REQUEST"},
		"coding of HTTP/1.0":       {strings.Replace(chunkedPost("/token", chunks(body, 99)), "HTTP/1.1", "HTTP/1.0", 1), 400, "INVALID_REQUEST"},
		"coding of HTTP/1.0, both": {strings.Replace(chunkedPost("/token", body, length), "HTTP/1.1", "HTTP/1.0", 1), 400, "INVALID_REQUEST"},
		"vertical tab":             {strings.Replace(chunkedPost("/token", chunks(body, 99)), ": chunked", ": \vchunked", 1), 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, before := range []string{
				"", plainGet("a"), plainGet("a") + plainGet("a"), plainPost("a"), post("/token", asJSON, "{\n\n"+body[1:]),
				chunkedPost("/token", chunks("{\n\n"+body[1:], 3), "Content-Type: application/json"),
			} {
				bothPaths(t, nil, func(t *testing.T, l *line) {
					said, ended := l.play([]piece{{0, before}, {time.Second, c.text + hidden}})
					answers := regexp.MustCompile(`(?m)^HTTP/1\.\d `).Split(said, -1)[1:]
					if len(answers) == 0 || len(answers) != strings.Count(before, " HTTP/1.1\r\n")+1 {
						t.Fatalf("%d answers:\n%s", len(answers), said)
					}
					last := answers[len(answers)-1]
					if !strings.HasPrefix(last, fmt.Sprint(c.status)) || !strings.Contains(last, c.code) || !strings.Contains(last,
						"Connection: close") || ended > 10*time.Second {
						t.Errorf("want %d %s and the end; after %v:\n%s", c.status, c.code, ended, last)
					}
					if l.world.auth.CallsOf("hidden") != 0 {
						t.Error("the hidden request was carried out")
					}
				})
			}
		})
	}
}

// TestFramingIsForOurServer: requests on another server's connections are not trusted.
func TestFramingIsForOurServer(t *testing.T) {
	w := newWorld(t, nil)
	r := request("POST", "/token", `{"client_user_id":"a"}`, "Content-Type", asJSON)
	r.ContentLength, r.TransferEncoding = -1, []string{"chunked"}
	if got := w.do(r); got.status != 400 || w.calls() != 0 {
		t.Errorf("%d %s", got.status, got.raw)
	}
}

// FuzzFraming: a request is trusted if net/http reads it and exactly one thing in its head determines its length.
func FuzzFraming(f *testing.F) {
	for _, seed := range []string{
		plainGet("a") + plainPost("b"), chunkedPost("/token", chunks("abcdef", 4)) + plainGet("a"), "\r\n" + plainGet("a"),
		chunkedPost("/token", "0\r\nA: b\r\n\r\n") + plainGet("a"),
		chunkedPost("/token", chunks("a", 1), "Content-Length: 5"),
		"POST / HTTP/1.1\nHost: a\nContent-Length: 3\n\nabc" + plainGet("a"),
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc" + plainGet("a"),
		"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n \r\n\r\nabc" + plainGet("a"),
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n 3\r\n\r\nabc",
		chunkedPost("/", "3;a=b\r\nabc\r\n0\r\n\r\n") + plainGet("a"),
		chunkedPost("/", "3 \r\nabcd\r\n0\r\n\r\n") + plainGet("a"), "GET / HTTP/1.1\r\nHost: a\r\n b: c\r\n\r\n",
		plainPost("a") + "\r\r\n\n" + plainGet("a") + chunkedPost("/token", chunks("a", 1), "Content-Length: 5"),
	} {
		f.Add([]byte(seed), uint8(7))
	}
	telling := regexp.MustCompile(`(?i)\n(content-length|transfer-encoding):`)
	folded := regexp.MustCompile(`(?i)\n(content-length|transfer-encoding):[ \t\r]*\n`)
	f.Fuzz(func(t *testing.T, stream []byte, step uint8) {
		var framing framing
		for at := 0; at < len(stream); at += int(step) + 1 {
			framing.follow(stream[at:min(len(stream), at+int(step)+1)])
		}
		source := bytes.NewReader(stream)
		reader := bufio.NewReaderSize(source, len(stream)+16)
		offset := func() int { return len(stream) - source.Len() - reader.Buffered() }
		for n := int64(1); ; n++ { // like net/http's server
			if peek, _ := reader.Peek(4); n > 1 {
				_, _ = reader.Discard(len(peek) - len(bytes.TrimLeft(peek, "\r\n")))
			}
			begin := offset()
			r, err := http.ReadRequest(reader)
			if err != nil {
				return
			}
			head := stream[begin:offset()]
			chunked := r.TransferEncoding != nil || r.Header["Content-Length"] == nil && telling.Match(head)
			bad := len(telling.FindAll(head, -1)) > 1 || folded.Match(head) || chunked &&
				(r.ProtoMajor != 1 || r.ProtoMinor != 1)
			if vouched := framing.clean.Load() >= n; vouched == bad {
				t.Fatalf("request %d, vouched for: %v\n%q", n, vouched, head)
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil || bad {
				return
			}
		}
	})
}
