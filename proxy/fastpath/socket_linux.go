package fastpath

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A socket reads and writes a connection with half of the system calls of package net, each without telling Go's
// scheduler: the calls never block, so telling it would only cost time, and when the kernel interrupts one, the
// scheduler would start another thread in vain.
//
// Package net learns that all has been read from one more read, which fails. Here, each read also returns how much is
// left (TCP_INQ in tcp(7)), where the end of the stream counts too. When nothing is left, whatever comes makes the
// connection readable anew.
type socket struct {
	conn syscall.RawConn
	fd   uintptr // while each runs

	message unix.Msghdr
	buffer  unix.Iovec
	inquiry inquiry
}

// An inquiry is the control message of TCP_INQ.
type inquiry struct {
	unix.Cmsghdr
	left int32
	_    int32 // room for the alignment of control messages
}

// newSocket returns the socket of conn, which must be a connection of package net itself: what wraps one has a Read of
// its own. It returns nil for any other conn.
func newSocket(conn net.Conn) *socket {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	s := &socket{conn: raw}
	s.message.Iov = &s.buffer
	s.message.SetIovlen(1)
	_ = raw.Control(func(fd uintptr) {
		if inquires() && unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_INQ, 1) == nil {
			// No other socket may have it: over a Unix socket, callers could send files, which would be open then.
			s.message.Control = (*byte)(unsafe.Pointer(&s.inquiry)) //nolint:gosec // for recvmsg
		}
	})
	return s
}

// inquires reports whether the end of the stream counts in what TCP_INQ tells, which it does since Linux 5.1. Other
// systems that imitate Linux, such as gVisor, call themselves an older one.
var inquires = sync.OnceValue(func() bool {
	var name unix.Utsname
	var major, minor int
	if unix.Uname(&name) != nil {
		return false
	}
	_, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	return err == nil && (major > 5 || major == 5 && minor >= 1)
})

// each reads into b whenever something arrives, and calls do with how much that is, until do returns false. Before do
// returns true, it must have sent something: that fails if the connection was reset, which neither counts as left nor
// is reported again. The errors of each are as those of [net.Conn.Read].
func (s *socket) each(b []byte, do func(n int) (more bool)) (err error) {
	s.buffer.Base = &b[0]
	s.buffer.SetLen(len(b))
	waited := s.conn.Read(func(fd uintptr) (done bool) {
		s.fd = fd
		for {
			n, left, errno := s.receive()
			switch {
			case errno == unix.EAGAIN:
				return false
			case errno == unix.EINTR:
			case errno != 0:
				err = &net.OpError{Op: "read", Err: os.NewSyscallError("recvmsg", errno)}
				return true
			case n == 0:
				err = io.EOF
				return true
			case !do(n):
				return true
			case !left:
				return false
			}
		}
	})
	s.buffer.Base = nil
	if op, ok := errors.AsType[*net.OpError](waited); ok {
		op.Op = "read" // net/http knows it by that
	}
	return cmp.Or(err, waited)
}

// receive reads into buffer. left is false if nothing more can be read at present.
func (s *socket) receive() (n int, left bool, errno syscall.Errno) {
	if s.message.Control != nil {
		s.message.SetControllen(int(unsafe.Sizeof(s.inquiry)))
	}
	r, _, errno := syscall.RawSyscall(unix.SYS_RECVMSG, s.fd,
		uintptr(unsafe.Pointer(&s.message)), unix.MSG_DONTWAIT) //nolint:gosec // for recvmsg
	known := s.message.Controllen > 0 && s.inquiry.Level == unix.IPPROTO_TCP && s.inquiry.Type == unix.TCP_CM_INQ
	return int(r), !known || s.inquiry.left != 0, errno
}

// send writes what the connection takes of b at once, and returns how much that is; 0 also if it fails, as the next
// Write will.
func (s *socket) send(b []byte) int {
	n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, s.fd,
		uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0) //nolint:gosec // for sendto
	if errno != 0 {
		return 0
	}
	return int(n)
}
