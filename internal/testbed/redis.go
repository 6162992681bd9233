// Package testbed starts the real parts that tests need: redis-server, the sidecar itself, a TCP proxy that breaks
// connections.
package testbed

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// A Redis is a redis-server of its own on a free port.
type Redis struct {
	Addr string

	t    testing.TB
	dir  string
	args []string
	conf string // a file for settings that must be in one
	tls  bool
	cmd  *exec.Cmd
}

// StartRedis starts a redis-server with additional arguments. It ends with the test.
func StartRedis(t testing.TB, args ...string) *Redis {
	t.Helper()
	Needs(t, "redis-server")
	r := &Redis{Addr: FreeAddr(t), t: t, dir: t.TempDir(), args: args}
	r.Start()
	t.Cleanup(r.Kill)
	return r
}

// No port is given out twice in a process, because it may not be in use yet; processes start at different ports.
var (
	firstPort = rand.Int32N(12_000)
	nextPort  atomic.Int32
)

// FreeAddr returns a loopback address that nobody else is given before the test ends. Its port is below the range for
// outgoing connections, one of which might otherwise take it first.
func FreeAddr(t testing.TB) string {
	t.Helper()
	ctx, config := context.WithoutCancel(t.Context()), &net.ListenConfig{}
	for range 1000 {
		addr := fmt.Sprint("127.0.0.1:", 20_000+(firstPort+nextPort.Add(1))%12_000)
		// The UDP port of that number tells other processes that the TCP port is taken, though nobody listens yet.
		claim, err := config.ListenPacket(ctx, "udp", addr)
		if err != nil {
			continue
		}
		listener, err := config.Listen(ctx, "tcp", addr)
		if err != nil {
			_ = claim.Close()
			continue
		}
		_ = listener.Close()
		t.Cleanup(func() { _ = claim.Close() })
		return addr
	}
	t.Fatal("no free port")
	return ""
}

// Start starts the server again, empty, at the same address.
func (r *Redis) Start() {
	r.t.Helper()
	_, port, _ := net.SplitHostPort(r.Addr)
	args := []string{"--port", port, "--bind", "127.0.0.1", "--dir", r.dir, "--logfile", filepath.Join(r.dir, "log")}
	if r.conf != "" {
		args = append([]string{r.conf}, args...)
	} else {
		args = append(args, "--save", "", "--appendonly", "no")
	}
	args = append(args, r.args...)
	r.cmd = exec.Command("redis-server", args...)
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	Eventually(r.t, "redis-server answers", func() error { return dials(r.Addr) })
}

// Kill ends the server at once, like a crashed node.
func (r *Redis) Kill() {
	if r.cmd != nil && r.cmd.Process != nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
	}
	r.cmd = nil
}

// Flush empties the server.
func (r *Redis) Flush() {
	r.t.Helper()
	if err := r.Client().FlushAll(context.WithoutCancel(r.t.Context())).Err(); err != nil {
		r.t.Fatal(err)
	}
}

// A Value is what a server holds under one name.
type Value struct {
	dump string
	left time.Duration // 0: without end
}

// Dump returns all that the server holds.
func (r *Redis) Dump() map[string]Value {
	r.t.Helper()
	ctx, client := context.WithoutCancel(r.t.Context()), r.Client()
	all := map[string]Value{}
	for _, name := range client.Keys(ctx, "*").Val() {
		left, dump := client.PTTL(ctx, name).Val(), client.Dump(ctx, name)
		if dump.Err() == nil { // else it has just expired
			all[name] = Value{dump.Val(), max(0, left)}
		}
	}
	return all
}

// TakeOver makes the server be another one, which holds that: all its connections end.
func (r *Redis) TakeOver(held map[string]Value) {
	r.t.Helper()
	ctx, client := context.WithoutCancel(r.t.Context()), r.Client()
	_, err := client.TxPipelined(ctx, func(all redis.Pipeliner) error {
		all.FlushAll(ctx)
		for name, value := range held {
			all.Restore(ctx, name, value.left, value.dump)
		}
		for _, of := range []string{"normal", "pubsub"} {
			all.Do(ctx, "CLIENT", "KILL", "TYPE", of, "SKIPME", "yes")
		}
		return nil
	})
	if err != nil {
		r.t.Error(err)
	}
}

// URL returns a value for REDIS_URL.
func (r *Redis) URL() string {
	if r.tls {
		return "rediss://" + r.Addr
	}
	return "redis://" + r.Addr
}

// Client returns a client of the library, for inspecting what is stored. It closes with the test.
func (r *Redis) Client() *redis.Client { return startedClient(r.t, r.Addr, r.tls) }

// StartedClient returns a client for addr. It closes with the test.
func StartedClient(t testing.TB, addr string) *redis.Client { return startedClient(t, addr, false) }

func startedClient(t testing.TB, addr string, overTLS bool) *redis.Client {
	opts := &redis.Options{
		Addr: addr, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if overTLS {
		opts.TLSConfig = &tls.Config{InsecureSkipVerify: true} // it is the test's own
	}
	client := redis.NewClient(opts)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// Eventually calls try until it succeeds; the test fails if that takes very long.
func Eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still not so: %v", what, err)
		}
		<-tick.C
	}
}

// Until is Eventually for a condition.
func Until(t testing.TB, what string, met func() bool) {
	t.Helper()
	Eventually(t, what, func() error {
		if met() {
			return nil
		}
		return fmt.Errorf("condition not met")
	})
}

// ReadFile returns the content of a file.
func ReadFile(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// WriteFile writes a file for the test and returns its path.
func WriteFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
