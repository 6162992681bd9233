package cache

import (
	"crypto/x509"
	"log/slog"
	"testing"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
)

// rootsOf trusts the certificates in a file.
func rootsOf(t testing.TB, file string) func() *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(testbed.ReadFile(t, file))) {
		t.Fatal("no certificate")
	}
	return func() *x509.CertPool { return pool }
}

// passwordFile is a file with that password.
func passwordFile(t testing.TB, password string) *secret.File {
	t.Helper()
	file, err := secret.Open("REDIS_PASSWORD_FILE", testbed.WriteFile(t, "password", password), nil,
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// TestSentinelOverTLS: the certificate of each server is checked against its own address, and each gets its own
// password.
func TestSentinelOverTLS(t *testing.T) {
	for name, c := range map[string]struct {
		masterHost string
		works      bool
	}{
		"the master's certificate is its own":        {"127.0.0.1", true},
		"the master's certificate is the sentinel's": {"127.0.0.2", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := testbed.StartTLSSentinel(t, c.masterHost)
			for how, at := range map[string]Server{
				"password in a file":  {URL: secret.Hide(s.URL), Password: passwordFile(t, s.MasterPassword)},
				"password in the URL": {URL: secret.Hide(s.URL + "&password=" + s.MasterPassword)},
			} {
				at.Mode, at.Roots = "sentinel", rootsOf(t, s.CAFile)
				_, err := newCacheOn(t, at).shared.look(t.Context(), NewKey("u"))
				if (err == nil) != c.works {
					t.Errorf("%s: %v", how, err)
				}
			}
		})
	}
}

// TestNodesOfAClusterOverTLS: a node that is known only by its address is checked against the name in the URL.
func TestNodesOfAClusterOverTLS(t *testing.T) {
	for name, c := range map[string]struct {
		certified, inURL string
		works            bool
	}{
		"the name in the URL":    {"localhost", "localhost", true},
		"the address in the URL": {"127.0.0.1", "127.0.0.1", true},
		"another name":           {"example.test", "localhost", false},
		"another address":        {"127.0.0.2", "127.0.0.1", false},
	} {
		t.Run(name, func(t *testing.T) {
			cert, key := testbed.Certificate(t, c.certified)
			url := testbed.StartTLSClusterNode(t, cert, key, c.inURL)
			at := Server{URL: secret.Hide(url), Mode: "cluster", Roots: rootsOf(t, cert)}
			_, err := newCacheOn(t, at).shared.look(t.Context(), NewKey("u"))
			if (err == nil) != c.works {
				t.Errorf("%v", err)
			}
		})
	}
}
