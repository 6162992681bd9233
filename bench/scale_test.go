package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// TestScale: the work of a Redis for fleets of several sizes, whose sidecars run in this process, each with its own
// connections. Fleets ten times as large are extrapolated, assuming that a sidecar costs as much as in the largest
// measured.
func TestScale(t *testing.T) {
	sizes := []int{10, 30, 100, 300, 1_000}
	if *scale > 1 {
		sizes = []int{10, 30}
	}
	lines := []Line{{Name: "a token, 2 ask"}, {Name: "a Redis hit"}, {Name: "a token, all ask"}, {Name: "extrapolated"}}
	var last scaleSeen
	for _, n := range sizes {
		last = seeScale(t, n)
		last.record(t, "")
		for i, commands := range []float64{last.token, last.hit, last.all * float64(n)} {
			lines[i].Points = append(lines[i].Points, Point{float64(n), commands})
		}
	}
	lines[3].Points = []Point{{float64(last.sidecars), last.all * float64(last.sidecars)}}
	last.sidecars = 10_000
	last.record(t, ", extrapolated")
	lines[3].Points = append(lines[3].Points, Point{10_000, last.all * 10_000})
	for i := range 2 {
		lines[i].Points = append(lines[i].Points, Point{10_000, lines[i].Points[len(sizes)-1].Y})
	}
	last.recordBreaks(t)
	draw(t, "performance-scale.svg", Plot{
		Title: "Commands of Redis over sidecars (10,000: extrapolated)", X: "sidecars",
		Y: "commands, those in scripts included", LogX: true, LogY: true, Lines: lines,
	})
}

// scaleSeen is the work of Redis for a fleet of that many sidecars.
type scaleSeen struct {
	sidecars int
	// token and hit are commands for a new token that two sidecars ask for at once, and for a hit; all is commands per
	// sidecar if all of them ask for the same new token at once.
	token, hit, all float64
	// Seconds of Redis' processor: for a hit, per sidecar if all of them ask, per sidecar for a forgotten token.
	hitCPU, allCPU, forgetCPU float64
	conns                     float64 // per sidecar
}

func (s scaleSeen) record(t *testing.T, how string) {
	t.Helper()
	row := fmt.Sprintf("| %d%s | %.3g | %.3g | %.3g | %.3g µs | %.3g µs | %.3g µs | %.3g |", s.sidecars, how, s.token, s.hit,
		s.all, s.hitCPU*1e6, s.allCPU*1e6, s.forgetCPU*1e6, s.conns)
	t.Log(row)
	testbed.Record(t, *recordTo, fmt.Sprint("scale-", s.sidecars), row)
}

// recordBreaks records at how many sidecars each limit of a single Redis is reached.
func (s scaleSeen) recordBreaks(t *testing.T) {
	t.Helper()
	const hitsPerSecond, forgottenPerSecond, step = 10. / 60, 10., .25
	type limit struct {
		name, what, assumed string
		at                  float64
	}
	limits := []limit{
		{
			"clients", "`maxclients`, 10,000 by default", "each sidecar keeps as many connections as here",
			10_000 / s.conns,
		},
		{
			"all", "the default REDIS_TIMEOUT, if all ask for one new token",
			"Redis does nothing else", step / s.allCPU,
		},
		{
			"forget", "one processor of Redis, for messages about forgotten tokens",
			"ten tokens are forgotten per second, and all sidecars are told", 1 / (forgottenPerSecond * s.forgetCPU),
		},
		{
			"hits", "one processor of Redis, for hits",
			"ten users per minute and sidecar whose token memory has evicted", 1 / (hitsPerSecond * s.hitCPU),
		},
	}
	for _, l := range limits {
		digits := math.Pow(10, math.Floor(math.Log10(l.at))-1) // two digits are enough
		row := fmt.Sprintf("| %s | %s | %.0f |", l.what, l.assumed, math.Round(l.at/digits)*digits)
		t.Log(row)
		testbed.Record(t, *recordTo, "scale-breaks-"+l.name, row)
	}
}

