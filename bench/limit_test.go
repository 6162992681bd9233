package bench

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// TestMemoryLimit: the chart's memory limit suffices for as many callers as MAX_CONCURRENT_REQUESTS admits, each with a
// user whose token is not cached.
func TestMemoryLimit(t *testing.T) {
	auth := testbed.StartAuth(t)
	// The last caller of a round waits for many before it to be answered.
	s, g := startSidecar(t, limited(t, chartLimit(t), program(t)), auth, "UPSTREAM_TIMEOUT=30s")
	auth.Set(sandbox.Mood{LatencyMS: int(authTakes.Milliseconds())})
	const callers = 4096
	for round := range 3 {
		users := make([]string, callers)
		for i := range users {
			users[i] = fmt.Sprint("user-", round, "-", i)
		}
		c := &contestant{name: "token-sidecar", target: g}
		c.run(t, Load{Conns: callers, Requests: requests(get, users)})
	}
	if r := s.Get("user-0-0", "Authorization", "Bearer "+callerToken); r.Status != http.StatusOK {
		t.Errorf("%d, %v", r.Status, r.Err)
	}
}

// TestFloodOfLongTokens: tokens of 100 KB for thousands of users also fit into the chart's memory limit, because the
// cache is bounded in bytes, not in number.
func TestFloodOfLongTokens(t *testing.T) {
	long := strings.Repeat("x", 100<<10)
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprintf(w, `{"access_token":%q,"expires_in":86400}`, long)
	}))
	defer auth.Close()
	s := testbed.LaunchBuilt(t, limited(t, chartLimit(t), program(t)), "HUMANAPI_AUTH_URL="+auth.URL,
		"HUMANAPI_CLIENT_ID=a", "HUMANAPI_CLIENT_SECRET=b")
	s.AwaitReady()
	const users, atOnce = 3000, 64
	var callers errgroup.Group
	callers.SetLimit(atOnce)
	for i := range 2 * users { // each is asked for twice
		callers.Go(func() error {
			if r := s.Get(fmt.Sprint("user-", i/2)); r.Status != http.StatusOK || len(r.Token) != len(long) {
				return fmt.Errorf("status %d, %w, a token of %d bytes", r.Status, r.Err, len(r.Token))
			}
			return nil
		})
	}
	if err := callers.Wait(); err != nil {
		t.Error(err)
	}
}

// chartLimit is the memory limit of the chart, in MiB.
func chartLimit(t *testing.T) int {
	t.Helper()
	values, err := os.ReadFile("../charts/token-sidecar/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`limits: \{memory: (\d+)Mi\}`).FindSubmatch(values)
	if found == nil {
		t.Fatal("the chart has no memory limit")
	}
	limit, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return limit
}

// limited returns the command for running path in a control group with that many MiB.
func limited(t *testing.T, mebi int, path string) []string {
	t.Helper()
	name := fmt.Sprint("token-sidecar-test-", os.Getpid())
	group, file := filepath.Join("/sys/fs/cgroup/memory", name), "memory.limit_in_bytes"
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		group, file = filepath.Join("/sys/fs/cgroup", name), "memory.max"
	}
	if err := os.Mkdir(group, 0o755); err != nil && !os.IsExist(err) {
		t.Skipf("the memory of one program can be limited only with control groups, which need root rights: %v", err)
	}
	t.Cleanup(func() { testbed.Until(t, "the control group is empty", func() bool { return os.Remove(group) == nil }) })
	if err := os.WriteFile(filepath.Join(group, file), []byte(strconv.Itoa(mebi<<20)), 0o600); err != nil {
		t.Skipf("the memory of one program can be limited only where the memory controller is on: %v", err)
	}
	return []string{"sh", "-c", `echo $$ > "$0"/cgroup.procs && exec "$1"`, group, path}
}
