package test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"token-sidecar/internal/app"
	"token-sidecar/internal/testbed"
)

// checked runs the check and returns what it found by name, and its exit code.
func checked(t *testing.T, environ []string, args ...string) (found map[string][]app.Finding, all string, code int) {
	t.Helper()
	out, errs, code := tool(t, environ, append([]string{"check", "--json"}, args...)...)
	var list []app.Finding
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v: %s%s", err, out, errs)
	}
	found = map[string][]app.Finding{}
	for _, f := range list {
		found[f.Check] = append(found[f.Check], f)
	}
	for _, secret := range []string{"hunter2", "sandbox-secret", "sbx."} { // the last one is the prefix of a token
		if strings.Contains(out+errs, secret) {
			t.Errorf("a secret is printed: %s%s", out, errs)
		}
	}
	return found, out, code
}

// expectFailures fails the test unless exactly the checks in want have failed, each for a reason that contains the
// given texts.
func expectFailures(t *testing.T, environ []string, want map[string][]string, args ...string) {
	t.Helper()
	found, all, code := checked(t, environ, args...)
	failures := 0
	for name, findings := range found {
		for _, f := range findings {
			if f.State != app.StateFailed {
				continue
			}
			failures++
			if want[name] == nil {
				t.Errorf("%s failed: %s", name, f.Says)
			}
		}
	}
	for name, texts := range want {
		for _, text := range texts {
			said := false
			for _, f := range found[name] {
				said = said || f.State == app.StateFailed && strings.Contains(f.Says, text)
			}
			if !said {
				t.Errorf("%s does not say %q in\n%s", name, text, all)
			}
		}
	}
	if (code != 0) != (len(want) > 0) {
		t.Errorf("exit code %d", code)
	}
}

