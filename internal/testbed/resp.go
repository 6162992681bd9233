package testbed

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
)

// This file reads RESP, the protocol of Redis, in its versions 2 and 3.

var errRESP = errors.New("not RESP")

// readCommand reads a command and returns it verbatim and as words. An empty line has no words.
func readCommand(r *bufio.Reader) (raw []byte, args []string, err error) {
	raw, err = r.ReadBytes('\n')
	if err != nil {
		return nil, nil, err
	}
	if raw[0] != '*' { // an inline command
		return raw, strings.Fields(string(raw)), nil
	}
	n, err := lengthOf(raw)
	if err != nil {
		return nil, nil, err
	}
	for range n {
		at := len(raw)
		raw, err = readReply(r, raw)
		if err != nil {
			return nil, nil, err
		}
		_, word, found := bytes.Cut(raw[at:], []byte("\r\n"))
		if !found || raw[at] != '$' || len(word) < 2 {
			return nil, nil, errRESP
		}
		args = append(args, string(word[:len(word)-2]))
	}
	return raw, args, nil
}

// readReply reads a whole reply, and appends it verbatim to raw.
func readReply(r *bufio.Reader, raw []byte) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	raw = append(raw, line...)
	inside := 0
	switch line[0] {
	case '+', '-', ':', '_', '#', ',', '(':
		return raw, nil
	case '$', '=', '!':
		n, err := lengthOf(line)
		if err != nil || n < 0 {
			return raw, err
		}
		at := len(raw)
		raw = append(raw, make([]byte, n+2)...)
		_, err = io.ReadFull(r, raw[at:])
		return raw, err
	case '*', '~', '>':
		inside, err = lengthOf(line)
	case '%':
		inside, err = lengthOf(line)
		inside *= 2
	case '|': // attributes, followed by the reply to which they belong
		inside, err = lengthOf(line)
		inside = 2*inside + 1
	default:
		err = errRESP
	}
	if err != nil {
		return nil, err
	}
	for range inside {
		if raw, err = readReply(r, raw); err != nil {
			return nil, err
		}
	}
	return raw, nil
}

// lengthOf returns the number in the first line of a reply; -1 means null.
func lengthOf(line []byte) (int, error) {
	n, err := strconv.Atoi(strings.TrimSpace(string(line[1:])))
	if err != nil || n < -1 {
		return 0, errRESP
	}
	return n, nil
}

// pushKind is the first word of a pub/sub message, empty for other replies. In RESP 2 these look alike, so it counts as
// a reply unless the connection has subscribed to something.
func pushKind(raw []byte, subscribed bool) string {
	if raw[0] != '>' && (raw[0] != '*' || !subscribed) {
		return ""
	}
	lines := bytes.SplitN(raw, []byte("\r\n"), 4)
	if len(lines) < 4 {
		return ""
	}
	kind := string(lines[2])
	switch kind {
	case "message", "pmessage", "smessage", "subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe",
		"sunsubscribe":
		return kind
	}
	if raw[0] == '>' {
		return "push"
	}
	return ""
}
