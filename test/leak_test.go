package test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// watchRedis records everything that Redis is sent, until the returned function is called.
func watchRedis(t *testing.T, addr string) (stop func() string) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("MONITOR\r\n")); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	if line, err := reader.ReadString('\n'); err != nil || line != "+OK\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	var all strings.Builder
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = reader.WriteTo(&all) })
	return func() string {
		_ = conn.Close()
		reading.Wait()
		return all.String()
	}
}

// TestNothingLeaks produces every outcome and then searches everything that the sidecars wrote for every secret, token
// and user id that was used, in every encoding.
func TestNothingLeaks(t *testing.T) {
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	stopWatching := watchRedis(t, redis.Addr)
	keys := testbed.WriteFile(t, "keys", base64.StdEncoding.EncodeToString([]byte("0123456789-encryption-key-012345")))
	trail := filepath.Join(t.TempDir(), "audit.log")
	environ := auth.Environ("AUDIT_LOG="+trail, "AUDIT_KEY_FILE="+testbed.WriteFile(t, "audit-key", auditKey),
		"REDIS_URL="+redis.URL(), "LOG_LEVEL=debug", "UPSTREAM_TIMEOUT=300ms", "BREAKER_FAILURES=3",
		"BREAKER_OPEN_FOR=100ms",
		"NEGATIVE_TTL=100ms", "ENCRYPTION_KEYS_FILE="+keys, "KEEP_REFRESH_TOKENS=true",
		"CALLER_TOKEN_FILE="+testbed.WriteFile(t, "caller", "the-caller-token-4711"))
	a, b := testbed.StartSidecar(t, environ...), testbed.StartSidecar(t, environ...)
	hidden := map[string]string{
		"client secret": sandbox.DefaultClientSecret, "caller token": "the-caller-token-4711",
		"encryption key": "0123456789-encryption-key-012345", "audit key": "0123456789-an-audit-key-01234567",
	}
	var told strings.Builder // the answers to callers, without tokens
	ask := func(s *testbed.Sidecar, user, more string, header ...string) {
		hidden["user "+user] = user
		r := s.Do("GET", "client_user_id="+url.QueryEscape(user)+more,
			append([]string{"Authorization", "Bearer the-caller-token-4711"}, header...)...)
		if r.Token != "" {
			hidden[fmt.Sprint("token ", len(hidden))] = r.Token
			_, rest, _ := strings.Cut(r.Body, `"refresh_token":"`)
			refresh, _, _ := strings.Cut(rest, `"`)
			hidden[fmt.Sprint("refresh token ", len(hidden))] = refresh
		} else {
			told.WriteString(r.Body)
		}
		fmt.Fprint(&told, r.Header)
	}
	for _, s := range []*testbed.Sidecar{a, b} {
		ask(s, "patient 4711/ü+ä", "")
		ask(s, "patient 4711/ü+ä", "", "Cache-Control", "no-cache")
		ask(s, "policy-0815-4242", "&type=id_token")
		ask(s, "policy-0815-4242", "&type=wrong")
		ask(s, "policy-0815-4242", "&policy-0815-4242=x")
		ask(s, "unknown-policy-99887766", "")
		ask(s, "forbidden-policy-99887766", "")
		ask(s, "policy-55443322", "", "X-Forwarded-For", "1.1.1.1")
		s.Do("DELETE", "client_user_id=policy-0815-4242", "Authorization", "Bearer the-caller-token-4711")
		for _, mood := range []sandbox.Mood{
			{Status: 500},
			{Fault: "html"},
			{Fault: "hang"},
			{Fault: "cut"},
			{Fault: "half"},
			{Status: 429, RetryAfter: "1"},
			{ClientSecret: "another-secret-1234"},
			{ClientSecret: sandbox.DefaultClientSecret},
		} {
			auth.Set(mood)
			ask(s, "policy-33445566", "")
		}
		auth.Set(sandbox.Mood{})
	}
	redis.Kill()
	ask(a, "policy-77777777", "", "Cache-Control", "no-cache")
	watched := stopWatching()
	redis.Start()
	if len(hidden) < 12 {
		t.Fatalf("only %d things to look for", len(hidden))
	}
	var dump strings.Builder
	client := redis.Client()
	for _, name := range client.Keys(t.Context(), "*").Val() {
		dump.WriteString(name + client.Get(t.Context(), name).Val())
	}
	config, _, _ := tool(t, environ, "config")
	a.Signal(15)
	a.Wait()
	for place, text := range map[string]string{
		"log": a.Log() + b.Log(), "metrics": b.Metrics(), "what callers are told": told.String(), "config": config,
		"traffic to Redis": watched, "Redis": "searched:" + dump.String(), "audit log": testbed.ReadFile(t, trail),
	} {
		nothingIn(t, place, text, hidden)
	}
	if !strings.Contains(watched, "token-sidecar:v2:") {
		t.Errorf("the traffic to Redis was not seen: %.300s", watched)
	}
}

func encodings(s string) map[string]string {
	all := map[string]string{
		"text": s, "hex": hex.EncodeToString([]byte(s)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(s))),
		"query": url.QueryEscape(s), "path": url.PathEscape(s), "quoted": strings.Trim(fmt.Sprintf("%+q", s), `"`), "bytes": strings.Trim(fmt.Sprintf("%d", []byte(s)), "[]"),
	}
	for shift := range 3 { // base64 depends on the position in a group of three
		padded := strings.Repeat("x", shift) + s
		for name, encoding := range map[string]*base64.Encoding{
			"base64":    base64.RawStdEncoding,
			"base64url": base64.RawURLEncoding,
		} {
			encoded := encoding.EncodeToString([]byte(padded))
			all[fmt.Sprint(name, shift)] = encoded[4 : len(encoded)-4]
		}
	}
	return all
}

