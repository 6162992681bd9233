//go:build !linux

package upstream

import (
	"syscall"
	"time"
)

// endUnacknowledged does nothing: only Linux has the option.
func endUnacknowledged(syscall.RawConn, time.Duration) error { return nil }
