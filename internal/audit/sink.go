package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"token-sidecar/internal/reason"
)

// Stdout is the AUDIT_LOG that means standard output.
const Stdout = "stdout"

// A sink accepts lines. Its methods are called by one goroutine only.
type sink interface {
	// write writes whole lines. After an error some of them may have been written.
	write(lines []byte) error
	// reopen makes the next write open the path again.
	reopen()
	close() error
}

// openSink opens AUDIT_LOG.
func openSink(path string) (sink, error) {
	if path == Stdout {
		// Go ends a program that writes to standard output after the reader has gone, but not if it writes to a
		// duplicate.
		fd, err := syscall.Dup(syscall.Stdout)
		if err != nil {
			return nil, fmt.Errorf("standard output cannot be used: %s; name a file", reason.Of(err))
		}
		syscall.CloseOnExec(fd)
		return &stream{out: os.NewFile(uintptr(fd), Stdout)}, nil
	}
	f := &file{path: path}
	return f, f.open()
}

// A stream is a sink that cannot be moved.
type stream struct {
	out  io.WriteCloser
	torn tear
}

func (s *stream) write(lines []byte) error { return s.torn.write(s.out, lines) }
func (s *stream) reopen()                  {}
func (s *stream) close() error             { return s.out.Close() }

// A file is a sink that log rotation may move away.
type file struct {
	path string
	out  *os.File // nil: to be opened before the next write
	mine os.FileInfo
	torn tear
}

// fileMode lets the group read, for log collectors.
const fileMode = 0o640

func (f *file) open() error {
	// With O_NONBLOCK, a pipe without a reader is an error instead of a wait.
	const flags = os.O_APPEND | os.O_CREATE | os.O_WRONLY | syscall.O_NONBLOCK
	out, err := os.OpenFile(f.path, flags, fileMode)
	if err != nil {
		return unwritable(err)
	}
	if f.mine, err = out.Stat(); err != nil {
		_ = out.Close()
		return unwritable(err)
	}
	f.out, f.torn = out, tear(endsTorn(f.path, f.mine))
	return nil
}

// endsTorn reports whether the file ends in the middle of a line, because another process ran out of space or its
// machine died. It errs on the side of true.
func endsTorn(path string, info os.FileInfo) bool {
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	in, err := os.Open(path) //nolint:gosec // the operator's own setting
	if err != nil {
		return true // it may; an empty line does no harm
	}
	defer func() { _ = in.Close() }()
	last := make([]byte, 1)
	_, err = in.ReadAt(last, info.Size()-1)
	return err != nil || last[0] != '\n'
}

func (f *file) write(lines []byte) error {
	if f.out != nil && f.moved() {
		f.reopen()
	}
	if f.out == nil {
		if err := f.open(); err != nil {
			return err
		}
	}
	err := f.torn.write(f.out, lines)
	if err != nil {
		f.reopen() // its file system may have been mounted again
	}
	return err
}

// moved reports whether the path has another file, or none.
func (f *file) moved() bool {
	there, err := os.Stat(f.path)
	return err != nil || !os.SameFile(there, f.mine)
}

func (f *file) reopen() { _ = f.close() }

func (f *file) close() error {
	if f.out == nil {
		return nil
	}
	err := f.out.Close()
	f.out = nil
	return err
}

// A tear says whether the last written line is incomplete.
type tear bool

// write writes lines, starting on a new line after a torn one.
func (t *tear) write(out io.Writer, lines []byte) error {
	if *t {
		lines = append([]byte{'\n'}, lines...)
	}
	n, err := out.Write(lines)
	if n > 0 {
		*t = lines[n-1] != '\n'
	}
	return err
}

// An unwritableError says why the file cannot be written. It omits the path, which could be a secret set as AUDIT_LOG
// by mistake.
type unwritableError struct{ err error }

func unwritable(err error) error { return unwritableError{err} }

func (e unwritableError) Error() string {
	return "the file cannot be written: " + reason.Of(e.err) + "; name stdout, or a file that the sidecar may write"
}

func (e unwritableError) Unwrap() error { return e.err }

// CheckLog reports why lines cannot be written to path. It leaves nothing behind.
func CheckLog(path string) error {
	if path == Stdout {
		return nil
	}
	out, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|syscall.O_NONBLOCK, fileMode) //nolint:gosec // the operator's own setting
	if errors.Is(err, fs.ErrNotExist) {
		out, err = os.CreateTemp(filepath.Dir(path), ".audit-*")
		if err == nil {
			defer func() { _ = os.Remove(out.Name()) }()
		}
	}
	if err != nil {
		return unwritable(err)
	}
	return out.Close()
}
