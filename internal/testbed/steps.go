package testbed

import (
	"bufio"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// A Step is one command that a client sent to Redis. Steps are numbered from 0 over all connections of a proxy, in the
// order of their arrival.
type Step struct {
	N    int
	Args []string // the first is the command, in capitals
}

// IsScript reports whether s runs a script.
func (s Step) IsScript() bool { return strings.HasPrefix(s.Args[0], "EVAL") }

// A Fault is what goes wrong in one step.
type Fault int

// None lets a step pass.
const (
	None        Fault = iota
	ReplyLost         // executed, but this connection gets no more replies
	ReplyLate         // the reply, and those after it, arrive after Proxy.Late
	ResetBefore       // the connection is reset; neither this command nor later ones on it reach Redis
	ResetAfter        // executed, and then the connection is reset; later commands on it do not reach Redis
	Twice             // executed twice, as by a retry whose first reply was lost
	ErrREADONLY       // for this and the following: Redis is not asked, the reply is its error
	ErrOOM
	ErrNOPERM
	ErrLOADING
	ErrMOVED
	ErrNOSCRIPT  // for EVALSHA only; None for other commands
	ErrWRONGPASS // useful for AUTH and HELLO, which Proxy.Counts must include
)

// String returns the fault's name.
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

// errorText is the reply of Redis instead of executing a command; it is empty for faults of other kinds.
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

// StartRESPProxy starts a proxy in front of a Redis that matches each reply to its command, so that a single step can
// fail. It supports both versions of RESP, pipelines, transactions and pub/sub, but not MONITOR and CLIENT REPLY.
// Functions in set may set the fields of the proxy. It ends with the test.
func StartRESPProxy(t testing.TB, target string, set ...func(*Proxy)) *Proxy {
	t.Helper()
	p := &Proxy{Late: 400 * time.Millisecond, Counts: counts, t: t, target: target, resp: true}
	for _, f := range set {
		f(p)
	}
	return start(p)
}

// counts excludes the commands for setting up and checking connections.
func counts(args []string) bool {
	switch args[0] {
	case "HELLO", "AUTH", "SELECT", "CLIENT", "PING", "COMMAND", "INFO", "CLUSTER":
		return false
	}
	return !subscribes(args[0])
}

func subscribes(command string) bool { return strings.HasSuffix(command, "SUBSCRIBE") }

// OnStep sets a function that is called for each step before Redis receives it, to choose its fault. While the function
// blocks, that connection is held, and no other; it must return when t.Context() is done. Connections call it
// concurrently.
func (p *Proxy) OnStep(f func(Step) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before = f
}

// AfterStep sets a function that is called after Redis has executed a step, before the reply is passed on. It may block
// as OnStep's may. It is not called for a step that did not reach Redis.
func (p *Proxy) AfterStep(f func(Step)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.after = f
}

// Steps returns the steps so far.
func (p *Proxy) Steps() []Step {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.steps)
}

// step numbers a command and asks the test for its fault.
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

// carriedOut tells the test about an executed step.
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
	unasked   bool   // Redis does not receive it
	instead   []byte // what the client gets then
	replies   int    // how many are still to come from Redis
	subscribe bool   // answered by pushes, unless it fails
}

// commands passes on what the client sends, command by command.
func (l *link) commands() {
	r := bufio.NewReader(l.client)
	for {
		raw, args, err := readCommand(r)
		if err != nil {
			l.clientEnded()
			return
		}
		if len(args) == 0 { // Redis does not reply to an empty line
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

// command passes on one command, and reports whether another may follow.
func (l *link) command(raw []byte, args []string) bool {
	args[0] = strings.ToUpper(args[0])
	e := &expected{replies: 1, subscribe: subscribes(args[0])}
	if e.subscribe {
		e.replies = max(1, len(args)-1)
	}
	e.step, e.fault = l.proxy.step(args)
	if f, _ := l.proxy.now(); f.readOnly && e.fault == None && (Step{Args: args}).IsScript() {
		e.fault = ErrREADONLY
	}
	if text := e.fault.errorText(args[0], l.proxy.Addr); text != "" {
		e.unasked, e.instead = true, []byte("-"+text+"\r\n")
	}
	switch e.fault {
	case ResetBefore:
		e.unasked = true
	case Twice:
		e.replies, raw = 2, append(raw, raw...)
	}
	l.mu.Lock()
	l.queue = append(l.queue, e)
	l.subscribed = l.subscribed || e.subscribe
	l.substitute()
	l.mu.Unlock()
	if !e.unasked && !l.send(raw) {
		return false
	}
	return e.fault != ResetBefore && e.fault != ResetAfter
}

// substitute sends the client replies to those next commands that Redis does not receive. The caller holds l.mu.
func (l *link) substitute() {
	for len(l.queue) > 0 && l.queue[0].unasked {
		l.give(l.queue[0].instead, l.queue[0].fault)
		l.queue = l.queue[1:]
	}
}

// give sends a reply to the client, or what the fault makes of it. The caller holds l.mu.
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

// replies passes on what Redis sends, reply by reply.
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
	l.queue = l.queue[1:] // not earlier, so that later ones stay behind it
	l.substitute()
}

// match returns the command of which raw is the last reply. For anything else it does what is needed and returns nil.
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
		return nil // with Twice, the first reply is the one that is lost
	}
	return e
}
