package testbed

import (
	"net/http/httptest"
	"testing"

	"token-sidecar/upstream/sandbox"
)

// An Auth is the emulated auth service on a free port.
type Auth struct {
	*sandbox.Sandbox
	URL string
}

// StartAuth starts one. It ends with the test.
func StartAuth(t testing.TB) *Auth {
	t.Helper()
	s := sandbox.New(sandbox.Options{})
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return &Auth{Sandbox: s, URL: server.URL}
}

// Environ are the settings that use a, and more.
func (a *Auth) Environ(more ...string) []string {
	return append([]string{
		"HUMANAPI_AUTH_URL=" + a.URL, "HUMANAPI_CLIENT_ID=" + sandbox.DefaultClientID,
		"HUMANAPI_CLIENT_SECRET=" + sandbox.DefaultClientSecret,
	}, more...)
}
