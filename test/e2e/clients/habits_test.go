package clients

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"token-sidecar/internal/testbed"
)

const (
	// debianPython has Debian's requests package, which another python3 in PATH may lack.
	debianPython   = "/usr/bin/python3"
	requestsFolder = "/usr/lib/python3/dist-packages/requests"
	// scripts contains the clients in other languages.
	scripts = "test/e2e/clients/testdata/"
)

// compiled returns a command that runs the class Client in a Java file.
func compiled(t testing.TB, file string) (command []string) {
	t.Helper()
	testbed.Needs(t, "javac")
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "javac", "-d", dir, file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return []string{"java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", dir, "Client"}
}

// A request is a POST. Empty fields are not sent.
type request struct{ path, contentType, cacheControl, body string }

type answer struct {
	status int
	body   string
}

// A client makes requests one after the other, with bodies whose length it does not announce.
type client func(t testing.TB, base string, requests []request) []answer

// clients are those known to send chunked bodies.
//
// There are no Debian packages of Spring and .NET. Since 6.1 Spring writes through one of the JDK's two clients, in the
// modes that Client.java uses. What .NET sends is written here as its HttpConnection writes it.
func clients(t testing.TB) map[string]client {
	t.Helper()
	java := compiled(t, scripts+"Client.java")
	return map[string]client{
		"Node, http.request":              program("node", scripts+"client.mjs", "write"),
		"Node, fetch of a stream":         program("node", scripts+"client.mjs", "stream"),
		"Python, requests of a generator": program(debianPython, scripts+"client.py", "generator"),
		"Java, ofInputStream":             program(append(slices.Clone(java), "inputStream")...),
		"Java, HttpURLConnection":         program(append(slices.Clone(java), "urlConnection")...),
		"Go, io.Pipe":                     pipe,
		"curl":                            curl,
		".NET, JsonContent":               dotnet,
	}
}

// program is a client in another language. It reads one request per line, with tabs between the fields, and writes one
// answer per line.
func program(command ...string) client {
	return func(t testing.TB, base string, requests []request) []answer {
		t.Helper()
		testbed.Needs(t, command[0], requestsFolder)
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), command[0], append(command[1:], base)...)
		var lines strings.Builder
		for _, r := range requests {
			fmt.Fprintln(&lines, strings.Join([]string{r.path, r.contentType, r.cacheControl, r.body}, "\t"))
		}
		var stderr strings.Builder
		cmd.Stdin, cmd.Stderr = strings.NewReader(lines.String()), &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v\n%s", command, err, &stderr)
		}
		var answers []answer
		for line := range strings.Lines(string(out)) {
			status, body, _ := strings.Cut(strings.TrimSpace(line), "\t")
			code, _ := strconv.Atoi(status)
			answers = append(answers, answer{code, body})
		}
		return answers
	}
}

func pipe(t testing.TB, base string, requests []request) (answers []answer) {
	t.Helper()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for _, r := range requests {
		reader, writer := io.Pipe()
		go func() {
			_, err := io.WriteString(writer, r.body)
			_ = writer.CloseWithError(err)
		}()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+r.path, reader)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"Content-Type": r.contentType, "Cache-Control": r.cacheControl} {
			if value != "" {
				req.Header.Set(name, value)
			}
		}
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if _ = res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		answers = append(answers, answer{res.StatusCode, string(body)})
	}
	return answers
}

func curl(t testing.TB, base string, requests []request) (answers []answer) {
	t.Helper()
	testbed.Needs(t, "curl")
	for _, r := range requests {
		cmd := exec.CommandContext(t.Context(), "curl", "-sS", base+r.path, "-H", "Transfer-Encoding: chunked",
			"-H", "Content-Type: "+r.contentType, "-H", "Cache-Control: "+r.cacheControl, // empty: not sent
			"--data-binary", "@-", "-w", `\n%{http_code}`)
		cmd.Stdin = strings.NewReader(r.body)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.LastIndexByte(out, '\n')
		status, _ := strconv.Atoi(string(out[at+1:]))
		answers = append(answers, answer{status, string(out[:at])})
	}
	return answers
}

func dotnet(t testing.TB, base string, requests []request) (answers []answer) {
	t.Helper()
	at, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", at.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	reader := bufio.NewReader(conn)
	for _, r := range requests {
		head := "POST " + r.path + " HTTP/1.1\r\nHost: " + at.Host + "\r\n"
		if r.cacheControl != "" {
			head += "Cache-Control: " + r.cacheControl + "\r\n"
		}
		head += "Transfer-Encoding: chunked\r\n"
		if r.contentType != "" {
			head += "Content-Type: " + r.contentType + "; charset=utf-8\r\n"
		}
		// Head, content and end are flushed separately.
		for _, part := range []string{head + "\r\n", fmt.Sprintf("%X\r\n%s\r\n", len(r.body), r.body), "0\r\n\r\n"} {
			if _, err := io.WriteString(conn, part); err != nil {
				t.Fatal(err)
			}
		}
		res, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if _ = res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		answers = append(answers, answer{res.StatusCode, string(body)})
	}
	return answers
}

const asJSON = "application/json"