// TestCheckPasses: what works is reported as working, to people and to programs, and nothing is left in Redis.
func TestCheckPasses(t *testing.T) {
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	environ := auth.Environ("REDIS_URL=" + redis.URL())
	expectFailures(t, environ, nil)
	out, errs, code := tool(t, environ, "check")
	for _, want := range []string{
		"settings", "auth service", "redis connect", "redis read", "redis write", "redis script", "redis publish",
	} {
		if !regexp.MustCompile(`(?m)^` + want + ` +OK\b`).MatchString(out) {
			t.Errorf("%s is not said to be OK:\n%s%s", want, out, errs)
		}
	}
	if code != 0 || errs != "" || !strings.Contains(out, "no token was asked for") || auth.Counts().Calls != 0 {
		t.Errorf("exit %d, %d calls: %s%s", code, auth.Counts().Calls, out, errs)
	}
	if names := redis.Client().Keys(t.Context(), "*").Val(); len(names) != 0 {
		t.Errorf("left in Redis: %q", names)
	}
	for _, args := range [][]string{{"--user", "alice"}, {"--type", "client"}, {"--user", "alice", "--type", "id_token"}} {
		calls := auth.Counts().Tokens
		expectFailures(t, environ, nil, args...)
		if auth.Counts().Tokens != calls+1 {
			t.Errorf("%q: no token was asked for", args)
		}
	}
	found, _, _ := checked(t, auth.Environ())
	if f := found["redis"]; len(f) != 1 || f[0].State != app.StateSkipped {
		t.Errorf("without Redis: %+v", found)
	}
	if _, errs, code := tool(t, environ, "check", "--type", "session"); code != 2 || !strings.Contains(errs, "--type") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

// TestCheckNamesWhatAnACLLacks: each command that docs/redis.md grants and the sidecar uses, one by one.
func TestCheckNamesWhatAnACLLacks(t *testing.T) {
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	rule := regexp.MustCompile(`(?m)^ +user token-sidecar on >password (.*)$`).
		FindStringSubmatch(testbed.ReadFile(t, "docs/redis.md"))
	if rule == nil {
		t.Fatal("docs/redis.md shows no user")
	}
	groups := map[string]string{
		"get": "read", "pttl": "read", "set": "write", "del": "write", "sadd": "write", "smembers": "write",
		"pexpire": "write", "eval": "script", "evalsha": "script", "time": "script", "publish": "publish",
		"subscribe": "publish", "ping": "connect",
	}
	environ := auth.Environ("REDIS_URL=redis://token-sidecar:hunter2@" + redis.Addr)
	grant := func(more ...string) {
		t.Helper()
		args := []any{"ACL", "SETUSER", "token-sidecar", "reset", "on", ">hunter2"}
		for _, word := range append(strings.Fields(rule[1]), more...) {
			args = append(args, word)
		}
		if err := redis.Client().Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	grant()
	expectFailures(t, environ, nil)
	for word := range strings.FieldsSeq(rule[1]) {
		command, granted := strings.CutPrefix(word, "+")
		group := groups[command]
		if granted && group == "" {
			switch command {
			case "unsubscribe", "hello", "auth", "cluster|slots", "cluster|shards", "readonly", "command": // the library's own
			case "spublish", "ssubscribe", "sunsubscribe": // only in a cluster, where they are optional
			default:
				t.Errorf("%s is granted, but nothing tries it", command)
			}
		}
		if group == "" {
			continue
		}
		grant("-" + command)
		want := strings.ToUpper(command) + ": NOPERM; grant its user +" + command + ", as docs/redis.md shows"
		expectFailures(t, environ, map[string][]string{"redis " + group: {want}})
	}
	grant("resetkeys", "~other:*")
	expectFailures(t, environ, map[string][]string{
		"redis read": {"GET, PTTL: NOPERM; grant its user ~token-sidecar:v2:*,"}, "redis write": {"SET, SADD, PEXPIRE, SMEMBERS, DEL: NOPERM; grant its user ~token-sidecar:v2:*,"},
		"redis script": {"EVAL, EVALSHA: NOPERM; grant its user ~token-sidecar:v2:*,"},
	})
	grant("resetchannels")
	expectFailures(t, environ, map[string][]string{"redis publish": {
		"PUBLISH, SUBSCRIBE: NOPERM; grant its user &token-sidecar:v2:news*,",
	}})
}

// TestCheckRedis: what can be wrong with Redis besides an ACL.
func TestCheckRedis(t *testing.T) {
	auth := testbed.StartAuth(t)
	master := testbed.StartRedis(t)
	host, port, _ := net.SplitHostPort(master.Addr)
	replica := testbed.StartRedis(t, "--replicaof", host+" "+port)
	locked := testbed.StartRedis(t, "--requirepass", "hunter22")
	full := testbed.StartRedis(t, "--maxmemory", "1", "--maxmemory-policy", "noeviction")
	mute, err := net.Listen("tcp", "127.0.0.1:0") // connects, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mute.Close() }()
	for name, c := range map[string]struct {
		setting string
		want    map[string][]string
	}{
		"replica":        {replica.URL(), map[string][]string{"redis write": {"SET, SADD, PEXPIRE, DEL: READONLY; "}}},
		"full":           {full.URL(), map[string][]string{"redis write": {"SET, SADD: OOM; "}}},
		"no password":    {locked.URL(), map[string][]string{"redis connect": {"NOAUTH"}}},
		"wrong password": {"redis://:hunter2@" + locked.Addr, map[string][]string{"redis connect": {"WRONGPASS"}}},
		"nobody there":   {"redis://" + testbed.FreeAddr(t), map[string][]string{"redis connect": {"PING: ", "check REDIS_URL"}}},
		"mute":           {"redis://" + mute.Addr().String(), map[string][]string{"redis connect": {"no answer within REDIS_TIMEOUT"}}},
		"no TLS there":   {"rediss://" + master.Addr, map[string][]string{"redis connect": {"PING: "}}},
	} {
		t.Run(name, func(t *testing.T) { expectFailures(t, auth.Environ("REDIS_URL="+c.setting), c.want) })
	}
}

// TestCheckAuth: what can be wrong with the auth service.
func TestCheckAuth(t *testing.T) {
	auth := testbed.StartAuth(t)
	foreign := httptest.NewTLSServer(http.NotFoundHandler())
	defer foreign.Close()
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mute.Close() }()
	for name, c := range map[string]struct {
		environ, args []string
		want          string
	}{
		"nobody there":      {[]string{"HUMANAPI_AUTH_URL=http://" + testbed.FreeAddr(t)}, nil, "check HUMANAPI_AUTH_URL"},
		"no such host":      {[]string{"HUMANAPI_AUTH_URL=https://no-such-host.invalid"}, nil, "check HUMANAPI_AUTH_URL"},
		"unknown authority": {[]string{"HUMANAPI_AUTH_URL=" + foreign.URL}, nil, "HUMANAPI_CA_FILE"},
		"mute":              {[]string{"HUMANAPI_AUTH_URL=http://" + mute.Addr().String(), "UPSTREAM_TIMEOUT=200ms"}, nil, "timeout"},
		"mute, --timeout": {
			[]string{"HUMANAPI_AUTH_URL=http://" + mute.Addr().String(), "UPSTREAM_TIMEOUT=10m", "UPSTREAM_MAX_ATTEMPTS=1"},
			[]string{"--timeout", "200ms"},
			"timeout",
		},
		"wrong secret": {[]string{"HUMANAPI_CLIENT_SECRET=hunter2"}, []string{"--user", "alice"}, "check HUMANAPI_CLIENT_ID"},
		"unknown user": {nil, []string{"--user", "unknown-alice"}, "UNKNOWN_CLIENT_USER_ID; the credentials were taken"},
	} {
		t.Run(name, func(t *testing.T) {
			found, _, _ := checked(t, auth.Environ(c.environ...), c.args...)
			if f := found["auth service"]; len(f) == 1 && strings.Contains(f[0].Says, "alice") {
				t.Errorf("it names the user: %s", f[0].Says)
			}
			expectFailures(t, auth.Environ(c.environ...), map[string][]string{"auth service": {c.want}}, c.args...)
		})
	}
	found, _, _ := checked(t, auth.Environ("HUMANAPI_CLIENT_SECRET=hunter2"))
	if f := found["auth service"]; len(f) != 1 || f[0].State != app.StateOK || !strings.Contains(f[0].Says, "no token was asked for") {
		t.Errorf("without --user the secret is not tried: %+v", f)
	}
}

// TestCheckFiles: all mistakes are reported at once, and what can still be tried is.
func TestCheckFiles(t *testing.T) {
	auth := testbed.StartAuth(t)
	bad := testbed.WriteFile(t, "bad", "no key, no certificate")
	environ := auth.Environ("HUMANAPI_CA_FILE="+bad, "REDIS_URL=redis://"+testbed.FreeAddr(t), "ENCRYPTION_KEYS_FILE="+bad,
		"AUDIT_KEY_FILE="+bad, "AUDIT_LOG=/no/such/folder/audit.log", "CALLER_TOKEN_FILE="+testbed.WriteFile(t, "empty", ""))
	expectFailures(t, environ, map[string][]string{
		"settings": {
			"HUMANAPI_CA_FILE: ", "ENCRYPTION_KEYS_FILE: line 1", "AUDIT_KEY_FILE: line 1", "AUDIT_LOG: ",
			"CALLER_TOKEN_FILE: ",
		},
		"redis connect": {"PING: "},
	})
	// With the system's certificates instead of those in the file, the check would test something else than serve.
	if found, all, _ := checked(t, environ); found["auth service"][0].State != app.StateSkipped {
		t.Error(all)
	}
	expectFailures(t, []string{"REDIS_TIMEOUT=never", "LOG_LEVEL=loud"}, map[string][]string{
		"settings": {"REDIS_TIMEOUT: ", "LOG_LEVEL: ", "HUMANAPI_CLIENT_ID: "},
	})
	trail := fmt.Sprint(t.TempDir(), "/audit.log")
	key := testbed.WriteFile(t, "key", auditKey)
	expectFailures(t, auth.Environ("AUDIT_LOG="+trail, "AUDIT_KEY_FILE="+key), nil)
}
