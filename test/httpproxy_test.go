package test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"

	"token-sidecar/internal/testbed"
)

// TestPlainHTTPGoesThroughNoProxy: it would read the client secret. However loopback is spelt, and with all variables
// that name a proxy.
func TestPlainHTTPGoesThroughNoProxy(t *testing.T) {
	auth := testbed.StartAuth(t)
	var asked atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(proxy.Close)
	there, err := url.Parse(auth.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "localhost", "LocalHost", "LOCALHOST", "::ffff:127.0.0.1"} {
		environ := auth.Environ("HUMANAPI_AUTH_URL=http://" + net.JoinHostPort(host, there.Port()))
		for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
			environ = append(environ, name+"="+proxy.URL)
		}
		s := testbed.StartSidecar(t, environ...)
		if r := s.Get("alice"); r.Status != http.StatusOK {
			t.Errorf("%s: %d %s", host, r.Status, r.Body)
		}
		if _, errs, code := tool(t, environ, "check"); code != 0 {
			t.Errorf("%s: check: exit %d, %s", host, code, errs)
		}
		if n := asked.Swap(0); n != 0 {
			t.Errorf("%s: the proxy was asked %d times", host, n)
		}
	}
}
