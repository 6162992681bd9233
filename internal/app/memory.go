package app

import (
	"errors"
	"log/slog"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// memoryShare is what the heap may take of the container's memory limit before garbage is collected more often. The
// rest is for what Go does not count, such as the kernel's buffers of connections.
const memoryShare = 0.8

// limitMemory keeps a burst of requests from having the container killed. It respects GOMEMLIMIT.
func limitMemory(log *slog.Logger) {
	_, err := memlimit.Set(memlimit.WithRatio(memoryShare))
	if err != nil && !errors.Is(err, memlimit.ErrNoCgroup) && !errors.Is(err, memlimit.ErrCgroupsNotSupported) {
		log.Warn("the memory limit of the container cannot be read; set GOMEMLIMIT to four fifths of it",
			slog.Any("error", err))
	}
}
