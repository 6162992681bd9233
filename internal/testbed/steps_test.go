package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// TestEachFault: what a client of the library sees of each fault, and how often Redis executed the command.
func TestEachFault(t *testing.T) {
	server := StartRedis(t)
	direct := server.Client()
	for _, tc := range []struct {
		fault Fault
		seen  string // in the error's text
		count int64  // how often it was executed
	}{
		{None, "", 1},
		{ReplyLost, "i/o timeout", 1},
		{ReplyLate, "i/o timeout", 1},
		{ResetBefore, "", 0},
		{ResetAfter, "", 1},
		{Twice, "", 2},
		{ErrREADONLY, "READONLY You can't write", 0},
		{ErrOOM, "OOM command not allowed", 0},
		{ErrNOPERM, "NOPERM this user has no permissions to run the 'incr' command", 0},
		{ErrLOADING, "LOADING Redis is loading the dataset in memory", 0},
		{ErrMOVED, "MOVED 1234 127.0.0.1:", 0},
		{ErrNOSCRIPT, "", 1},
	} {
		for _, protocol := range []int{2, 3} {
			t.Run(fmt.Sprint(tc.fault, " RESP ", protocol), func(t *testing.T) {
				direct.FlushAll(t.Context())
				p := StartRESPProxy(t, server.Addr, func(p *Proxy) { p.Late = time.Minute })
				client := clientOf(t, p, protocol)
				asks := client
				if tc.fault == ReplyLost || tc.fault == ReplyLate {
					asks = client.WithTimeout(200 * time.Millisecond)
				}
				p.OnStep(func(s Step) Fault {
					if s.N == 1 {
						return tc.fault
					}
					return None
				})
				if err := client.Set(t.Context(), "n", 0, 0).Err(); err != nil {
					t.Fatal(err)
				}
				n, err := asks.Incr(t.Context(), "n").Result()
				switch {
				case tc.fault == ResetBefore || tc.fault == ResetAfter: // the library reads on after ECONNRESET, and sees EOF
					if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
						t.Errorf("the client sees %v", err)
					}
				case (err == nil) != (tc.seen == "") || err != nil && !strings.Contains(err.Error(), tc.seen):
					t.Errorf("the client sees %v", err)
				}
				if err == nil && n != tc.count {
					t.Errorf("the client sees %d", n)
				}
				if n, _ := direct.Get(t.Context(), "n").Int64(); n != tc.count {
					t.Errorf("carried out %d times", n)
				}
				if got, err := client.Incr(t.Context(), "n").Result(); err != nil || got != tc.count+1 {
					t.Errorf("the next step: %d, %v", got, err)
				}
				if steps := p.Steps(); len(steps) != 3 || !slices.Equal(steps[0].Args, []string{"SET", "n", "0"}) ||
					steps[2].N != 2 {
					t.Errorf("steps: %v", steps)
				}
			})
		}
	}
}

// TestErrorsReadAsThoseOfRedis: compares them with those of a real Redis.
func TestErrorsReadAsThoseOfRedis(t *testing.T) {
	server := StartRedis(t)
	conn := dial(t, server.Addr)
	for _, tc := range []struct {
		fault           Fault
		prepare, asked  string
		command, undone string
	}{
		{ErrNOSCRIPT, "PING", "EVALSHA 0123456789012345678901234567890123456789 0", "EVALSHA", "PING"},
		{ErrWRONGPASS, "PING", "AUTH nobody wrong", "AUTH", "PING"},
		{ErrOOM, "CONFIG SET maxmemory 1", "SET a b", "SET", "CONFIG SET maxmemory 0"},
		{ErrREADONLY, "REPLICAOF 127.0.0.1 1", "SET a b", "SET", "REPLICAOF NO ONE"},
	} {
		roundTrip(t, conn, tc.prepare)
		if got, want := roundTrip(t, conn, tc.asked), "-"+tc.fault.errorText(tc.command, "")+"\r\n"; got != want {
			t.Errorf("Redis says %q, the proxy %q", got, want)
		}
		roundTrip(t, conn, tc.undone)
	}
}

