package upstream

import (
	"cmp"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endUnacknowledged makes the kernel end a connection when data that was sent has not been acknowledged for that long
// (TCP_USER_TIMEOUT in tcp(7)): it sends no keep-alive probes meanwhile.
func endUnacknowledged(conn syscall.RawConn, limit time.Duration) error {
	var unset error
	err := conn.Control(func(fd uintptr) {
		unset = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	})
	return cmp.Or(err, unset)
}
