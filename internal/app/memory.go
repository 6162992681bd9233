package app

import (
	"errors"
	"log/slog"
	"slices"
	"strings"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// memoryShare is the part of the container's memory limit above which the garbage collector works harder. The rest is
// for what Go does not count, such as the kernel's socket buffers.
const memoryShare = 0.8

// inPod is the beginning of a variable that is set in every pod.
const inPod = "KUBERNETES_SERVICE_HOST="

// limitMemory keeps a burst of requests from getting the container killed. It respects GOMEMLIMIT. A limit
// that cannot be read is worth a warning in a pod only; having none is fine.
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
