package testbed

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

// A Proxy is a TCP proxy that can be told to break what goes through it.
type Proxy struct {
	Addr string

	t     testing.TB
	proxy *toxiproxy.Proxy
}

// StartProxy starts a proxy before target. It ends with the test.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	metrics := toxiproxy.NewMetricsContainer(nil)
	server := toxiproxy.NewServer(metrics, zerolog.Nop())
	p := toxiproxy.NewProxy(server, "p", "127.0.0.1:0", target)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	_, port, _ := net.SplitHostPort(p.Listen)
	return &Proxy{Addr: "127.0.0.1:" + port, t: t, proxy: p}
}

// ProxyLeaks are the goroutines that the library leaves behind where it was told to break a connection.
func ProxyLeaks() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read"),
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).write"),
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"),
	}
}

// Slow delays what comes back by ms milliseconds.
func (p *Proxy) Slow(ms int) { p.add("latency", fmt.Sprintf(`{"latency":%d}`, ms)) }

// BlackHole swallows what comes back, without a reset.
func (p *Proxy) BlackHole() { p.add("timeout", `{"timeout":0}`) }

// Reset resets connections.
func (p *Proxy) Reset() { p.add("reset_peer", `{"timeout":0}`) }

// CutAfter ends connections after so many bytes of an answer.
func (p *Proxy) CutAfter(bytes int) { p.add("limit_data", fmt.Sprintf(`{"bytes":%d}`, bytes)) }

// Down refuses connections and ends those there are.
func (p *Proxy) Down() { p.proxy.Stop() }

// Up undoes Down.
func (p *Proxy) Up() {
	p.t.Helper()
	if err := p.proxy.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// Heal undoes Slow, BlackHole, Reset and CutAfter.
func (p *Proxy) Heal() { p.proxy.Toxics.ResetToxics(context.Background()) }

func (p *Proxy) add(kind, attributes string) {
	p.t.Helper()
	toxic := fmt.Sprintf(`{"type":%q,"stream":"downstream","attributes":%s}`, kind, attributes)
	if _, err := p.proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
		p.t.Fatal(err)
	}
}