func TestRefreshTokensAreKept(t *testing.T) {
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	keyFile := testbed.WriteFile(t, "keys", base64.StdEncoding.EncodeToString(make([]byte, 32)))
	environ := auth.Environ("REDIS_URL="+redis.URL(), "ENCRYPTION_KEYS_FILE="+keyFile, "KEEP_REFRESH_TOKENS=true")
	s := testbed.StartSidecar(t, environ...)
	refreshOf := func(r testbed.Reply) string {
		_, rest, _ := strings.Cut(r.Body, `"refresh_token":"`)
		token, _, _ := strings.Cut(rest, `"`)
		return token
	}
	expect := func(user, want string) {
		t.Helper()
		out, errs, code := tool(t, environ, "refresh-token", "--user", user)
		if code != 0 || strings.TrimSpace(out) != want || want == "" {
			t.Errorf("exit %d: %q %s; want %q", code, out, errs, want)
		}
	}
	mustGet(t, s, "alice")
	second := refreshOf(mustGet(t, s, "alice", "Cache-Control", "no-cache"))
	bob := refreshOf(mustGet(t, s, "bob"))
	expect("alice", second)
	expect("bob", bob)
	if out, errs, code := tool(t, environ, "refresh-token", "--user", "carol"); code != 1 || out != "" ||
		!strings.Contains(errs, "none was kept") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	// The key rotates: a new first line; the former one stays, for opening.
	rotated := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32))) + "\n" + testbed.ReadFile(t, keyFile)
	if err := os.WriteFile(keyFile, []byte(rotated), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("bob", bob)
	// Without expiry.
	client := redis.Client()
	kept := 0
	for _, name := range client.Keys(t.Context(), "*:refresh").Val() {
		kept++
		if left := client.TTL(t.Context(), name).Val(); left >= 0 {
			t.Errorf("kept for %v only", left)
		}
	}
	if kept != 2 {
		t.Errorf("%d kept", kept)
	}
	// What arrives while Redis is down is written when it is back.
	redis.Kill()
	carol := refreshOf(mustGet(t, s, "carol"))
	redis.Start()
	testbed.Until(t, "it is written", func() bool {
		out, _, code := tool(t, environ, "refresh-token", "--user", "carol")
		return code == 0 && strings.TrimSpace(out) == carol
	})
}

// TestSecretRotationUnderLoad: the file is replaced as Kubernetes does it, and the auth service accepts only the new
// secret from then on. No request fails.
func TestSecretRotationUnderLoad(t *testing.T) {
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	mount := t.TempDir()
	version := 0
	write := func(secret string) {
		t.Helper()
		version++
		dir := fmt.Sprint("..", version)
		for _, err := range []error{
			os.Mkdir(filepath.Join(mount, dir), 0o700),
			os.WriteFile(filepath.Join(mount, dir, "secret"), []byte(secret), 0o600),
			os.Symlink(dir, filepath.Join(mount, "..tmp")),
			os.Rename(filepath.Join(mount, "..tmp"), filepath.Join(mount, "..data")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	write(sandbox.DefaultClientSecret)
	if err := os.Symlink("..data/secret", filepath.Join(mount, "secret")); err != nil {
		t.Fatal(err)
	}
	environ := []string{
		"HUMANAPI_AUTH_URL=" + auth.URL, "HUMANAPI_CLIENT_ID=" + sandbox.DefaultClientID,
		"HUMANAPI_CLIENT_SECRET_FILE=" + filepath.Join(mount, "secret"), "REDIS_URL=" + redis.URL(),
	}
	fleet := []*testbed.Sidecar{testbed.StartSidecar(t, environ...), testbed.StartSidecar(t, environ...)}
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var asked atomic.Int64
	for i := range 6 {
		load.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				user := fmt.Sprint("user-", n%50)
				if n%3 == 0 {
					user = fmt.Sprint("cold-", i, "-", n)
				}
				if r := fleet[i%2].Get(user); r.Status != 200 {
					t.Errorf("status %d, %v: %s", r.Status, r.Err, r.Body)
				}
				asked.Add(1)
			}
		})
	}
	for i := range 3 {
		from := asked.Load()
		testbed.Until(t, "load", func() bool { return asked.Load() > from+300 })
		secret := fmt.Sprint("rotated-secret-", i)
		write(secret)
		auth.Set(sandbox.Mood{ClientSecret: secret})
		testbed.Until(t, "both have noticed", func() bool {
			return strings.Count(fleet[0].Log(), "secret file changed") > i && strings.Count(fleet[1].Log(),
				"secret file changed") > i
		})
	}
	stop()
	load.Wait()
}

// TestTheRestOfAnAnswerLeaksNothing: what the auth service sends beyond the length that it named, net/http writes to the
// standard logger.
func TestTheRestOfAnAnswerLeaksNothing(t *testing.T) {
	const token = "token-4711"
	answer := fmt.Sprintf(`{"access_token":%q,"expires_in":60}`, token)
	url, left := testbed.StartRawAuth(t,
		fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s%s", len(answer), answer, answer))
	s := testbed.StartSidecar(t, "HUMANAPI_AUTH_URL="+url, "HUMANAPI_CLIENT_ID=a", "HUMANAPI_CLIENT_SECRET=b")
	if r := s.Get("alice"); r.Token != token {
		t.Errorf("status %d: %s", r.Status, r.Body)
	}
	<-left
	if strings.Contains(s.Log(), token) {
		t.Errorf("the log has the token:\n%s", s.Log())
	}
	for line := range strings.Lines(s.Log()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not a line of the log: %s", line)
		}
	}
}
