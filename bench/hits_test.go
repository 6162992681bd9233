package bench

import (
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
		cpu        float64 // seconds of a processor for a request
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

// TestHits: tokens in memory, beside a bare handler of net/http and beside nginx. Each server has one processor, the
// load the other.
func TestHits(t *testing.T) {
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	_, sidecar := startSidecar(t, append(own(), program(t)), auth, "REDIS_URL="+redis.URL())
	nginx := startNginx(t, own(), auth, "")
	bare := &contestant{name: "bare net/http", target: startBare(t, own()), ask: get}
	ours, oursPost := &contestant{name: "token-sidecar", target: sidecar, ask: get}, &contestant{name: "token-sidecar, POST", target: sidecar, ask: post}
	theirs, theirsPost := &contestant{name: "nginx", target: nginx, ask: get}, &contestant{name: "nginx, POST", target: nginx, ask: post}
	tuned := &contestant{name: "nginx, files kept open", target: startNginx(t, own(), auth, keepFiles), ask: get}
	all := []*contestant{bare, ours, theirs, oursPost, theirsPost, tuned}

	const what = "memory hit, requests a second, "
	goals := map[string]*goal{}
	for users, text := range map[string]string{"one": "one user", "many": "10,000 users"} {
		goals[users+"-bare"] = &goal{name: users + "-bare", what: what + text, against: "bare net/http handler", limit: 0.92}
		goals[users+"-get"] = &goal{name: users + "-get", what: what + text, against: "nginx, GET", limit: 1}
		goals[users+"-post"] = &goal{name: users + "-post", what: what + text, against: "nginx, POST", limit: 1}
		goals[users+"-tuned"] = &goal{name: users + "-tuned", what: what + text, against: "nginx, GET, open_file_cache", limit: 1}
		goals[users+"-cpu"] = &goal{name: users + "-cpu", what: "processor time for a hit, " + text, against: "nginx, GET", limit: 1, atMost: true}
	}
	p99 := &goal{name: "p99", what: "p99 at half the peak rate, 10,000 users", against: "nginx, GET", limit: 1, atMost: true}
	throughput := map[string][]float64{}
	for users, n := range map[string]int{"one": 1, "many": scaled(10_000)} {
		for _, c := range all {
			warm(t, c.target, c.ask, names(n))
		}
		for range *rounds {
			for _, c := range all {
				c.run(t, Load{Conns: 64, Requests: requests(c.ask, names(n)), For: *length})
				if users == "many" {
					throughput[c.name] = append(throughput[c.name], c.last.throughput)
				}
			}
			goals[users+"-bare"].add(ours.last.throughput / bare.last.throughput)
			goals[users+"-get"].add(ours.last.throughput / theirs.last.throughput)
			goals[users+"-post"].add(oursPost.last.throughput / theirsPost.last.throughput)
			goals[users+"-tuned"].add(ours.last.throughput / tuned.last.throughput)
			goals[users+"-cpu"].add(ours.last.cpu / theirs.last.cpu)
			if users == "many" {
				half := Load{Conns: 64, Requests: requests(get, names(n)), For: *length, Rate: min(ours.last.throughput, theirs.last.throughput) / 2}
				p99.add(ours.run(t, half).Quantile(.99).Seconds() / theirs.run(t, half).Quantile(.99).Seconds())
			}
		}
	}
	for _, g := range goals {
		g.record(t)
	}
	p99.record(t)
	peak := median(throughput[bare.name])
	drawThroughput(t, peak, bare, ours, theirs)
	drawLoad(t, peak, bare, ours, theirs)
}

// drawThroughput draws what is answered over the number of connections, as a share of what the bare handler does with 64.
func drawThroughput(t *testing.T, peak float64, all ...*contestant) {
	t.Helper()
	p := Plot{Title: "Throughput over connections, closed loop, 10,000 users", X: "connections", Y: "requests a second, as a share of the bare handler's at 64", LogX: true}
	for _, c := range all {
		line := Line{Name: c.name}
		for conns := 1; conns <= 1000; conns *= 10 {
			c.run(t, Load{Conns: conns, Requests: requests(get, names(scaled(10_000))), For: max(*length/2, 20*time.Millisecond)})
			line.Points = append(line.Points, Point{float64(conns), c.last.throughput / peak})
		}
		p.Lines = append(p.Lines, line)
	}
	draw(t, "performance-throughput.svg", p)
}

// drawLoad draws latency over load, as multiples of what the bare handler does.
func drawLoad(t *testing.T, peak float64, bare *contestant, others ...*contestant) {
	t.Helper()
	users := names(scaled(10_000))
	var unit float64
	p99 := Plot{Title: "Latency (p99) over load, open loop, 64 connections", X: "requests a second, as a share of the bare handler's peak", Y: "p99, in medians of the bare handler at a tenth", LogY: true}
	p50 := Plot{Title: "Latency (median) over load, open loop, 64 connections", X: p99.X, Y: "median, in medians of the bare handler at a tenth"}
	for _, c := range append([]*contestant{bare}, others...) {
		slow, usual := Line{Name: c.name}, Line{Name: c.name}
		for tenths := 1; tenths <= 7; tenths++ {
			share := float64(tenths) / 10
			res := c.run(t, Load{Conns: 64, Requests: requests(get, users), For: max(*length/2, 20*time.Millisecond), Rate: share * peak})
			if unit == 0 {
				unit = res.Quantile(.5).Seconds()
			}
			slow.Points = append(slow.Points, Point{share, res.Quantile(.99).Seconds() / unit})
			usual.Points = append(usual.Points, Point{share, res.Quantile(.5).Seconds() / unit})
		}
		p99.Lines, p50.Lines = append(p99.Lines, slow), append(p50.Lines, usual)
	}
	draw(t, "performance-p99.svg", p99)
	draw(t, "performance-median.svg", p50)
}
