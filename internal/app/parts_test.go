package app

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"token-sidecar/cache"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/settings"
	"token-sidecar/internal/testbed"
	"token-sidecar/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestCertificatesRotate: if another authority issues the auth service's certificate, a new HUMANAPI_CA_FILE is enough.
func TestCertificatesRotate(t *testing.T) {
	var current atomic.Pointer[tls.Certificate]
	issue := func() (caFile string) {
		caFile, keyFile := testbed.Certificate(t)
		certificate, err := tls.LoadX509KeyPair(caFile, keyFile)
		if err != nil {
			t.Fatal(err)
		}
		current.Store(&certificate)
		return caFile
	}
	auth := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"access_token":"x","expires_in":3600}`)
	}))
	auth.EnableHTTP2 = true
	auth.TLS = &tls.Config{NextProtos: []string{"h2"}}
	auth.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{*current.Load()}, NextProtos: auth.TLS.NextProtos}, nil
	}
	auth.Config.ErrorLog = log.New(io.Discard, "", 0)
	caFile := issue()
	auth.StartTLS()
	defer auth.Close()

	s, err := settings.Load([]string{
		"HUMANAPI_AUTH_URL=" + auth.URL, "HUMANAPI_CLIENT_ID=id", "HUMANAPI_CLIENT_SECRET=the-client-secret",
		"HUMANAPI_CA_FILE=" + caFile,
	})
	if err != nil {
		t.Fatal(err)
	}
	parts, err := NewParts(s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer parts.Close()
	ask := func(user string) error {
		_, err := parts.Source.Token(t.Context(), upstream.Request{
			Path: upstream.ConnectPath, Type: "access",
			UserID: secret.Hide(user),
		})
		return err
	}
	reload := func() {
		parts.files.authRoots.Reload()
		parts.files.authRoots.Reload()
	}
	if err := ask("before"); err != nil {
		t.Fatal(err)
	}
	renewed, err := os.ReadFile(issue())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(caFile, []byte("-----BEGIN CERTIFICATE-----\nhalf-writ"), 0o600); err != nil {
		t.Fatal(err)
	}
	reload()
	if err := ask("on the connection that there is"); err != nil {
		t.Errorf("a file that holds no certificate was used: %v", err)
	}
	if err := os.WriteFile(caFile, renewed, 0o600); err != nil {
		t.Fatal(err)
	}
	reload()
	auth.CloseClientConnections()
	if err := ask("after"); err != nil {
		t.Error(err)
	}
}

// TestRedisCertificatesRotate: if another authority issues the certificate of Redis, a new REDIS_CA_FILE is enough.
func TestRedisCertificatesRotate(t *testing.T) {
	cert, key := testbed.Certificate(t)
	redis := testbed.StartTLSRedis(t, cert, key)
	caFile := testbed.WriteFile(t, "ca.pem", testbed.ReadFile(t, cert))
	s, err := settings.Load([]string{
		"HUMANAPI_CLIENT_ID=id", "HUMANAPI_CLIENT_SECRET=the-client-secret", "REDIS_URL=" + redis.URL(),
		"REDIS_CA_FILE=" + caFile, "REDIS_TIMEOUT=1s",
	})
	if err != nil {
		t.Fatal(err)
	}
	parts, err := NewParts(s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer parts.Close()
	is := func(want string) {
		t.Helper()
		testbed.Until(t, "Redis is "+want, func() bool {
			parts.Tokens.Look(t.Context(), cache.NewKey("u"))
			return parts.Tokens.Redis().State == want
		})
	}
	replace := func(file, content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reload := func() {
		parts.files.redisRoots.Reload()
		parts.files.redisRoots.Reload()
	}
	is("up")

	newCert, newKey := testbed.Certificate(t)
	redis.Kill()
	replace(cert, testbed.ReadFile(t, newCert))
	replace(key, testbed.ReadFile(t, newKey))
	redis.Start()
	is("down")
	replace(caFile, testbed.ReadFile(t, newCert))
	reload()
	is("up")

	replace(caFile, "-----BEGIN CERTIFICATE-----\nhalf-writ")
	reload()
	redis.Kill()
	redis.Start()
	is("up")
}

// TestBadCertificates: they are an error at start that names the setting.
func TestBadCertificates(t *testing.T) {
	for _, setting := range []string{"HUMANAPI_CA_FILE", "REDIS_CA_FILE"} {
		for name, content := range map[string]string{
			"empty": "", "no PEM": "certificate", "half": "-----BEGIN CERTIFICATE-----\nhalf-writ",
		} {
			s, err := settings.Load([]string{
				"HUMANAPI_CLIENT_ID=id", "HUMANAPI_CLIENT_SECRET=the-client-secret", "REDIS_URL=rediss://127.0.0.1:1",
				setting + "=" + testbed.WriteFile(t, "ca.pem", content),
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := NewParts(s, Options{}); err == nil || !strings.HasPrefix(err.Error(), setting+": ") {
				t.Errorf("%s, %s: %v", setting, name, err)
			}
		}
	}
}