// TestPipelines: a fault of the second of three commands that are sent at once.
func TestPipelines(t *testing.T) {
	server := StartRedis(t)
	const pipeline = "INCR n\r\n*2\r\n$4\r\nincr\r\n$1\r\nn\r\n\r\nINCR n\r\n"
	for _, tc := range []struct {
		fault Fault
		count string
		seen  func(*testing.T, *net.TCPConn)
	}{
		{None, "3", func(t *testing.T, c *net.TCPConn) { expect(t, c, ":1\r\n:2\r\n:3\r\n") }},
		{ReplyLost, "3", func(t *testing.T, c *net.TCPConn) { expect(t, c, ":1\r\n"); silent(t, c) }},
		{ReplyLate, "3", func(t *testing.T, c *net.TCPConn) {
			expect(t, c, ":1\r\n")
			silent(t, c)
			expect(t, c, ":2\r\n:3\r\n")
		}},
		{ResetBefore, "1", func(t *testing.T, c *net.TCPConn) { expect(t, c, ":1\r\n"); ended(t, c, syscall.ECONNRESET) }},
		{ResetAfter, "2", func(t *testing.T, c *net.TCPConn) { expect(t, c, ":1\r\n"); ended(t, c, syscall.ECONNRESET) }},
		{Twice, "4", func(t *testing.T, c *net.TCPConn) { expect(t, c, ":1\r\n:3\r\n:4\r\n") }},
		{ErrLOADING, "2", func(t *testing.T, c *net.TCPConn) {
			expect(t, c, ":1\r\n-LOADING Redis is loading the dataset in memory\r\n:2\r\n")
		}},
	} {
		t.Run(tc.fault.String(), func(t *testing.T) {
			server.Client().FlushAll(t.Context())
			p := StartRESPProxy(t, server.Addr)
			// The others come while the first reply is passed on.
			first := make(chan struct{})
			p.AfterStep(func(s Step) {
				if s.N > 0 {
					return
				}
				close(first)
				if tc.fault != ResetBefore && tc.fault != ResetAfter {
					Until(t, "all commands came", func() bool { return len(p.Steps()) == 3 })
				}
			})
			p.OnStep(func(s Step) Fault {
				if s.N != 1 {
					return None
				}
				<-first
				return tc.fault
			})
			conn := dial(t, p.Addr)
			write(t, conn, pipeline)
			tc.seen(t, conn)
			Until(t, "as many were carried out", func() bool { return server.Client().Get(t.Context(), "n").Val() == tc.count })
		})
	}
}

// TestWhatIsNoStepPasses: pub/sub, transactions, replies of all types, in both versions of RESP.
func TestWhatIsNoStepPasses(t *testing.T) {
	server := StartRedis(t)
	p := StartRESPProxy(t, server.Addr)
	for _, protocol := range []int{2, 3} {
		t.Run(fmt.Sprint("RESP ", protocol), func(t *testing.T) {
			client := clientOf(t, p, protocol)
			sub := client.Subscribe(t.Context(), "a", "b")
			defer sub.Close()
			heard := sub.Channel()
			p.AfterStep(func(s Step) {
				if s.Args[0] == "PUBLISH" { // Redis has executed it, and so told its subscribers
					if m := <-heard; m.Payload != "hello" || m.Channel != s.Args[1] {
						t.Errorf("heard %v", m)
					}
				}
			})
			defer p.AfterStep(nil)
			Until(t, "both are heard", func() bool {
				n := server.Client().PubSubNumSub(t.Context(), "a", "b").Val()
				return n["a"] == 1 && n["b"] == 1
			})
			client.Publish(t.Context(), "b", "hello")
			client.Publish(t.Context(), "a", "hello")

			results, err := client.TxPipelined(t.Context(), func(tx redis.Pipeliner) error {
				tx.Set(t.Context(), "k", strings.Repeat("x", 1<<20)+"\r\n$", 0)
				tx.Get(t.Context(), "k")
				tx.HSet(t.Context(), "h", "message", "1", "b", "2")
				tx.HGetAll(t.Context(), "h")
				tx.Get(t.Context(), "absent")
				tx.ConfigGet(t.Context(), "max*")
				tx.Eval(t.Context(), "return {1, {'message', false}, {}}", nil)
				return nil
			})
			if !errors.Is(err, redis.Nil) || len(results) != 7 || len(results[1].(*redis.StringCmd).Val()) != 1<<20+3 ||
				results[3].(*redis.MapStringStringCmd).Val()["message"] != "1" ||
				len(results[5].(*redis.MapStringStringCmd).Val()) < 2 {
				t.Errorf("%v, %.100v", err, results)
			}
			if got := fmt.Sprint(results[6].(*redis.Cmd).Val()); got != "[1 [message <nil>] []]" {
				t.Errorf("the script gave %v", got)
			}
		})
	}
	for _, s := range p.Steps() {
		if !counts(s.Args) {
			t.Errorf("counted: %v", s.Args)
		}
	}
}