// habits are what clients of the auth service send. The access tokens are all for one user.
func habits() map[string]request {
	const connect, adminToken = "/v1/connect/token", "/v1/admin/token"
	return map[string]request{
		"the documentation's example": {adminToken, asJSON, "no-cache", `{"client_id":"sandbox-client","client_secret":"sandbox-secret","type":"client"}`},
		"plain":                       {connect, asJSON, "", `{"client_id":"sandbox-client","client_secret":"sandbox-secret","client_user_id":"4711","type":"access"}`},
		"no-cache":                    {connect, asJSON, "no-cache", `{"client_user_id":"4711","type":"access"}`},
		"null":                        {connect, asJSON, "", `{"client_id":null,"client_user_id":"4711","client_user_email":null,"extra_scopes":null,"type":"access"}`},
		"empty":                       {connect, asJSON, "", `{"client_id":"","client_secret":"","client_user_id":"4711","client_user_email":"","type":"access"}`},
		"an id that is a number":      {connect, asJSON, "", `{"client_user_id":4711,"type":"access"}`},
		"an email with type access":   {connect, asJSON, "", `{"client_user_id":"4711","client_user_email":"a@b.example","type":"access"}`},
		"no Content-Type":             {connect, "", "", `{"client_user_id":"4711","type":"access"}`},
	}
}

// TestEveryHabitOfEveryClient: whatever a client sends, and however localhost is spelt, it gets its token, and the auth
// service is asked once for each of the two tokens.
func TestEveryHabitOfEveryClient(t *testing.T) {
	s := start(t)
	all := habits()
	names := make([]string, 0, len(all))
	requests := make([]request, 0, len(all))
	for name, r := range all {
		names, requests = append(names, name), append(requests, r)
	}
	for name, ask := range clients(t) {
		t.Run(name, func(t *testing.T) {
			for _, addresses := range [][]string{{"::1"}, {"127.0.0.1", "::1"}} {
				localhost(t, addresses...)
				answers := ask(t, base, requests)
				if len(answers) != len(requests) {
					t.Fatalf("%d answers to %d requests", len(answers), len(requests))
				}
				for i, got := range answers {
					if name == "Java, HttpURLConnection" && requests[i].contentType == "" {
						// The client itself declares the body a form.
						if got.status != 400 || !strings.Contains(got.body, "send Content-Type: application/json") {
							t.Errorf("%s: %d %s", names[i], got.status, got.body)
						}
						continue
					}
					field := "access_token"
					if strings.Contains(requests[i].path, "admin") {
						field = "client_token"
					}
					var body map[string]any
					if err := json.Unmarshal([]byte(got.body), &body); got.status != 200 || err != nil || body[field] == nil {
						t.Errorf("localhost is %v, %s: %d %s", addresses, names[i], got.status, got.body)
					}
				}
			}
		})
	}
	if n := s.calls(); n != 2 {
		t.Errorf("%d calls", n)
	}
}

// TestTheClientsSendChunked: otherwise the test above would be about something else.
func TestTheClientsSendChunked(t *testing.T) {
	var mu sync.Mutex
	var framing []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		framing = append(framing, fmt.Sprint(r.TransferEncoding, r.Header["Content-Type"], r.Header["Cache-Control"]))
	}))
	defer server.Close()
	sent := []request{{"/", asJSON, "no-cache", "123456"}, {"/", "", "", "123456"}}
	for name, ask := range clients(t) {
		t.Run(name, func(t *testing.T) {
			framing = nil
			ask(t, server.URL, sent)
			want := []string{"[chunked] [application/json] [no-cache]", "[chunked] [] []"}
			if name == "Java, HttpURLConnection" {
				want[1] = "[chunked] [application/x-www-form-urlencoded] []"
			}
			for i := range framing {
				framing[i] = strings.ReplaceAll(framing[i], "; charset=utf-8", "")
			}
			if !slices.Equal(framing, want) {
				t.Errorf("%q", framing)
			}
		})
	}
}

// TestJSONAsAForm: curl declares what follows -d a form. The answer says what to do.
func TestJSONAsAForm(t *testing.T) {
	testbed.Needs(t, "curl")
	start(t)
	out, err := exec.CommandContext(t.Context(), "curl", "-sS", base+"/v1/connect/token", "-d",
		`{"client_user_id":"4711"}`).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "send Content-Type: application/json") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestCurlOptions: other ways to send the same, each twice on its connection, get the same answers. With an option,
// curl asks before it sends a long body, or offers HTTP/2.
func TestCurlOptions(t *testing.T) {
	testbed.Needs(t, "curl")
	s := start(t)
	body := `{"client_user_id":"4711","client_secret":"` + strings.Repeat("x", 12<<10) + `"}`
	for _, options := range []string{
		"-H Expect:100-continue", "-H Expect:100-continue -H Transfer-Encoding:chunked", "--http1.0", "--http2",
		"--tr-encoding", "--compressed", "-H Connection:close",
	} {
		args := append(strings.Fields(options), "-sS", "-w", `\n%{http_code}\n`, "-H", "Content-Type: application/json",
			"-d", body, base+"/v1/connect/token", base+"/v1/connect/token")
		out, err := exec.CommandContext(t.Context(), "curl", args...).CombinedOutput()
		if err != nil || strings.Count(string(out), "\n200\n") != 2 || strings.Count(string(out), "access_token") != 2 {
			t.Errorf("%s: %v: %s", options, err, out)
		}
	}
	if n := s.calls(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// TestBareGetWithHIP: today's customers need the client's token.
func TestBareGetWithHIP(t *testing.T) {
	testbed.Needs(t, "curl")
	s := start(t, "HUMANAPI_PRODUCT=hip")
	for range 2 {
		out, err := exec.CommandContext(t.Context(), "curl", "-sS", base+"/token").CombinedOutput()
		if err != nil || !strings.Contains(string(out), `"client_token":"`) {
			t.Errorf("%v: %s", err, out)
		}
	}
	if n := s.calls(); n != 1 {
		t.Errorf("%d calls", n)
	}
}
