package testbed

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"token-sidecar/upstream/sandbox"
)

// An Auth is the emulated auth service on a free port.
type Auth struct {
	*sandbox.Sandbox
	URL string
	// CAFile contains the certificate to trust, empty without TLS.
	CAFile string

	protocols sync.Map
}

// StartAuth starts an Auth that speaks HTTP/1.1. It ends with the test.
func StartAuth(t testing.TB) *Auth {
	t.Helper()
	return startAuth(t, func(s *httptest.Server) { s.Start() })
}

// StartAuthTLS starts an Auth that speaks HTTP/2 over TLS. It ends with the test.
func StartAuthTLS(t testing.TB) *Auth {
	t.Helper()
	cert, key := Certificate(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	a := startAuth(t, func(s *httptest.Server) {
		s.EnableHTTP2 = true
		s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
		s.StartTLS()
	})
	a.CAFile = cert
	return a
}

func startAuth(t testing.TB, start func(*httptest.Server)) *Auth {
	a := &Auth{Sandbox: sandbox.New(sandbox.Options{})}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.protocols.Store(r.Proto, true)
		a.ServeHTTP(w, r)
	}))
	server.Listener = sandbox.Listen(server.Config, server.Listener)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // tests break connections
	start(server)
	t.Cleanup(server.Close)
	a.URL = server.URL
	return a
}

// Protocols returns the protocols that were used, such as HTTP/2.0.
func (a *Auth) Protocols() (names []string) {
	a.protocols.Range(func(name, _ any) bool {
		names = append(names, name.(string))
		return true
	})
	return names
}

// Environ returns the settings for using a, and more.
func (a *Auth) Environ(more ...string) []string {
	return append([]string{
		"HUMANAPI_AUTH_URL=" + a.URL, "HUMANAPI_CLIENT_ID=" + sandbox.DefaultClientID,
		"HUMANAPI_CLIENT_SECRET=" + sandbox.DefaultClientSecret, "HUMANAPI_CA_FILE=" + a.CAFile,
	}, more...)
}

// StartRawAuth starts an auth service that answers each call with these bytes as they are, and returns its URL. It ends
// with the test. left receives each time that the client has closed the connection.
func StartRawAuth(t testing.TB, answer string) (url string, left <-chan struct{}) {
	t.Helper()
	closed := make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, answer)
		_, _ = io.Copy(io.Discard, conn) // until the client closes
		select {
		case closed <- struct{}{}:
		default: // nobody has taken note of the one before
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, closed
}
