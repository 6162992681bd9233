package testbed

import (
	"bufio"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// A Step is one command that a client sent to Redis. Steps are numbered from 0, over all connections of a proxy, as
// they come.
type Step struct {
	N    int
	Args []string // the first one is the command, in capitals
}

// A Fault is what goes wrong with one step.
type Fault int

// None lets a step pass.
const (
	None        Fault = iota
	ReplyLost         // carried out, but nothing comes back on this connection any more
	ReplyLate         // the reply, and those behind it, come after Proxy.Late
	ResetBefore       // the connection is reset, and neither this command nor those behind it reach Redis
	ResetAfter        // carried out, and then the connection is reset; those behind it do not reach Redis
	Twice             // carried out twice, as by a retry whose first reply was lost
	ErrREADONLY       // this one and the following: Redis is not asked, the reply is its error
	ErrOOM
	ErrNOPERM
	ErrLOADING
	ErrMOVED
	ErrNOSCRIPT  // for EVALSHA alone; None for other commands
	ErrWRONGPASS // makes sense for AUTH and HELLO, which Proxy.Counts has to count
)

// String is the fault's name.
func (f Fault) String() string {
	names := []string{
		"None", "ReplyLost", "ReplyLate", "ResetBefore", "ResetAfter", "Twice",
		"READONLY", "OOM", "NOPERM", "LOADING", "MOVED", "NOSCRIPT", "WRONGPASS",
	}
	if f < 0 || int(f) >= len(names) {
		return fmt.Sprintf("Fault(%d)", int(f))
	}
	return names[f]
}

// errorText is what Redis says instead of carrying out a command; it is empty for faults of another kind.
func (f Fault) errorText(command, addr string) string {
	switch f {
	case ErrREADONLY:
		return "READONLY You can't write against a read only replica."
	case ErrOOM:
		return "OOM command not allowed when used memory > 'maxmemory'."
	case ErrNOPERM:
		return "NOPERM this user has no permissions to run the '" + strings.ToLower(command) + "' command"
	case ErrLOADING:
		return "LOADING Redis is loading the dataset in memory"
	case ErrMOVED:
		return "MOVED 1234 " + addr
	case ErrNOSCRIPT:
		if command == "EVALSHA" || command == "EVALSHA_RO" {
			return "NOSCRIPT No matching script. Please use EVAL."
		}
	case ErrWRONGPASS:
		return "WRONGPASS invalid username-password pair or user is disabled."
	}
	return ""
}

// StartRESPProxy starts a proxy before a Redis that matches each reply to its command, so that a single step can fail.
// Both versions of RESP, pipelines, transactions and pub/sub pass; MONITOR and CLIENT REPLY do not. The fields of the
// proxy are to be set by set. It ends with the test.
func StartRESPProxy(t testing.TB, target string, set ...func(*Proxy)) *Proxy {
	t.Helper()
	p := &Proxy{Late: 400 * time.Millisecond, Counts: counts, t: t, target: target, resp: true}
	for _, f := range set {
		f(p)
	}
	return start(p)
}

// counts leaves out what connections are set up and watched with.
func counts(args []string) bool {
	switch args[0] {
	case "HELLO", "AUTH", "SELECT", "CLIENT", "PING", "COMMAND", "INFO", "CLUSTER":
		return false
	}
	return !subscribes(args[0])
}

func subscribes(command string) bool { return strings.HasSuffix(command, "SUBSCRIBE") }

// OnStep sets what is called for each step before Redis gets it, to choose its fault. While it blocks, that connection
// is held, and no other; a function that blocks has to return when t.Context() is done. Connections call it at the same
// time.
func (p *Proxy) OnStep(f func(Step) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before = f
}

// AfterStep sets what is called after Redis has carried out a step, and before its reply is passed on. It may block as
// OnStep may. It is not called for a step that did not reach Redis.
func (p *Proxy) AfterStep(f func(Step)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.after = f
}

// Steps returns those that came so far.
func (p *Proxy) Steps() []Step {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.steps)
}

// step numbers a command and asks the test about it.
func (p *Proxy) step(args []string) (*Step, Fault) {
	if !p.Counts(args) {
		return nil, None
	}
	p.mu.Lock()
	step := Step{N: len(p.steps), Args: args}
	p.steps = append(p.steps, step)
	before := p.before
	p.mu.Unlock()
	if before == nil {
		return &step, None
	}
	return &step, before(step)
}

