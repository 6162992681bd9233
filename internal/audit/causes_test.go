package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestCauses: each cause has a name, which matches its error in any form, and a remedy. None repeats the path.
func TestCauses(t *testing.T) {
	const path = "/s3cr3t"
	for _, c := range append(causes(), cause{errors.New(path), unknown, Remedy(unknown)}) {
		for _, err := range []error{
			c.err, unwritable(c.err), fmt.Errorf("x: %w", c.err), unwritable(&fs.PathError{Op: "open", Path: path, Err: c.err}),
		} {
			if got := causeOf(err); got != c.name {
				t.Errorf("%v is %q, not %q", err, got, c.name)
			}
		}
		if err := unwritable(&fs.PathError{Op: "open", Path: path, Err: c.err}); strings.Contains(err.Error(), path) {
			t.Errorf("told with the path: %v", err)
		}
		if Remedy(c.name) != c.about || c.about == "" || !slices.Contains(Causes(), c.name) {
			t.Errorf("%s: what to do is %q", c.name, Remedy(c.name))
		}
	}
}

// TestState: it says since when and why lines cannot be written, and the first cause, until they can be again.
func TestState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &valve{}
		trail := startTrail(t, v)
		defer trail.Close()
		began := time.Now()
		for _, step := range []struct {
			fails error
			want  State
		}{
			{nil, State{}},
			{syscall.EIO, State{began.Add(2 * retryInterval), "input/output error", "input/output error"}},
			{syscall.ENOSPC, State{began.Add(2 * retryInterval), "no space left on device", "input/output error"}},
			{nil, State{}},
			{errors.New("else"), State{began.Add(8 * retryInterval), unknown, unknown}},
		} {
			v.fail(step.fails)
			_ = record(t, trail, "a")
			if got := trail.State(); got != step.want {
				t.Errorf("%v: %+v, want %+v", step.fails, got, step.want)
			}
			time.Sleep(2 * retryInterval)
		}
	})
}
