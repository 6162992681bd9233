package proxy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// doors are the ways to ask for a token in memory.
var doors = map[string]struct {
	fast    bool
	request string
}{
	"GET, net/http":  {false, plainGet("alice")},
	"POST, net/http": {false, plainPost("alice")},
	"GET, fast":      {true, plainGet("alice")},
	"POST, fast":     {true, plainPost("alice")},
}

// TestClocksThatDisagree: the wall clock is stepped, or the machine sleeps, which only the wall clock notices. No token
// is served inside its margin by either clock; a forward step costs a fetch, and a backward one nothing.
func TestClocksThatDisagree(t *testing.T) {
	const life, keepFor, renewal = time.Hour, 59 * time.Minute, 12 * time.Minute
	for name, door := range doors {
		for _, step := range []time.Duration{
			-24 * time.Hour, -time.Hour, -time.Second, 0, time.Second, 20 * time.Minute, keepFor, life, 24 * time.Hour,
		} {
			for _, passes := range []time.Duration{time.Second, 20 * time.Minute, 49 * time.Minute, keepFor, life} {
				t.Run(fmt.Sprintf("%s, step of %v, %v pass", name, step, passes), func(t *testing.T) {
					l := connect(t, door.fast, nil)
					defer l.close()
					l.world.auth.Set(sandbox.Mood{ExpiresIn: int(life.Seconds())})
					first := l.token(t, door.request)
					testbed.Until(t, "net/http is done with it", l.idle.Load)
					// As if that much time had passed on both clocks, and the wall clock had been stepped as well.
					entry := l.world.tokens.Former(l.world.broker.Key(mustParse(t, "alice")))
					entry.Sent = testbed.Stepped(entry.Sent.Add(-passes), -step)
					age, seen := passes+max(0, step), l.seen.Load()
					got := l.token(t, door.request)
					if same := got == first; same != (age < keepFor) {
						t.Errorf("at an age of %v the same token again: %v", age, same)
					}
					if calls := l.world.calls(); calls != 1 && age < keepFor-renewal {
						t.Errorf("%d calls", calls)
					}
					if door.fast && age < keepFor && l.seen.Load() != seen {
						t.Error("it was not answered on the fast path")
					}
				})
			}
		}
	}
}

// token asks for a token, and checks that expires_in does not exceed what is left of it.
func (l *line) token(t *testing.T, text string) string {
	t.Helper()
	if _, err := io.WriteString(l.Conn, text); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(l.Conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var answer struct {
		Token string `json:"access_token"`
		Life  int    `json:"expires_in"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%d: %v", res.StatusCode, err)
	}
	_, wall := sandbox.Inspect(answer.Token, "alice", time.Now())
	if left := time.Duration(answer.Life) * time.Second; left > wall {
		t.Errorf("expires_in is %v, but %v are left", left, wall)
	}
	return answer.Token
}
