// Package reason explains errors of the operating system in plain words. Go's own texts also name system calls,
// addresses and paths. These are of no use to an operator, and a path can be a secret that was pasted into the wrong
// setting.
package reason

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// Of returns the reason for err, for use in a sentence. It repeats nothing of err.
func Of(err error) string { return Or(err, "it is not possible") }

// Or is like Of, but returns otherwise for an unknown error.
func Or(err error, otherwise string) string {
	var dns *net.DNSError
	var errno syscall.Errno
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer in time"
	case errors.As(err, &dns):
		return "the name of the host is not known"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed"
	default:
		return otherwise
	}
}
