package audit

import (
	"errors"
	"syscall"
	"time"
)

// A State says whether lines can be written.
type State struct {
	// Since is when that became impossible; zero while it is possible.
	Since time.Time
	// Cause is the reason, one of [Causes]; First is the reason at the beginning.
	Cause, First string
}

// State returns whether lines can be written.
func (t *Trail) State() State {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state
}

// A cause is a reason why lines cannot be written, with the remedy.
type cause struct {
	err         error
	name, about string
}

// causes are those that an operator can do something about.
func causes() []cause {
	const (
		room   = "make room where AUDIT_LOG is, and have lines moved on sooner"
		rights = "let the user of the sidecar write there"
		volume = "look at the volume and its node"
		reader = "start what reads the pipe or standard output"
		slow   = "look at the volume, or at what reads the lines: it does not keep up"
	)
	return []cause{
		{syscall.ENOSPC, "no space left on device", room},
		{syscall.EDQUOT, "disk quota exceeded", room},
		{syscall.EFBIG, "file too large", "have the file rotated sooner"},
		{syscall.EACCES, "permission denied", rights},
		{syscall.EPERM, "operation not permitted", rights},
		{syscall.EROFS, "read-only file system", "mount the volume so that it can be written"},
		{syscall.ENOENT, "no such file or directory", "make the folder of AUDIT_LOG again"},
		{syscall.ENOTDIR, "not a directory", "make the folder of AUDIT_LOG again"},
		{syscall.EISDIR, "is a directory", "remove the folder that is in the file's place"},
		{syscall.EIO, "input/output error", volume},
		{syscall.ESTALE, "stale file handle", volume},
		{syscall.EPIPE, "broken pipe", reader},
		{syscall.ENXIO, "no reader of the pipe", reader},
		{errSlow, "no answer in time", slow},
		{errFull, "too many lines wait", slow},
	}
}

// unknown is the cause if none of the others applies.
const unknown = "writing fails"

// Causes are the names of all causes.
func Causes() (names []string) {
	for _, c := range causes() {
		names = append(names, c.name)
	}
	return append(names, unknown)
}

// causeOf returns the cause of err, without the path that err may contain.
func causeOf(err error) string {
	for _, c := range causes() {
		if errors.Is(err, c.err) {
			return c.name
		}
	}
	return unknown
}

// Remedy returns what an operator can do about a cause.
func Remedy(name string) string {
	for _, c := range causes() {
		if c.name == name {
			return c.about
		}
	}
	return "check the space and the rights at AUDIT_LOG, or who reads standard output"
}