// TestSubscriptionsTakeNoReplies: confirmations and errors of subscriptions are distinguished from replies.
func TestSubscriptionsTakeNoReplies(t *testing.T) {
	server := StartRedis(t)
	server.Client().Do(t.Context(), "ACL", "SETUSER", "default", "resetchannels", "&ours", "&ours2")
	for _, hello := range []string{"HELLO 2", "HELLO 3"} {
		p := StartRESPProxy(t, server.Addr)
		p.OnStep(func(s Step) Fault {
			if s.Args[0] == "INCR" {
				return ErrOOM
			}
			return None
		})
		conn := dial(t, p.Addr)
		roundTrip(t, conn, hello)
		mark := map[string]string{"HELLO 2": "*", "HELLO 3": ">"}[hello]
		confirmation := func(kind, channel string, n int) string {
			return fmt.Sprintf("%s3\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n:%d\r\n", mark, len(kind), kind, len(channel), channel, n)
		}
		oom := "-OOM command not allowed when used memory > 'maxmemory'.\r\n"

		write(t, conn, "EVAL \"return{'message','a','b'}\" 0\r\nINCR n\r\n") // looks like pub/sub but is not
		expect(t, conn, "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n"+oom)

		write(t, conn, "SUBSCRIBE theirs ours\r\nSUBSCRIBE ours ours2\r\nINCR n\r\nUNSUBSCRIBE\r\nPING\r\nINCR n\r\n")
		refused, err := readReply(oneByOne(conn), nil)
		if err != nil || !strings.HasPrefix(string(refused), "-NOPERM") {
			t.Fatalf("%q, %v", refused, err)
		}
		expect(t, conn, confirmation("subscribe", "ours", 1)+confirmation("subscribe", "ours2", 2)+oom)
		rest := make([]byte, len(confirmation("unsubscribe", "ours", 1)+confirmation("unsubscribe", "ours2",
			0)+"+PONG\r\n"+oom))
		if _, err := io.ReadFull(conn, rest); err != nil {
			t.Fatal(err)
		}
		// Redis ends the subscriptions in any order; their number is not known beforehand.
		if got := string(rest); strings.Count(got, "unsubscribe") != 2 || !strings.HasSuffix(got, "+PONG\r\n"+oom) {
			t.Errorf("got %q", got)
		}
	}
}

// TestAHeldStepHoldsOnlyItsConnection: and what is queued behind it there.
func TestAHeldStepHoldsOnlyItsConnection(t *testing.T) {
	server := StartRedis(t)
	p := StartRESPProxy(t, server.Addr)
	held, release := make(chan bool), make(chan bool)
	p.OnStep(func(s Step) Fault {
		if s.N == 0 {
			held <- true
			<-release
		}
		return None
	})
	one, other := dial(t, p.Addr), dial(t, p.Addr)
	write(t, one, "INCR n\r\nINCR n\r\n")
	<-held
	if got := roundTrip(t, other, "SET n 10"); got != "+OK\r\n" {
		t.Errorf("the other one got %q", got)
	}
	silent(t, one)
	release <- true
	expect(t, one, ":11\r\n:12\r\n")
	var got []string
	for _, s := range p.Steps() {
		got = append(got, fmt.Sprint(s.N, s.Args))
	}
	if want := []string{"0 [INCR n]", "1 [SET n 10]", "2 [INCR n]"}; !slices.Equal(got, want) {
		t.Errorf("steps: %v", got)
	}
}

