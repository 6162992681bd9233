package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// marker represents something that identifies a user. It is valid in every place of a request: as a method, a path, the
// name of a header.
const marker = "marker4711x"

// marked are requests with the marker in every place that a caller can set, to every kind of URL.
func marked(addr string) (all []string) {
	const traceparent = "Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"
	request := func(method, target, body string, header ...string) {
		host := "Host: " + addr + "\r\n"
		if slices.ContainsFunc(header, func(line string) bool { return strings.HasPrefix(line, "Host:") }) {
			host = ""
		}
		if !slices.ContainsFunc(header, func(line string) bool { return strings.HasPrefix(line, "Traceparent:") }) {
			host += traceparent
		}
		if body != "" {
			header = append(header, fmt.Sprint("Content-Length: ", len(body)))
		}
		all = append(all, method+" "+target+" HTTP/1.1\r\n"+host+strings.Join(append(header, ""), "\r\n")+"\r\n"+body)
	}
	for _, target := range []string{
		"/token?client_user_id=" + marker, "/token?" + marker + "=" + marker, "/token?client_user_id=unknown-" + marker,
		"/token?client_user_id=a&type=" + marker, "/v1/connect/token?" + marker, "/v1/admin/token?client_user_id=" + marker,
		"/token/" + marker, "/" + marker, "//" + marker + "/token", "/%6darker4711x", "/token;" + marker, "/../" + marker,
		"/readyz/" + marker,
		"http://" + addr + "/" + marker, "http://" + marker + "/token?client_user_id=a",
	} {
		for _, method := range []string{"GET", "POST", "DELETE", "get", "PATCH", "HEAD", marker, strings.ToUpper(marker)} {
			request(method, target, "")
		}
	}
	request("OPTIONS", "*", "", "X-"+marker+": "+marker)
	json := "Content-Type: application/json"
	request("POST", "/token",
		`{"client_user_id":"`+marker+`","type":"session","client_user_email":"`+marker+`@example.com"}`, json)
	for _, path := range []string{"/token", "/v1/connect/token", "/v1/admin/token"} {
		request("POST", path, `{"client_user_id":"`+marker+`"}`, json)
		request("POST", path, `{"`+marker+`":"`+marker+`"}`, json)
		request("POST", path, `{"client_id":"`+marker+`","client_user_id":"forbidden-`+marker+`"}`, json)
		request("POST", path, "client_user_id="+marker, "Content-Type: application/x-www-form-urlencoded")
		request("POST", path, marker, "Content-Type: text/"+marker)
	}
	for _, header := range []string{
		"User-Agent: " + marker, "Tracestate: " + marker + "=" + marker, "Baggage: user=" + marker,
		"Baggage: " + marker + "=a;" + marker,
		"Host: " + marker, "Host: " + marker + ":1", "X-Forwarded-For: " + marker, "X-Forwarded-Host: " + marker,
		"Forwarded: for=" + marker,
		"X-Real-Ip: " + marker, "Origin: http://" + marker, "Referer: http://" + marker, "Cookie: a=" + marker,
		"Authorization: Bearer " + marker,
		"Authorization: Basic " + marker, "X-Request-Id: " + marker, "X-B3-Traceid: " + marker, "Uber-Trace-Id: " + marker,
		"Via: " + marker,
		"X-" + marker + ": " + marker, "Cache-Control: " + marker, "Accept: " + marker, "Expect: " + marker,
		"Sec-Fetch-Site: " + marker,
		"X-Rejected-Token-Hash: " + marker, "Upgrade: " + marker, "X-Http-Method-Override: " + marker,
		"X-Original-Url: /" + marker,
		"Traceparent: " + marker, "Traceparent: 01-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01-" + marker,
	} {
		for _, target := range []string{"/token?client_user_id=alice", "/token", "/v1/connect/token", "/nowhere"} {
			request("GET", target, "", header)
		}
		request("DELETE", "/token?client_user_id=alice", "", header)
		request("POST", "/v1/connect/token", `{"client_user_id":"alice"}`, json, header)
	}
	return all
}

// exchange sends a request as it is and returns the status of the answer.
func exchange(t *testing.T, addr, request string) int {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%v: %q", err, request)
	}
	_ = res.Body.Close()
	return res.StatusCode
}

// TestATraceHoldsNothingOfTheCaller: whatever a caller sends, only the id of its trace reaches the collector, and the
// auth service through trace headers.
func TestATraceHoldsNothingOfTheCaller(t *testing.T) {
	received := &collector{}
	server := httptest.NewServer(received)
	defer server.Close()
	redis := testbed.StartRedis(t)
	auth := testbed.StartAuth(t)
	var mu sync.Mutex
	var headers strings.Builder
	traced := 0
	spy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		_, _ = fmt.Fprintln(&headers, r.Method, r.URL, r.Host, r.Header)
		if r.Header.Get("Traceparent") != "" {
			traced++
		}
		mu.Unlock()
		auth.ServeHTTP(w, r)
	}))
	defer spy.Close()
	s := testbed.StartSidecar(t, auth.Environ("HUMANAPI_AUTH_URL="+spy.URL, "REDIS_URL="+redis.URL(),
		"OTEL_EXPORTER_OTLP_ENDPOINT="+server.URL)...)
	all := marked(s.Addr)
	answers := map[int]int{}
	for _, request := range all {
		answers[exchange(t, s.Addr, request)]++
	}
	auth.Set(sandbox.Mood{Status: 500})
	s.Get("failing-"+marker, "Tracestate", marker+"="+marker)
	redis.Kill() // errors quote commands
	s.Get("redis-is-down-"+marker, "Tracestate", marker+"="+marker)
	s.Signal(syscall.SIGTERM)
	s.Wait()

	received.mu.Lock()
	defer received.mu.Unlock()
	servers, names, routes, methods := 0, map[string]int{}, map[string]int{}, map[string]int{}
	for _, span := range received.spans {
		names[span.GetName()]++
		if span.GetKind().String() != "SPAN_KIND_SERVER" {
			continue
		}
		servers++
		for _, kv := range span.GetAttributes() {
			switch kv.GetKey() {
			case "http.route":
				routes[kv.GetValue().GetStringValue()]++
			case "http.request.method":
				methods[kv.GetValue().GetStringValue()]++
			}
		}
	}
	t.Logf("answers %v, names %v, routes %v, methods %v", answers, names, routes, methods)
	// What net/http itself refuses never reaches a span.
	if servers < len(all)*9/10 {
		t.Errorf("%d spans of %d requests", servers, len(all))
	}
	for _, route := range []string{"/token", "/v1/connect/token", "/v1/admin/token", "unknown"} {
		if routes[route] == 0 || len(routes) != 4 {
			t.Errorf("routes are %v", routes)
		}
	}
	if methods["_OTHER"] == 0 || methods["GET"] == 0 {
		t.Errorf("methods are %v", methods)
	}
	told := strings.ToLower(received.raw.String())
	if i := strings.Index(told, marker); i >= 0 {
		t.Errorf("the collector was sent the marker %d times, first in %q", strings.Count(told, marker),
			told[max(0, i-60):i+60])
	}
	mu.Lock()
	defer mu.Unlock()
	if traced == 0 {
		t.Error("the auth service was told of no trace")
	}
	for line := range strings.Lines(headers.String()) {
		for _, hidden := range []string{marker, "tracestate", "baggage"} {
			if strings.Contains(strings.ToLower(line), hidden) {
				t.Fatalf("the auth service was sent %q in a header: %s", hidden, line)
			}
		}
	}
}