// carriedOut tells the test about a step.
func (p *Proxy) carriedOut(step *Step) {
	p.mu.Lock()
	after := p.after
	p.mu.Unlock()
	if step != nil && after != nil {
		after(*step)
	}
}

// An expected is a command whose reply has not been passed on yet.
type expected struct {
	step      *Step // nil: not counted
	fault     Fault
	replies   int    // how many Redis has yet to send; none: Redis was not asked
	instead   []byte // what the client gets when Redis was not asked
	subscribe bool   // replied to by pushes, unless it fails
}

// commands passes on what the client sends, a command at a time.
func (l *link) commands() {
	r := bufio.NewReader(l.client)
	for {
		raw, args, err := readCommand(r)
		if err != nil {
			l.clientEnded()
			return
		}
		if len(args) == 0 { // Redis does not reply to it
			if !l.send(raw) {
				return
			}
			continue
		}
		if !l.thawed() || !l.command(raw, args) {
			return
		}
	}
}

// command passes one on, and tells whether there may be a next one.
func (l *link) command(raw []byte, args []string) bool {
	args[0] = strings.ToUpper(args[0])
	e := &expected{replies: 1, subscribe: subscribes(args[0])}
	if e.subscribe {
		e.replies = max(1, len(args)-1)
	}
	e.step, e.fault = l.proxy.step(args)
	if text := e.fault.errorText(args[0], l.proxy.Addr); text != "" {
		e.replies, e.instead = 0, []byte("-"+text+"\r\n")
	}
	switch e.fault {
	case ResetBefore:
		e.replies = 0
	case Twice:
		e.replies, raw = 2, append(raw, raw...)
	}
	l.mu.Lock()
	l.queue = append(l.queue, e)
	l.subscribed = l.subscribed || e.subscribe
	asks := e.replies > 0
	l.unasked()
	l.mu.Unlock()
	if asks && !l.send(raw) {
		return false
	}
	return e.fault != ResetBefore && e.fault != ResetAfter
}

// unasked gives the client what it gets instead of replies, for the commands that are next and that Redis did not get.
// The caller holds l.mu.
func (l *link) unasked() {
	for len(l.queue) > 0 && l.queue[0].replies == 0 {
		l.give(l.queue[0].instead, l.queue[0].fault)
		l.queue = l.queue[1:]
	}
}

// give hands a reply to the client, or what the fault makes of it. The caller holds l.mu.
func (l *link) give(reply []byte, fault Fault) {
	switch {
	case fault == ResetBefore || fault == ResetAfter:
		l.emit(chunk{reset: true})
	case fault == ReplyLost || l.lost:
		l.lost = true
	case fault == ReplyLate:
		l.emit(chunk{data: reply, notYet: time.Now().Add(l.proxy.Late)})
	default:
		l.emit(chunk{data: reply})
	}
}

// replies passes on what Redis sends, a reply at a time.
func (l *link) replies() {
	r := bufio.NewReader(l.server)
	for {
		raw, err := readReply(r, nil)
		if err != nil {
			l.emit(chunk{end: true})
			return
		}
		l.reply(raw)
	}
}

func (l *link) reply(raw []byte) {
	e := l.match(raw)
	if e == nil {
		return
	}
	l.proxy.carriedOut(e.step)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.give(raw, e.fault)
	if len(l.queue) > 0 { // the link may have ended meanwhile
		l.queue = l.queue[1:] // only now, so that what is behind it stays behind it
	}
	l.unasked()
}

// match returns the command to which raw is the last reply. What is none is dealt with and gives nil.
func (l *link) match(raw []byte) *expected {
	l.mu.Lock()
	defer l.mu.Unlock()
	var e *expected
	if len(l.queue) > 0 {
		e = l.queue[0]
	}
	kind := pushKind(raw, l.subscribed)
	confirms := e != nil && e.subscribe && subscribes(strings.ToUpper(kind))
	if e == nil || kind != "" && !confirms {
		l.give(raw, None)
		return nil
	}
	e.replies--
	failed := e.subscribe && !confirms // as a whole, with a single error
	if e.replies > 0 && !failed {
		if confirms {
			l.give(raw, None)
		}
		return nil // with Twice, the first reply is the one that got lost
	}
	return e
}
