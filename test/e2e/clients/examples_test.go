package clients

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// examples are the commands that run them.
func examples(t *testing.T) map[string][]string {
	t.Helper()
	testbed.Needs(t, "go", "node", debianPython, requestsFolder)
	program := filepath.Join(t.TempDir(), "example")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./examples/go")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return map[string][]string{
		"go": {program}, "java": compiled(t, "examples/java/Client.java"),
		"node": {"node", "examples/node/client.mjs"}, "python": {debianPython, "examples/python/client.py"},
	}
}

// A dataAPI emulates the data API, which accepts tokens of one user, and refuses the first ones.
type dataAPI struct {
	*httptest.Server
	user    string
	refuse  int
	replace func() string // called before the first token is refused; returns its replacement

	mu     sync.Mutex
	tokens []string // in order of arrival
	newer  string   // what replace returned
}

func newDataAPI(t *testing.T, user string, refuse int, replace func() string) *dataAPI {
	t.Helper()
	d := &dataAPI{user: user, refuse: refuse, replace: replace}
	d.Server = httptest.NewServer(d)
	t.Cleanup(d.Close)
	return d
}

// ServeHTTP implements [http.Handler].
func (d *dataAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tokens = append(d.tokens, token)
	mine, left := sandbox.Inspect(token, d.user, time.Now())
	if !mine || left <= 0 || len(d.tokens) <= d.refuse {
		if len(d.tokens) == 1 && d.replace != nil {
			d.newer = d.replace()
		}
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	_, _ = io.WriteString(w, `{"data":"`+r.URL.RequestURI()+`"}`)
}

// seen returns the received tokens, and the replacement of the first.
func (d *dataAPI) seen() (tokens []string, newer string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tokens, d.newer
}

// A running is a running example.
type running struct {
	cmd            *exec.Cmd
	stdout, stderr strings.Builder
}

// run starts an example with the sidecar and the data API at url.
func run(t *testing.T, url string, command, environ []string, args ...string) *running {
	t.Helper()
	limit, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	r := &running{cmd: exec.CommandContext(limit, command[0], append(command[1:], args...)...)}
	r.cmd.Env = append(os.Environ(), append([]string{
		"DATA_API_URL=" + url, "HTTP_PROXY=http://127.0.0.1:1", "http_proxy=http://127.0.0.1:1",
		"NO_PROXY=127.0.0.1", // the sidecar is at localhost
	}, environ...)...)
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return r
}

// wait waits for its end.
func (r *running) wait() (out, errs string, ok bool) {
	err := r.cmd.Wait()
	return strings.TrimSpace(r.stdout.String()), r.stderr.String(), err == nil
}

// silent returns the address of a server that accepts connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return "http://" + listener.Addr().String()
}

