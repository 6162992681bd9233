package app

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// TestTheMemoryLimitIsMissedInPodsOnly: a developer's machine has none, which needs no warning.
func TestTheMemoryLimitIsMissedInPodsOnly(t *testing.T) {
	pod := []string{"PATH=/", "KUBERNETES_SERVICE_HOST=10.0.0.1"}
	for _, c := range []struct {
		environ []string
		err     error
		warns   bool
	}{
		{pod, errors.New("unreadable"), true},
		{pod, nil, false},
		{pod, memlimit.ErrNoCgroup, false},
		{pod, memlimit.ErrCgroupsNotSupported, false},
		{[]string{"PATH=/"}, errors.New("unreadable"), false},
	} {
		var log bytes.Buffer
		reportLimit(slog.New(slog.NewTextHandler(&log, nil)), c.environ, c.err)
		if strings.Contains(log.String(), "WARN") != c.warns {
			t.Errorf("%q, %v: %s", c.environ, c.err, &log)
		}
	}
}
