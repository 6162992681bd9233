package testbed

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestRepliesAreReadWhole(t *testing.T) {
	for _, reply := range []string{
		"+OK\r\n", "-ERR no\r\n", ":-1\r\n", "_\r\n", "#t\r\n", ",1.5\r\n", "(12345678901234567890\r\n",
		"$0\r\n\r\n", "$-1\r\n", "$4\r\na\r\nb\r\n", "=5\r\ntxt:a\r\n", "!3\r\nERR\r\n",
		"*-1\r\n", "*0\r\n", "*2\r\n*1\r\n$-1\r\n:1\r\n", "~1\r\n:1\r\n", ">2\r\n+a\r\n%1\r\n:1\r\n:2\r\n",
		"%2\r\n+a\r\n*1\r\n:1\r\n+b\r\n_\r\n", "|1\r\n+ttl\r\n:5\r\n$1\r\nx\r\n",
	} {
		r := bufio.NewReader(strings.NewReader(reply + "+next\r\n"))
		for _, want := range []string{reply, "+next\r\n"} {
			if got, err := readReply(r, nil); err != nil || string(got) != want {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		}
		for cut := range len(reply) {
			if got, err := readReply(bufio.NewReader(strings.NewReader(reply[:cut])), nil); err == nil {
				t.Errorf("%q was read as %q", reply[:cut], got)
			}
		}
	}
	for _, bad := range []string{"\r\n", "hello\r\n", "$x\r\n", "*-2\r\n", "*1\r\n?\r\n"} {
		if got, err := readReply(bufio.NewReader(strings.NewReader(bad)), nil); err == nil {
			t.Errorf("%q was read as %q", bad, got)
		}
	}
}

func TestCommandsAreReadWhole(t *testing.T) {
	const one = "*3\r\n$3\r\nset\r\n$0\r\n\r\n$4\r\n\r\n*1\r\n"
	r := bufio.NewReader(strings.NewReader(one + "PING  x\r\n\r\n*0\r\n"))
	for _, want := range []struct {
		raw  string
		args []string
	}{{one, []string{"set", "", "\r\n*1"}}, {"PING  x\r\n", []string{"PING", "x"}}, {"\r\n", nil}, {"*0\r\n", nil}} {
		raw, args, err := readCommand(r)
		if err != nil || string(raw) != want.raw || !slices.Equal(args, want.args) {
			t.Errorf("got %q, %q, %v", raw, args, err)
		}
	}
	if _, _, err := readCommand(r); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	for _, bad := range []string{"*x\r\n", "*1\r\n:1\r\n", "*1\r\n$-1\r\n", "*1\r\n$3\r\na"} {
		if raw, _, err := readCommand(bufio.NewReader(strings.NewReader(bad))); err == nil {
			t.Errorf("%q was read as %q", bad, raw)
		}
	}
}

// oneByOne reads no more than requested, so that reading from the connection can continue.
func oneByOne(r io.Reader) *bufio.Reader { return bufio.NewReader(single{r}) }

type single struct{ io.Reader }

func (s single) Read(p []byte) (int, error) { return s.Reader.Read(p[:1]) }
