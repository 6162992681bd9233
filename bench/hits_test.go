package bench

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
)

// contestant is one server under one kind of load.
type contestant struct {
	name string
	target
	ask  func(string) []byte
	last struct {
		throughput float64
		cpu        float64 // processor seconds per request
		res        Result
	}
}

// run puts c under load.
func (c *contestant) run(t *testing.T, l Load) Result {
	t.Helper()
	l.Addr = c.addr
	before := c.cpu(t)
	res, err := l.Run()
	if err != nil || res.Failures > 0 || len(res.Latencies) == 0 {
		t.Fatalf("%s: %v, %d of %d failed: %s", c.name, err, res.Failures, len(res.Latencies), res.Sample)
	}
	c.last.res, c.last.throughput = res, res.Throughput()
	c.last.cpu = (c.cpu(t) - before).Seconds() / float64(len(res.Latencies))
	return res
}

// TestHits: tokens in memory, compared with what one would use instead. Servers and load share the processors.
func TestHits(t *testing.T) {
	h := startHits(t)
	peak := h.compare(t)
	drawThroughput(t, peak, h.bare, h.ours, h.nginx, h.oauth2, h.haproxy)
	drawLoad(t, peak, h.bare, h.ours, h.nginx)
}

// hits are the servers that are compared.
type hits struct {
	auth                                             *testbed.Auth
	bare, barePost, ours, oursPost, nginx, nginxPost *contestant
	tuned, oauth2, haproxy, limit                    *contestant
}

// startHits starts each server.
func startHits(t *testing.T) *hits {
	t.Helper()
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	// A server is idle while it is the others' turn. By default, the sidecar would then ask Redis again for part of
	// what memory holds, far more than a sidecar under constant load.
	_, ours := startSidecar(t, []string{program(t)}, auth, "REDIS_URL="+redis.URL(), "MEMORY_CACHE_TTL=1h")
	nginx, bare := startNginx(t, auth, ""), startBare(t)
	return &hits{
		auth:      auth,
		bare:      &contestant{name: "bare net/http", target: bare, ask: get},
		barePost:  &contestant{name: "bare net/http, POST", target: bare, ask: post},
		ours:      &contestant{name: "token-sidecar", target: ours, ask: get},
		oursPost:  &contestant{name: "token-sidecar, POST", target: ours, ask: post},
		nginx:     &contestant{name: "nginx", target: nginx, ask: get},
		nginxPost: &contestant{name: "nginx, POST", target: nginx, ask: post},
		tuned:     &contestant{name: "nginx, files kept open", target: startNginx(t, auth, keepFiles), ask: get},
		oauth2:    &contestant{name: "x/oauth2", target: startServer(t, "oauth2", auth.URL), ask: get},
		haproxy:   &contestant{name: "HAProxy", target: startHAProxy(t, auth), ask: get},
		limit:     &contestant{name: "limit", target: startLimit(t), ask: get},
	}
}

func (h *hits) all() []*contestant {
	return []*contestant{
		h.bare, h.barePost, h.ours, h.oursPost, h.nginx, h.nginxPost, h.tuned, h.oauth2, h.haproxy, h.limit,
	}
}

// A ratio is computed in each round for a goal.
type ratio struct {
	*goal
	now func() float64
}

// ratios are those to compute from the latest loads.
func (h *hits) ratios() []ratio {
	throughput := func(name, against string, limit float64, ours, other *contestant) ratio {
		return ratio{
			&goal{name: name, what: "memory hit, requests per second", against: against, limit: limit},
			func() float64 { return ours.last.throughput / other.last.throughput },
		}
	}
	cpu := func(name, against string, limit float64, other *contestant) ratio {
		return ratio{
			&goal{name: name, what: "processor time per hit", against: against, limit: limit, atMost: true},
			func() float64 { return h.ours.last.cpu / other.last.cpu },
		}
	}
	return []ratio{
		throughput("bare", "bare net/http handler, GET", 1.3, h.ours, h.bare),
		throughput("bare-post", "bare net/http handler, POST", 1.3, h.oursPost, h.barePost),
		throughput("get", "nginx, GET", 1.15, h.ours, h.nginx),
		throughput("post", "nginx, POST", 1.15, h.oursPost, h.nginxPost),
		throughput("tuned", "nginx, GET, open_file_cache", 1, h.ours, h.tuned),
		throughput("oauth2", "x/oauth2 in a handler, GET", 1.3, h.ours, h.oauth2),
		throughput("haproxy", "HAProxy, GET", 0, h.ours, h.haproxy),
		cpu("cpu", "nginx, GET", 1, h.nginx),
		cpu("limit", "canned bytes over epoll, in C", 1.5, h.limit),
	}
}

