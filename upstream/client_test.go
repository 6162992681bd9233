package upstream

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
)

var anyRequest = Request{Path: ConnectPath, Type: "access", UserID: secret.Hide("alice")}

func newClient(t *testing.T, url string, change func(*Options)) *Client {
	t.Helper()
	opts := Options{
		URL: url, ClientID: "id", Secret: secret.Fixed("the-secret"), RefusalPause: time.Minute,
		MaxAttempts: 2, Timeout: 2 * time.Second,
	}
	if change != nil {
		change(&opts)
	}
	if opts.Transport == nil {
		transport := NewTransport(TransportOptions{})
		opts.Transport = transport
		t.Cleanup(transport.CloseIdleConnections)
	}
	return New(opts)
}

// TestTheSecretGoesNowhereElse: redirects are not followed, whatever their status.
func TestTheSecretGoesNowhereElse(t *testing.T) {
	var stolen atomic.Int32
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { stolen.Add(1) }))
	defer thief.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
			r *http.Request,
		) {
			http.Redirect(w, r, thief.URL, status)
		}))
		_, err := newClient(t, auth.URL, nil).Token(t.Context(), anyRequest)
		var e *Error
		if !errors.As(err, &e) || e.Kind != BadResponse {
			t.Errorf("%d: %v", status, err)
		}
		auth.Close()
	}
	if stolen.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

// TestAnswersThatAreNone: an answer that is neither a token nor a refusal is an error at once, whatever else it says or
// goes on to send: its body is not waited for, which no deadline would end after 101.
func TestAnswersThatAreNone(t *testing.T) {
	for name, head := range map[string]string{
		"another protocol":    "101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: a\r\n",
		"no status":           "099 a\r\nContent-Length: 99\r\n",
		"redirect":            "307 Temporary Redirect\r\nLocation: /\r\nContent-Length: 99\r\n",
		"redirect to nowhere": "302 Found\r\nLocation: http://[\r\nContent-Length: 99\r\n",
		"redirect without":    "308 Permanent Redirect\r\nContent-Length: 99\r\n",
		"not modified":        "304 Not Modified\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			url, _ := testbed.StartRawAuth(t, "HTTP/1.1 "+head+"\r\n")
			c := newClient(t, url, func(o *Options) { o.MaxAttempts, o.Timeout = 1, time.Minute })
			_, err := c.Token(t.Context(), anyRequest)
			if e, ok := errors.AsType[*Error](err); !ok || e.Kind != BadResponse {
				t.Error(err)
			}
		})
	}
}

// TestRotationCostsNothing: a refusal of a secret whose file has changed meanwhile is tried again at once.
func TestRotationCostsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	write := func(content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var right atomic.Value
	right.Store("old")
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if !strings.Contains(string(body), `"client_secret":"`+right.Load().(string)+`"`) {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"errorCode":"INVALID_CLIENT_ID_OR_SECRET"}`)
			return
		}
		_, _ = io.WriteString(w, `{"access_token":"x","expires_in":60}`)
	}))
	defer auth.Close()
	write("old")
	file, err := secret.Open("HUMANAPI_CLIENT_SECRET_FILE", path, nil, discard())
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, auth.URL, func(o *Options) { o.Secret = file })
	ask := func() error { _, err := c.Token(t.Context(), anyRequest); return err }
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	write("new")
	right.Store("new")
	if err := ask(); err != nil {
		t.Errorf("the first call after the rotation: %v", err)
	}
	right.Store("newest")
	if err := ask(); err == nil {
		t.Fatal("a wrong secret was accepted")
	}
	if s := c.State(); s.Paused != "client_refused" {
		t.Errorf("state %+v", s)
	}
	write("newest")
	file.Reload()
	file.Reload()
	if err := ask(); err != nil {
		t.Errorf("the pause does not end when the secret changes: %v", err)
	}
}

func TestTLS(t *testing.T) {
	auth := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"access_token":"x","expires_in":60}`)
	}))
	auth.TLS = &tls.Config{MaxVersion: tls.VersionTLS12}
	auth.Config.ErrorLog = silent()
	auth.StartTLS()
	defer auth.Close()
	own := NewTransport(TransportOptions{Roots: auth.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs})
	defer own.CloseIdleConnections()
	if _, err := newClient(t, auth.URL, func(o *Options) { o.Transport = own }).Token(t.Context(),
		anyRequest); err != nil {
		t.Errorf("with its own CA: %v", err)
	}
	_, err := newClient(t, auth.URL, nil).Token(t.Context(), anyRequest)
	var e *Error
	if !errors.As(err, &e) || e.Kind != Unavailable || !strings.Contains(e.Error(), "HUMANAPI_CA_FILE") {
		t.Errorf("an unknown CA: %v", err)
	}
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.Config.ErrorLog = silent()
	old.StartTLS()
	defer old.Close()
	oldRoots := NewTransport(TransportOptions{Roots: old.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs})
	defer oldRoots.CloseIdleConnections()
	if _, err := newClient(t, old.URL, func(o *Options) { o.Transport = oldRoots }).Token(t.Context(),
		anyRequest); !errors.As(err, &e) || e.Kind != Unavailable {
		t.Errorf("TLS 1.1: %v", err)
	}
}

func TestTransportErrorsTellWhatToDo(t *testing.T) {
	for url, part := range map[string]string{
		"http://127.0.0.1:1":            "refused",
		"http://no-such-host.invalid":   "host name not found",
		"http://[::1]:99999/bad-port-x": "connection failed",
	} {
		_, err := newClient(t, url, func(o *Options) { o.MaxAttempts = 1 }).Token(t.Context(), anyRequest)
		if err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "the-secret") {
			t.Errorf("%s: %v", url, err)
		}
	}
}
