package cache

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
)

// newCacheOn returns a cache on that server.
func newCacheOn(t testing.TB, s Server) *Cache {
	t.Helper()
	s.Timeout = 2 * time.Second
	client, err := Connect(s)
	if err != nil {
		t.Fatal(err)
	}
	return newCache(t, "", func(o *Options) { o.Client, o.MemorySize = client, 64<<20 })
}

// worksAsAFleet does everything that two sidecars do through Redis.
func worksAsAFleet(t *testing.T, a, b *Cache) {
	t.Helper()
	untilListening(t, a, b)
	for i := range 20 { // in all slots
		key := NewKey(fmt.Sprint(i))
		e := fetchOnce(t, a, key, nil)
		if got := get(t, b, key); got == nil || got.ID != e.ID {
			t.Fatalf("key %d: the other one got %v", i, got)
		}
		offer, err := b.Acquire(t.Context(), key, Want{Avoid: e})
		lease := offer.Lease
		if err != nil || lease == nil || len(lease.fences) == 0 {
			t.Fatalf("key %d: no lease in the fleet: %v", i, err)
		}
		newer := newEntry("newer", time.Hour)
		lease.Publish(t.Context(), newer)
		if !a.Claim(t.Context(), key, newer, time.Minute, time.Hour) || b.Claim(t.Context(), key, newer, time.Minute,
			time.Hour) {
			t.Errorf("key %d: a renewal is not claimed once", i)
		}
		a.Forget(t.Context(), key, &newer.Hashes()[0])
		testbed.Until(t, "the other one forgot", func() bool { return b.Peek(key, time.Now()) == nil })
		if get(t, b, key) != nil {
			t.Fatalf("key %d: not forgotten", i)
		}
	}
	if !a.redisUp() || !b.redisUp() {
		t.Error("Redis was taken for dead")
	}
}

func TestCluster(t *testing.T) {
	url, _ := testbed.StartCluster(t)
	open := func() *Cache { return newCacheOn(t, Server{URL: secret.Hide(url), Mode: "cluster"}) }
	worksAsAFleet(t, open(), open())
}

// TestClusterWakesBySharding: waiters for a lease are woken through the node that has the slot of their channel, and
// through the plain channel while they cannot listen there.
func TestClusterWakesBySharding(t *testing.T) {
	url, nodes := testbed.StartCluster(t)
	open := func() *Cache { return newCacheOn(t, Server{URL: secret.Hide(url), Mode: "cluster"}) }
	a, b := open(), open()
	b.poll = time.Hour
	calls := func(name string) (n int) {
		for _, node := range nodes {
			stats := node.Client().Info(t.Context(), "commandstats").Val()
			if _, after, found := strings.Cut(stats, "cmdstat_"+name+":calls="); found {
				count, _, _ := strings.Cut(after, ",")
				number, err := strconv.Atoi(count)
				if err != nil {
					t.Fatal(err)
				}
				n += number
			}
		}
		return n
	}
	for _, sharded := range []bool{true, false} {
		testbed.Until(t, "b listens", func() bool { return b.shared.sharded.Load() })
		if !sharded {
			b.shared.sharded.Store(false) // until it has subscribed again
		}
		before, plain := calls("spublish"), calls("publish")
		key := NewKey("sharded", fmt.Sprint(sharded))
		lease := acquire(t, a, key)
		var waiting sync.WaitGroup
		waiting.Go(func() {
			if offer, err := b.Acquire(t.Context(), key, Want{}); err != nil || offer.Entry == nil {
				t.Errorf("%v, %v", offer, err)
			}
		})
		name := a.shared.keys.names(key)[0].text + waitSuffix
		testbed.Until(t, "b waits", func() bool {
			return len(a.shared.client.SMembers(t.Context(), name).Val()) == 1
		})
		lease.Publish(t.Context(), newEntry("x", time.Hour))
		waiting.Wait()
		if s, p := calls("spublish")-before, calls("publish")-plain; (s == 1) != sharded || (p == 1) == sharded {
			t.Errorf("sharded %v: %d SPUBLISH, %d PUBLISH", sharded, s, p)
		}
	}
}

