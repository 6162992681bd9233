package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/oauth2-proxy/oauth2-proxy/v7/pkg/apis/options"
	"github.com/oauth2-proxy/oauth2-proxy/v7/pkg/apis/sessions"
	"github.com/oauth2-proxy/oauth2-proxy/v7/pkg/sessions/persistence"
	sessionredis "github.com/oauth2-proxy/oauth2-proxy/v7/pkg/sessions/redis"
	"golang.org/x/oauth2"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// authTokens asks the auth service for the tokens of one user.
type authTokens struct {
	url, user string
}

// Token implements oauth2.TokenSource.
func (a authTokens) Token() (*oauth2.Token, error) {
	body, err := askAuth(context.Background(), http.DefaultClient, a.url, a.user)
	if err != nil {
		return nil, err
	}
	var got struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	if err := json.Unmarshal(body, &got); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	return &oauth2.Token{
		AccessToken: got.AccessToken, TokenType: got.TokenType,
		Expiry: time.Now().Add(time.Duration(got.ExpiresIn) * time.Second),
	}, nil
}

// askAuth asks the auth service at url for the token of user, and returns its answer.
func askAuth(ctx context.Context, client *http.Client, url, user string) ([]byte, error) {
	body, err := json.Marshal(map[string]string{
		"client_id": sandbox.DefaultClientID, "client_secret": sandbox.DefaultClientSecret, "type": "access",
		"client_user_id": user,
	})
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/connect/token", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("bench: the auth service answered %s", answer.Status)
	}
	return io.ReadAll(answer.Body)
}

// serveOAuth2 is what a team might write itself: a net/http handler with a map from users to ReuseTokenSources.
func serveOAuth2(addr, authURL string) {
	var mu sync.Mutex
	sources := map[string]oauth2.TokenSource{}
	server := &http.Server{Addr: addr, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer "+callerToken {
				http.Error(w, "caller token required", http.StatusUnauthorized)
				return
			}
			user := r.URL.Query().Get("client_user_id")
			mu.Lock()
			source := sources[user]
			if source == nil {
				source = oauth2.ReuseTokenSource(nil, authTokens{authURL, user})
				sources[user] = source
			}
			mu.Unlock()
			token, err := source.Token()
			if err != nil {
				http.Error(w, "no token", http.StatusBadGateway)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Cache-Control", "no-store")
			_ = json.NewEncoder(w).Encode(map[string]any{
				"access_token": token.AccessToken, "token_type": token.TokenType,
				"expires_in": int(time.Until(token.Expiry).Seconds()),
			})
		})}
	_ = server.ListenAndServe()
}

// haproxyConf puts HAProxy in the place of the sidecar. HAProxy caches answers to GET but cannot make the POST that the
// auth service requires, so it needs a translator. It also caches nothing for a request with an Authorization header,
// which is therefore checked and removed.
const haproxyConf = `
global
  maxconn 4000
  nbthread %[1]d
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1m
  timeout http-keep-alive 1h
cache tokens
  total-max-size 64
  max-object-size 4096
  max-age 82800
frontend tokens
  bind %[2]s backlog 4096
  http-request deny deny_status 401 unless { req.hdr(Authorization) -m str "Bearer %[3]s" }
  http-request del-header Authorization
  http-request cache-use tokens
  http-response cache-store tokens
  http-after-response set-header Cache-Control no-store
  default_backend auth
backend auth
  http-response set-header Cache-Control max-age=82800
  server auth %[4]s
`

// startHAProxy starts HAProxy, with the translator between it and the auth service.
func startHAProxy(t testing.TB, auth *testbed.Auth) target {
	t.Helper()
	testbed.Needs(t, "haproxy")
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	client := &http.Client{Transport: transport}
	translator := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := askAuth(r.Context(), client, auth.URL, r.URL.Query().Get("client_user_id"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}))
	t.Cleanup(func() {
		translator.Close()
		transport.CloseIdleConnections()
	})
	addr := testbed.FreeAddr(t)
	conf := fmt.Sprintf(haproxyConf, runtime.NumCPU(), addr, callerToken, translator.Listener.Addr())
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "haproxy", "-db", "-q", "-f",
		testbed.WriteFile(t, "haproxy.cfg", conf))
	startProcess(t, cmd, addr)
	return target{addr: addr, pids: []int{cmd.Process.Pid}}
}

// startLimit starts the minimum that a server can do: the bytes of an answer over epoll, in C.
func startLimit(t testing.TB) target {
	t.Helper()
	testbed.Needs(t, "cc")
	path := filepath.Join(t.TempDir(), "limit")
	compile := exec.CommandContext(t.Context(), "cc", "-O2", "-pthread", "-o", path, "testdata/limit.c")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	addr := testbed.FreeAddr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nCache-Status: %s\r\n"+
		"Content-Type: application/json\r\nDate: %s\r\nContent-Length: %d\r\n\r\n%s",
		cannedStatus, time.Now().UTC().Format(http.TimeFormat), len(cannedBody), cannedBody)
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), path, port, strconv.Itoa(runtime.NumCPU()),
		testbed.WriteFile(t, "answer", answer))
	startProcess(t, cmd, addr)
	return target{addr: addr, pids: []int{cmd.Process.Pid}}
}

// oauth2ProxySessions returns functions that each load one session as oauth2-proxy does for a request with its cookie:
// from Redis, decrypted with the key in the cookie. It has no memory cache.
func oauth2ProxySessions(t *testing.T, url string, n int) (all []func()) {
	t.Helper()
	cookie := &options.Cookie{
		Name: "_oauth2_proxy", Secret: "0123456789abcdef0123456789abcdef", Path: "/", Expire: 24 * time.Hour,
	}
	store, err := sessionredis.NewRedisSessionStore(&options.SessionOptions{
		Redis: options.RedisStoreOptions{ConnectionURL: url},
	}, cookie)
	if err != nil {
		t.Fatal(err)
	}
	if manager, ok := store.(*persistence.Manager); ok {
		if kept, ok := manager.Store.(*sessionredis.SessionStore); ok {
			if client, ok := kept.Client.(io.Closer); ok {
				t.Cleanup(func() { _ = client.Close() })
			}
		}
	}
	for _, user := range names(n) {
		r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/", nil)
		w := httptest.NewRecorder()
		session := &sessions.SessionState{AccessToken: cannedBody, User: user}
		session.SetExpiresOn(time.Now().Add(24 * time.Hour))
		if err := store.Save(w, r, session); err != nil {
			t.Fatal(err)
		}
		for _, c := range w.Result().Cookies() {
			r.AddCookie(c)
		}
		all = append(all, func() {
			if got, err := store.Load(r); err != nil || got.AccessToken != cannedBody {
				t.Error(err)
			}
		})
	}
	return all
}
