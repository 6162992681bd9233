package clients

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
)

// An ending is what a busy caller saw of the sidecar's shutdown.
type ending struct {
	client string
	since  time.Duration // time of the last token
	before string        // the Connection header of that answer
	status int           // of the first answer without a token; 0: there was none
	said   string        // the Connection header of that answer, or the error
}

// told reports whether the caller was told that the connection closes before it did. A caller that paused was not busy,
// and its connection is closed in the end.
func (e ending) told() bool {
	refused := strings.Contains(strings.ToLower(e.said), "refused") || strings.Contains(e.said, "ConnectException")
	switch {
	case e.status != 0:
		return e.status == http.StatusServiceUnavailable && e.said == "close"
	case refused && e.before == "close":
		return true
	default:
		return e.since > 400*time.Millisecond
	}
}

// busy starts callers of all kinds, which keep asking on open connections, and returns once they do. Their endings are
// available after the sidecar has ended.
func busy(t *testing.T) (endings <-chan ending) {
	t.Helper()
	const callers = 4 // in each language
	all, begun := make(chan ending, 100), make(chan bool, 100)
	var running sync.WaitGroup
	for name, command := range map[string][]string{
		"Node": {"node", scripts + "client.mjs"}, "Python": {debianPython, scripts + "client.py"},
		"Java": compiled(t, scripts+"Client.java"),
	} {
		testbed.Needs(t, command[0], requestsFolder)
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), command[0], append(command[1:], "busy", base)...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			for lines := bufio.NewScanner(out); lines.Scan(); {
				if lines.Text() == "busy" {
					begun <- true
					continue
				}
				fields := strings.SplitN(lines.Text(), "\t", 4)
				if len(fields) != 4 {
					t.Errorf("%s: %q", name, lines.Text())
					continue
				}
				since, _ := strconv.Atoi(fields[0])
				status, _ := strconv.Atoi(fields[2])
				all <- ending{name, time.Duration(since) * time.Millisecond, fields[1], status, fields[3]}
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	for range callers {
		running.Go(func() { all <- goBusy(begun) })
	}
	for range 4 * callers {
		select {
		case <-begun:
		case <-time.After(time.Minute):
			t.Fatal("not all of them got tokens")
		}
	}
	go func() {
		running.Wait()
		close(all)
	}()
	return all
}

// goBusy is such a caller in Go.
func goBusy(begun chan<- bool) ending {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	e := ending{client: "Go"}
	last := time.Now()
	for n := 1; ; n++ {
		req, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, base+"/token?client_user_id=busy", nil)
		res, err := transport.RoundTrip(req)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
		switch {
		case err != nil:
			e.since, e.said = time.Since(last), err.Error()
			return e
		case res.StatusCode != http.StatusOK:
			e.since, e.status, e.said = time.Since(last), res.StatusCode, connection(res)
			return e
		}
		last, e.before = time.Now(), connection(res)
		if n == 20 {
			begun <- true
		}
	}
}

// connection returns the Connection header, which net/http removes from a response.
func connection(res *http.Response) string {
	if res.Close {
		return "close"
	}
	return ""
}

// TestBusyCallersAtTheEnd: callers that keep asking on open connections are told that these close. None sees a reset.
func TestBusyCallersAtTheEnd(t *testing.T) {
	for name, environ := range map[string][]string{
		"at once": nil, "after SHUTDOWN_DELAY": {"SHUTDOWN_DELAY=2s"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, environ...)
			endings := busy(t)
			s.stop()
			n := 0
			for e := range endings {
				n++
				if !e.told() {
					t.Errorf("%+v", e)
				}
			}
			if code := s.wait(); n != 16 || code != 0 {
				t.Errorf("%d callers, exit code %d", n, code)
			}
		})
	}
}

// TestAnAppThatDrainsBesideTheSidecar: in a plain container both get SIGTERM at the same time. Until SHUTDOWN_DELAY has
// passed the app still gets tokens, on open connections and on new ones, but the pod gets no new traffic.
func TestAnAppThatDrainsBesideTheSidecar(t *testing.T) {
	s := start(t, "SHUTDOWN_DELAY=1h")
	kept := &http.Client{Transport: &http.Transport{}}
	defer kept.CloseIdleConnections()
	ask := func(user string) {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/token?client_user_id="+user, nil)
		res, err := kept.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		if _ = res.Body.Close(); res.StatusCode != http.StatusOK || res.Close {
			t.Errorf("%s: %s, close: %v", user, res.Status, res.Close)
		}
	}
	ask("before")
	s.stop()
	testbed.Eventually(t, "no new traffic is sent to the pod", func() error {
		status, _, err := fetch(http.MethodGet, admin+"/readyz", "")
		if err == nil && status != http.StatusServiceUnavailable {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
	for i := range 50 {
		ask("before")
		ask(fmt.Sprint("draining-", i))
	}
	for name, client := range clients(t) {
		for _, got := range client(t, base, []request{{"/v1/connect/token", asJSON, "", `{"client_user_id":"before"}`}}) {
			if got.status != http.StatusOK {
				t.Errorf("%s: %d %s", name, got.status, got.body)
			}
		}
	}
	if status, said, _ := fetch(http.MethodGet, admin+"/livez", ""); status != http.StatusOK {
		t.Errorf("livez: %d %s", status, said)
	}
	_ = s.cmd.Process.Signal(syscall.SIGKILL) // the end of the pod
}
