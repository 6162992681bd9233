package testbed

import (
	"crypto/tls"
	"io"
	"log"
	"net/http/httptest"
	"testing"

	"token-sidecar/upstream/sandbox"
)

// An Auth is the emulated auth service on a free port.
type Auth struct {
	*sandbox.Sandbox
	URL string
	// CAFile holds the certificate to trust, empty without TLS.
	CAFile string
}

// StartAuth starts one. It ends with the test.
func StartAuth(t testing.TB) *Auth {
	t.Helper()
	s := sandbox.New(sandbox.Options{})
	server := httptest.NewUnstartedServer(s)
	server.Listener = sandbox.Listen(server.Config, server.Listener)
	server.Start()
	t.Cleanup(server.Close)
	return &Auth{Sandbox: s, URL: server.URL}
}

// StartAuthTLS starts one that speaks HTTP/2 over TLS. It ends with the test.
func StartAuthTLS(t testing.TB) *Auth {
	t.Helper()
	cert, key := Certificate(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	s := sandbox.New(sandbox.Options{})
	server := httptest.NewUnstartedServer(s)
	server.Listener = sandbox.Listen(server.Config, server.Listener)
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // connections that a test breaks
	server.StartTLS()
	t.Cleanup(server.Close)
	return &Auth{Sandbox: s, URL: server.URL, CAFile: cert}
}

// Environ are the settings that use a, and more.
func (a *Auth) Environ(more ...string) []string {
	return append([]string{
		"HUMANAPI_AUTH_URL=" + a.URL, "HUMANAPI_CLIENT_ID=" + sandbox.DefaultClientID,
		"HUMANAPI_CLIENT_SECRET=" + sandbox.DefaultClientSecret, "HUMANAPI_CA_FILE=" + a.CAFile,
	}, more...)
}