// seeScale starts a fleet and measures its Redis.
func seeScale(t *testing.T, n int) (seen scaleSeen) {
	t.Helper()
	auth, server := testbed.StartAuth(t), testbed.StartRedis(t, "--maxclients", "100000")
	client := server.Client()
	fleet := make([]*local, n)
	for i := range fleet {
		fleet[i] = newLocal(t, auth, server.URL(), time.Hour)
	}
	defer func() {
		for _, l := range fleet {
			l.handler.Close()
			l.tokens.Close()
		}
	}()
	inTurn := make([]func(), n)
	for i, l := range fleet {
		inTurn[i] = l.ask(t, "everybody")
	}
	users := names(scaled(2_000))
	var pairs, hits []func()
	for _, user := range users {
		three := rand.Perm(n)
		pairs = append(pairs, fleet[three[0]].ask(t, user), fleet[three[1]].ask(t, user))
		hits = append(hits, fleet[three[2]].ask(t, user))
	}
	for _, l := range fleet { // connections, scripts
		l.ask(t, "warm-up")()
	}
	auth.Set(sandbox.Mood{LatencyMS: int(authTakes.Milliseconds())})
	seen.sidecars = n
	commands, _ := redisWork(t, client, func() {
		for each := range slices.Chunk(pairs, 64) {
			atOnce(each)
		}
	})
	seen.token = commands / float64(len(users))
	commands, cpu := redisWork(t, client, func() {
		for _, ask := range hits {
			ask()
		}
	})
	seen.hit, seen.hitCPU = commands/float64(len(hits)), cpu/float64(len(hits))
	commands, cpu = redisWork(t, client, func() { atOnce(inTurn) })
	seen.all, seen.allCPU = commands/float64(n), cpu/float64(n)
	if calls := auth.CallsOf("everybody"); calls != 1 {
		t.Errorf("%d sidecars asked for one user: %d calls", n, calls)
	}
	if calls := auth.CallsOf(users[0]); calls != 1 {
		t.Errorf("%d sidecars: %d calls for a user", n, calls)
	}
	forget := fleet[0].serve(t, httptest.NewRequestWithContext(t.Context(), http.MethodDelete,
		"/token?client_user_id=everybody", nil))
	const times = 20
	_, cpu = redisWork(t, client, func() {
		for range times {
			forget()
		}
	})
	seen.forgetCPU = cpu / times / float64(n)
	seen.conns = infoNumber(t, client, "clients", "connected_clients") / float64(n)
	return seen
}

// atOnce runs all functions concurrently and waits for them.
func atOnce(all []func()) {
	var running sync.WaitGroup
	for _, do := range all {
		running.Go(do)
	}
	running.Wait()
}

// redisWork returns the commands and processor seconds that do costs a Redis.
func redisWork(t *testing.T, client *redis.Client, do func()) (commands, cpu float64) {
	t.Helper()
	used := func() float64 {
		return infoNumber(t, client, "cpu", "used_cpu_user") + infoNumber(t, client, "cpu", "used_cpu_sys")
	}
	commandsBefore, cpuBefore := redisCommands(t, client), used()
	do()
	return redisCommands(t, client) - commandsBefore, used() - cpuBefore
}

// redisCommands returns how many commands a Redis has run, including those in scripts, except those for setting up and
// checking connections.
func redisCommands(t *testing.T, client *redis.Client) (total float64) {
	t.Helper()
	for line := range strings.Lines(client.Info(t.Context(), "commandstats").Val()) {
		name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		if !ok || slices.Contains([]string{"info", "ping", "hello", "auth", "config|get"}, name) ||
			strings.HasPrefix(name, "client") || strings.HasPrefix(name, "command") {
			continue
		}
		digits, _, _ := strings.Cut(rest, ",")
		calls, err := strconv.ParseFloat(digits, 64)
		if err != nil {
			t.Fatal(err)
		}
		total += calls
	}
	return total
}

// infoNumber returns a number from the INFO of a Redis.
func infoNumber(t *testing.T, client *redis.Client, section, name string) float64 {
	t.Helper()
	for line := range strings.Lines(client.Info(t.Context(), section).Val()) {
		if digits, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			value, err := strconv.ParseFloat(digits, 64)
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	t.Fatalf("Redis does not tell its %s", name)
	return 0
}