// compare loads all servers in turns, records their ratios, and returns the throughput of the bare handler.
func (h *hits) compare(t *testing.T) float64 {
	t.Helper()
	all := h.all()
	p99 := &goal{
		name: "p99", what: "p99 at half the peak rate, 10,000 users", against: "nginx, GET", limit: 1, atMost: true,
	}
	p99Bare := &goal{name: "p99-bare", what: p99.what, against: "bare net/http handler", limit: 0.5, atMost: true}
	var peaks []float64
	var measured [][]ratio // for each number of users
	for _, n := range []int{1, scaled(10_000)} {
		users, asked := names(n), map[*contestant][][]byte{}
		for _, c := range all {
			warm(t, c.target, c.ask, users)
			asked[c] = requests(c.ask, users)
		}
		ratios := h.ratios()
		measured = append(measured, ratios)
		for range *rounds {
			shuffle(all)
			for _, c := range all {
				c.run(t, Load{Conns: 64, Requests: asked[c], For: *length})
			}
			for _, r := range ratios {
				r.add(r.now())
			}
			if n > 1 {
				peaks = append(peaks, h.bare.last.throughput)
			}
			if n > 1 && !quick() { // the tail needs more than a few rounds
				h.atHalfLoad(t, asked[h.ours], p99, p99Bare)
			}
		}
	}
	for i, one := range measured[0] {
		recordRow(t, one.goal, measured[1][i].goal)
	}
	if !quick() {
		p99.record(t)
		p99Bare.record(t)
	}
	// The sidecar, nginx by GET and by POST and with files kept open, x/oauth2, HAProxy.
	if calls := h.auth.CallsOf("user-0"); calls != 6 {
		t.Errorf("%d calls for a user: not each of six caches kept its token", calls)
	}
	return median(peaks)
}

// atHalfLoad adds the p99 at half the rate that the slower of ours and nginx last reached.
func (h *hits) atHalfLoad(t *testing.T, asked [][]byte, p99, p99Bare *goal) {
	t.Helper()
	half := Load{
		Conns: 64, Requests: asked, For: 4 * *length,
		Rate: min(h.ours.last.throughput, h.nginx.last.throughput) / 2,
	}
	seen := map[*contestant]float64{}
	contestants := []*contestant{h.bare, h.ours, h.nginx}
	shuffle(contestants)
	for _, c := range contestants {
		seen[c] = c.run(t, half).Quantile(.99).Seconds()
	}
	p99.add(seen[h.ours] / seen[h.nginx])
	p99Bare.add(seen[h.ours] / seen[h.bare])
}

// shuffle puts all in a random order: what one server leaves behind on the machine affects the next.
func shuffle(all []*contestant) {
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
}

// inTurns loads all servers several times, in turns, and returns the results of each.
func inTurns(t *testing.T, all []*contestant, l Load) map[*contestant][]Result {
	t.Helper()
	seen := map[*contestant][]Result{}
	turns := slices.Clone(all)
	for range min(*rounds, 15) {
		shuffle(turns)
		for _, c := range turns {
			seen[c] = append(seen[c], c.run(t, l))
		}
	}
	return seen
}

// typical is the median of see over results.
func typical(results []Result, see func(Result) float64) float64 {
	var all []float64
	for _, r := range results {
		all = append(all, see(r))
	}
	return median(all)
}

// drawThroughput draws the throughput over the number of connections, as a share of the bare handler's with 64.
func drawThroughput(t *testing.T, peak float64, all ...*contestant) {
	t.Helper()
	if quick() {
		return
	}
	p := Plot{
		Title: "Throughput over connections, closed loop, 10,000 users", X: "connections",
		Y: "requests a second, as a share of the bare handler's at 64", LogX: true,
	}
	p.Lines = linesOf(all)
	asked := requests(get, names(scaled(10_000)))
	for conns := 1; conns <= 1000; conns *= 10 {
		seen := inTurns(t, all, Load{Conns: conns, Requests: asked, For: max(*length/2, 20*time.Millisecond)})
		for i, c := range all {
			p.Lines[i].Points = append(p.Lines[i].Points, Point{float64(conns), typical(seen[c], Result.Throughput) / peak})
		}
	}
	draw(t, "performance-throughput.svg", p)
}

// drawLoad draws latency over load, as multiples of what the first server, the bare handler, has.
func drawLoad(t *testing.T, peak float64, all ...*contestant) {
	t.Helper()
	if quick() {
		return
	}
	var unit float64
	p99 := Plot{
		Title: "Latency (p99) over load, open loop, 64 connections",
		X:     "requests a second, as a share of the bare handler's peak",
		Y:     "p99, in medians of the bare handler at a tenth",
		LogY:  true,
	}
	p99.Lines = linesOf(all)
	asked := requests(get, names(scaled(10_000)))
	for tenths := 1; tenths <= 7; tenths++ {
		share := float64(tenths) / 10
		seen := inTurns(t, all, Load{
			Conns: 64, Requests: asked, For: max(*length/2, 20*time.Millisecond),
			Rate: share * peak,
		})
		for i, c := range all {
			usual := typical(seen[c], func(r Result) float64 { return r.Quantile(.5).Seconds() })
			slow := typical(seen[c], func(r Result) float64 { return r.Quantile(.99).Seconds() })
			if unit == 0 {
				unit = usual
			}
			p99.Lines[i].Points = append(p99.Lines[i].Points, Point{share, slow / unit})
		}
	}
	draw(t, "performance-p99.svg", p99)
}

func linesOf(all []*contestant) []Line {
	lines := make([]Line, len(all))
	for i, c := range all {
		lines[i].Name = c.name
	}
	return lines
}
