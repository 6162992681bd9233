package app

import (
	"errors"
	"log/slog"
	"slices"
	"strings"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// memoryShare is what the heap may take of the container's memory limit before garbage is collected more often. The
// rest is for what Go does not count, such as the kernel's buffers of connections.
const memoryShare = 0.8

// inPod begins the variable that is set in every pod.
const inPod = "KUBERNETES_SERVICE_HOST="

// limitMemory keeps a burst of requests from having the container killed. It respects GOMEMLIMIT. Where there is no
// limit, or no pod around, there is nothing to warn of.
func limitMemory(log *slog.Logger, environ []string) {
	_, err := memlimit.Set(memlimit.WithRatio(memoryShare))
	reportLimit(log, environ, err)
}

func reportLimit(log *slog.Logger, environ []string, err error) {
	tell := log.Debug
	if slices.ContainsFunc(environ, func(pair string) bool { return strings.HasPrefix(pair, inPod) }) {
		tell = log.Warn
	}
	if err != nil && !errors.Is(err, memlimit.ErrNoCgroup) && !errors.Is(err, memlimit.ErrCgroupsNotSupported) {
		tell("the memory limit of the container cannot be read; set GOMEMLIMIT to four fifths of it",
			slog.Any("error", err))
	}
}