func TestAfterStepComesBeforeTheReply(t *testing.T) {
	server := StartRedis(t)
	p := StartRESPProxy(t, server.Addr)
	carriedOut, release := make(chan string), make(chan bool)
	p.OnStep(func(s Step) Fault {
		if s.N == 1 {
			return ErrOOM
		}
		return None
	})
	p.AfterStep(func(s Step) {
		carriedOut <- fmt.Sprint(s.N, " ", server.Client().Get(context.WithoutCancel(t.Context()), "n").Val())
		<-release
	})
	conn := dial(t, p.Addr)
	write(t, conn, "INCR n\r\nINCR n\r\n")
	if got := <-carriedOut; got != "0 1" {
		t.Errorf("told of %v", got)
	}
	silent(t, conn)
	release <- true
	expect(t, conn, ":1\r\n-OOM")
}

// TestAFrozenStepIsCarriedOutAfterwards: even if the client left long ago.
func TestAFrozenStepIsCarriedOutAfterwards(t *testing.T) {
	server := StartRedis(t)
	p := StartRESPProxy(t, server.Addr)
	p.OnStep(func(s Step) Fault {
		if s.N == 1 {
			p.Freeze()
		}
		return None
	})
	conn := dial(t, p.Addr)
	write(t, conn, "PING\r\nINCR n\r\nINCR n\r\nINCR n\r\n")
	Until(t, "frozen", func() bool { f, _ := p.now(); return f.frozen })
	_ = conn.SetLinger(0)
	_ = conn.Close()
	other := dial(t, p.Addr)
	write(t, other, "GET n\r\n")
	silent(t, other)
	if n := server.Client().Get(t.Context(), "n").Val(); n != "1" {
		t.Errorf("n is %q while frozen", n)
	}
	p.Thaw()
	Until(t, "carried out", func() bool { n := server.Client().Get(t.Context(), "n").Val(); return n == "2" || n == "3" })
	expect(t, other, "$1\r\n")
}

func TestCountsChoosesTheSteps(t *testing.T) {
	server := StartRedis(t, "--requirepass", "right")
	p := StartRESPProxy(t, server.Addr, func(p *Proxy) {
		p.Counts = func(args []string) bool { return args[0] == "HELLO" || args[0] == "AUTH" }
	})
	p.OnStep(func(Step) Fault { return ErrWRONGPASS })
	client := redis.NewClient(&redis.Options{
		Addr: p.Addr, Password: "right", MaxRetries: -1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	defer client.Close()
	if err := client.Get(t.Context(), "a").Err(); err == nil || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Errorf("refused with %v", err)
	}
	p.OnStep(nil)
	if err := client.Get(t.Context(), "a").Err(); !errors.Is(err, redis.Nil) {
		t.Errorf("the right password: %v", err)
	}
	steps := p.Steps()
	if len(steps) == 0 || slices.ContainsFunc(steps, func(s Step) bool { return s.Args[0] == "GET" }) {
		t.Errorf("steps: %v", steps)
	}
}

// TestTheFaultsOfAPlainProxy: a proxy that knows RESP has them too.
func TestTheFaultsOfAPlainProxy(t *testing.T) {
	p := StartRESPProxy(t, StartRedis(t).Addr)
	conn := dial(t, p.Addr)
	roundTrip(t, conn, "PING")
	p.CutAfter(4)
	write(t, conn, "PING\r\n")
	expect(t, conn, "+PON")
	ended(t, conn, io.EOF)
	p.Heal()
	conn = dial(t, p.Addr)
	write(t, conn, "*1\r\n:1\r\n")
	ended(t, conn, io.EOF) // not a command
	p.Slow(50)
	conn = dial(t, p.Addr)
	began := time.Now()
	if roundTrip(t, conn, "PING"); time.Since(began) < 50*time.Millisecond {
		t.Error("it is not slow")
	}
}

// clientOf returns a client that does not retry, and has one connection. It has the patience for a megabyte on a busy
// machine.
func clientOf(t *testing.T, p *Proxy, protocol int) *redis.Client {
	client := redis.NewClient(&redis.Options{
		Addr: p.Addr, Protocol: protocol, MaxRetries: -1, ReadTimeout: 20 * time.Second, PoolSize: 1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// roundTrip sends a command and returns the reply to it.
func roundTrip(t *testing.T, conn *net.TCPConn, command string) string {
	t.Helper()
	write(t, conn, command+"\r\n")
	reply, err := readReply(oneByOne(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(reply)
}