// TestExamples: each example asks for a token and uses it, and after a 401 forgets it by hash and asks once more.
func TestExamples(t *testing.T) {
	const user, path = "ann+b c&type=ü%2F", "/v1/human/activities?limit=2"
	const want = `{"data":"` + path + `"}`
	commands := examples(t)
	s := start(t)
	callerToken := testbed.WriteFile(t, "caller-token", "of the pod\n")
	guarded := testbed.StartSidecar(t, "HUMANAPI_AUTH_URL=http://127.0.0.1:8090", "HUMANAPI_CLIENT_ID=sandbox-client",
		"HUMANAPI_CLIENT_SECRET=sandbox-secret", "CALLER_TOKEN_FILE="+callerToken)
	guardedURL, nobody := "SIDECAR_URL=http://"+guarded.Addr, silent(t)
	var patient []*running // they time out while the others run
	for _, command := range commands {
		patient = append(patient, run(t, nobody, command, []string{"SIDECAR_URL=" + nobody}, user),
			run(t, nobody, command, nil, user))
	}
	for name, command := range commands {
		t.Run(name, func(t *testing.T) {
			for name, c := range map[string]struct {
				refuse  int  // how many tokens the data API refuses
				replace bool // whether another caller has replaced the first one meanwhile
				user    string
				environ []string
				errs    string // empty: it gets the data
				tokens  int    // how many it tries
				calls   int    // how many calls to the auth service that takes, if a token was cached
			}{
				"a good token":                       {user: user, tokens: 1},
				"a token that was revoked":           {user: user, refuse: 1, tokens: 2, calls: 1},
				"one that another caller replaced":   {user: user, refuse: 1, replace: true, tokens: 2, calls: 1},
				"only tokens that are refused":       {user: user, refuse: 9, tokens: 2, calls: 1, errs: "401"},
				"no token":                           {user: "unknown-" + name, calls: 1, errs: "UNKNOWN_CLIENT_USER_ID: there is no such user"},
				"a caller token":                     {user: user, refuse: 1, environ: []string{guardedURL, "CALLER_TOKEN_FILE=" + callerToken}, tokens: 2, calls: 1},
				"a caller token is missing":          {user: user, environ: []string{guardedURL}, errs: "CALLER_TOKEN_REQUIRED"},
				"the sidecar is not there, no proxy": {user: user, environ: []string{"SIDECAR_URL=http://localhost:9"}, errs: "refused|ConnectException|fetch failed"},
			} {
				t.Run(name, func(t *testing.T) {
					for _, warm := range []string{base, "http://" + guarded.Addr} {
						askFor(t, warm, user, callerToken, "")
					}
					var replace func() string
					if c.replace {
						replace = func() string { return askFor(t, base, user, callerToken, "no-cache") }
					}
					d, before := newDataAPI(t, user, c.refuse, replace), s.calls()
					out, errs, ok := run(t, d.URL, command, c.environ, c.user, path).wait()
					if good := c.errs == ""; ok != good || (out == want) != good || !good && out != "" ||
						!regexp.MustCompile(c.errs).MatchString(errs) {
						t.Errorf("%v\n%s\n%s", ok, out, errs)
					}
					tokens, newer := d.seen()
					if len(tokens) != c.tokens || len(tokens) == 2 && tokens[0] == tokens[1] {
						t.Errorf("%d tokens were tried", len(tokens))
					}
					if c.replace && (len(tokens) != 2 || tokens[1] != newer) {
						t.Error("the newer token was forgotten too")
					}
					if n := s.calls() - before; n != c.calls {
						t.Errorf("%d calls", n)
					}
				})
			}
			t.Run("the path is a default", func(t *testing.T) {
				out, errs, _ := run(t, newDataAPI(t, user, 0, nil).URL, command, nil, user).wait()
				if out != `{"data":"/v1/human/profile"}` {
					t.Errorf("%s\n%s", out, errs)
				}
			})
		})
	}
	for _, r := range patient {
		if out, errs, ok := r.wait(); ok || out != "" || !regexp.MustCompile("(?i)time-?d? ?out").MatchString(errs) {
			t.Errorf("%v, where nobody answers: %v %s %s", r.cmd.Args, ok, out, errs)
		}
	}
}

// askFor gets a token of user.
func askFor(t *testing.T, at, user, callerTokenFile, cacheControl string) string {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, at+"/token", nil)
	if err != nil {
		t.Error(err)
		return ""
	}
	req.URL.RawQuery = url.Values{"client_user_id": {user}}.Encode()
	req.Close = true
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(testbed.ReadFile(t, callerTokenFile)))
	req.Header.Set("Cache-Control", cacheControl)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer func() { _ = res.Body.Close() }()
	var body struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(res.Body).Decode(&body); err != nil {
		t.Error(err)
	}
	return body.AccessToken
}

// TestEveryExampleIsTested: the list here is complete.
func TestEveryExampleIsTested(t *testing.T) {
	files, err := filepath.Glob("examples/*/*")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"examples/go/main.go", "examples/java/Client.java", "examples/node/client.mjs", "examples/python/client.py",
	}
	if !slices.Equal(files, want) {
		t.Error(fmt.Sprint(files))
	}
}