// TestSentinel also kills the master while tokens are asked for: no call fails, and Redis is used again.
func TestSentinel(t *testing.T) {
	s := testbed.StartSentinel(t)
	open := func() *Cache { return newCacheOn(t, Server{URL: secret.Hide(s.URL), Mode: "sentinel"}) }
	a, b := open(), open()
	worksAsAFleet(t, a, b)
	stop := make(chan struct{})
	var asked atomic.Int32
	var load sync.WaitGroup
	for i := range 4 {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				key := NewKey("load", fmt.Sprint(i), fmt.Sprint(n))
				offer, err := a.Acquire(t.Context(), key, Want{})
				if err != nil || offer.Lease == nil {
					t.Errorf("%v, %v", offer, err)
					return
				}
				offer.Lease.Publish(t.Context(), newEntry("x", time.Hour))
				if get(t, a, key) == nil {
					t.Error("a token got lost in the failover")
				}
				asked.Add(1)
			}
		})
	}
	testbed.Until(t, "load", func() bool { return asked.Load() > 100 })
	s.Master.Kill()
	replica := s.Replica.Client()
	testbed.Until(t, "the replica took over", func() bool {
		return strings.Contains(replica.Info(context.Background(), "replication").Val(), "role:master")
	})
	key := NewKey("after the failover")
	testbed.Until(t, "tokens are shared again", func() bool {
		publish(t, a, key, newEntry("x", time.Hour))
		seen, err := b.shared.look(t.Context(), key)
		return err == nil && seen.entry != nil
	})
	close(stop)
	load.Wait()
}

func TestTLSAndPasswordFile(t *testing.T) {
	cert, key := testbed.Certificate(t)
	_, port, _ := strings.Cut(testbed.FreeAddr(t), ":")
	server := testbed.StartRedis(t, "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key,
		"--tls-ca-cert-file", cert,
		"--tls-auth-clients", "no", "--requirepass", "right")
	pem, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	file := testbed.WriteFile(t, "password", "right\n")
	password, err := secret.Open("REDIS_PASSWORD_FILE", file, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	url := secret.Hide("rediss://127.0.0.1:" + port)
	c := newCacheOn(t, Server{URL: url, Mode: "single", Roots: func() *x509.CertPool { return roots }, Password: password})
	if _, err := c.shared.look(t.Context(), NewKey("u")); err != nil {
		t.Errorf("with its own CA: %v", err)
	}
	if _, err := newCacheOn(t, Server{URL: url, Mode: "single", Password: password}).shared.look(t.Context(),
		NewKey("u")); err == nil {
		t.Error("an unknown CA was trusted")
	}

	// A password that changes is used by the next connection.
	admin := testbed.StartedClient(t, server.Addr)
	if err := admin.Do(t.Context(), "AUTH", "right").Err(); err != nil {
		t.Fatal(err)
	}
	conn := admin.Conn()
	defer func() { _ = conn.Close() }()
	_ = conn.Do(t.Context(), "AUTH", "right").Err()
	if err := conn.ConfigSet(t.Context(), "requirepass", "newer").Err(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("newer"), 0o600); err != nil {
		t.Fatal(err)
	}
	password.Reload()
	password.Reload()
	_ = conn.Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err()
	testbed.Until(t, "the new password is used", func() bool {
		_, err := c.shared.look(t.Context(), NewKey("v"))
		return err == nil
	})
}

// acl is what docs/redis.md tells operators to grant.
func acl(t *testing.T) []string {
	t.Helper()
	doc, err := os.ReadFile("../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(doc)) {
		if rule, ok := strings.CutPrefix(strings.TrimSpace(line), "user token-sidecar "); ok {
			return strings.Fields(rule)
		}
	}
	t.Fatal("docs/redis.md shows no user")
	return nil
}

// TestLeastPrivilege: the documented ACL is enough, and confines the sidecar to its own keys.
func TestLeastPrivilege(t *testing.T) {
	server := testbed.StartRedis(t)
	client := server.Client()
	args := []any{"ACL", "SETUSER", "token-sidecar"}
	for _, rule := range acl(t) {
		args = append(args, strings.Replace(rule, ">password", ">right", 1))
	}
	if err := client.Do(t.Context(), args...).Err(); err != nil {
		t.Fatal(err)
	}
	url := secret.Hide("redis://token-sidecar:right@" + server.Addr)
	a, b := newCacheOn(t, Server{URL: url, Mode: "single"}), newCacheOn(t, Server{URL: url, Mode: "single"})
	worksAsAFleet(t, a, b)
	if err := a.shared.client.Set(t.Context(), "other", "x", 0).Err(); err == nil {
		t.Error("it may write other keys")
	}
	if err := a.shared.client.FlushAll(t.Context()).Err(); err == nil {
		t.Error("it may flush")
	}
	denied := client.Do(t.Context(), "ACL", "LOG").String()
	for line := range strings.SplitSeq(denied, "reason") {
		if strings.Contains(line, "command") && !strings.Contains(line, "flushall") && !strings.Contains(line, "other") {
			t.Errorf("denied: %s", line)
		}
	}
}

func TestURLMistakesNameTheSettingAndNoPassword(t *testing.T) {
	for mode, url := range map[string]string{
		"single": "redis://:hunter2@host:6379/notanumber", "cluster": "redis://:hunter2@host:6379?bogus=1", "sentinel": "redis://:hunter2@host:6379",
		"ring": "redis://:hunter2@host",
	} {
		_, err := Connect(Server{URL: secret.Hide(url), Mode: mode})
		if err == nil || !strings.HasPrefix(err.Error(), "REDIS_") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", mode, err)
		}
	}
}
