package fastpath

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/textproto"
	"os"
	"regexp"
	"slices"
	"testing"
)

// FuzzRequest: a plain request means the same to net/http, and the end of a request is never ambiguous.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"GET /token?client_user_id=alice HTTP/1.1\r\nHost: localhost:8080\r\nAuthorization: Bearer x\r\nAccept: */*\r\n\r\nGET /",
		"POST /token HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\nConnection: keep-alive\r\n\r\n{}",
		"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{",
		"POST /token HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"DELETE /token?client_user_id=alice HTTP/1.1\r\nHost: localhost\r\nX-Rejected-Token-Hash: 00\r\n\r\n",
		"GET /token?client_user_id=alice HTTP/1.1\nHost: localhost\n\n",
		"GET /token? HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
		"GET /token?a HTTP/1.1\r\nHost: localhost\r\nPragma: no-cache\r\n\r\n",
		"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
		"GET /token?a HTTP/1.1\r\nHost: localhost\r\nAccept: a\r\n Origin: b\r\n\r\n",
		"GET /token?a HTTP/1.1\r\nHost:  localhost \r\nContent-Length: 0\r\n\r\n",
		"GET token HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /token HTTP/1.1\r\nAccept: a\r\n\r\n",
		"GET /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\r\n",
		"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
		"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\r\n{}",
		"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
		"GET /token HTTP/1.1\r\nHost: localhost\r\nCONTENT-LENGTH: 2\r\n\r\n{}",
		"GET /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
		"DELETE /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}abc",
		"GET /token HTTP/1.1\r\nHost: localhost\r\nAccept: \x01\r\n\r\n",
		"GET /token HTTP/1.1\r\nHost: localhost.\nAccept: a\r\n\r\n",
		"GET /token?a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 3\r\nContent-Length: 2\r\n\r\n{}",
		"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
		"GET /token HTTP/1.0\r\nHost: localhost\r\n\r\n",
		"GET /token HTTP/1.1\r\nHost: localhost\r\nAccept : a\r\n\r\n",
		"GET /token HTTP/1.1\r\nHost: localhost\r\nX Y: a\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	meaningless := []string{
		"Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Baggage", "Connection", "Content-Length",
		"Content-Type", "Host",
		"Sec-Fetch-Mode", "Traceparent", "Tracestate", "User-Agent",
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, size, plain := readRequest(b)
		if size == 0 {
			if plain {
				t.Fatal("plain, and of unknown size")
			}
			return
		}
		source := bytes.NewReader(b)
		buffer := bufio.NewReaderSize(source, len(b)+16)
		r, err := http.ReadRequest(buffer)
		if err != nil {
			if plain {
				t.Fatalf("plain, and to net/http: %v", err)
			}
			return // it closes the connection
		}
		body, err := io.ReadAll(r.Body)
		whole := size <= len(b)
		if whole != (err == nil) || whole && buffer.Buffered()+source.Len() != len(b)-size {
			t.Fatalf("it is %d of %d bytes, and net/http left %d: %v", size, len(b), buffer.Buffered()+source.Len(), err)
		}
		if !plain {
			return
		}
		if r.Method != got.Method || r.URL.EscapedPath() != string(got.Path) || r.URL.RawQuery != string(got.Query) ||
			r.Host == "" || r.Host != string(got.Host) ||
			string(body) != string(got.Body) || r.Close || r.ProtoMinor != 1 || r.TransferEncoding != nil {
			t.Fatalf("%+v is, to net/http, %+v %q", got, r, body)
		}
		for name, value := range map[string][]byte{"Authorization": got.Authorization, "Content-Type": got.ContentType} {
			if r.Header.Get(name) != string(value) || len(r.Header[name]) > 1 || (value != nil) != (len(r.Header[name]) == 1) {
				t.Fatalf("%s: %q is, to net/http, %q", name, value, r.Header[name])
			}
		}
		if known := got.Method == http.MethodPost; known != (r.Header["Content-Length"] != nil) {
			t.Fatalf("%s with Content-Length %q", got.Method, r.Header["Content-Length"])
		}
		for name := range r.Header {
			if !slices.Contains(meaningless, textproto.CanonicalMIMEHeaderKey(name)) {
				t.Errorf("%s passes for nothing", name)
			}
		}
	})
}

// TestPrintable: each byte counts, wherever it is and whatever is beside it.
func TestPrintable(t *testing.T) {
	for size := range 18 {
		for at := range size {
			for _, others := range []byte{' ', '~'} {
				for c := range 256 {
					b := bytes.Repeat([]byte{others}, size)
					b[at] = byte(c)
					if got, want := printable(b), c >= ' ' && c <= '~'; got != want {
						t.Fatalf("%q: %v", b, got)
					}
				}
			}
		}
	}
	if !printable(nil) {
		t.Error("nothing is not printable")
	}
}

// TestCheckedWithGo: before the Go version is raised, the fast path must be checked.
func TestCheckedWithGo(t *testing.T) {
	find := func(file, expression string) string {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(expression).FindSubmatch(content)
		if found == nil {
			t.Fatalf("%s names no version", file)
		}
		return string(found[1])
	}
	checked, used := find("../../docs/fastpath.md", `Checked with Go (\d+\.\d+)`),
		find("../../go.mod", `(?m)^go (\d+\.\d+)`)
	if checked != used {
		t.Errorf("go.mod says Go %s, but the fast path was checked with %s: see docs/fastpath.md", used, checked)
	}
}
