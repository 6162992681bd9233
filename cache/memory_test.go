package cache

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestAFormerTokenIsKnownBeyondItsEnd: the auth service may answer with it once more in its last second.
func TestAFormerTokenIsKnownBeyondItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(1 << 20)
		defer m.close()
		key := NewKey("u")
		m.put(key, newEntry("x", time.Minute), 1, func() bool { return true }) // with a life of two minutes
		for _, c := range []struct {
			pause         time.Duration
			usable, known bool
		}{
			{time.Minute - 1, true, true},
			{1, false, true},
			{time.Minute + formerGrace - 1, false, true},
			{2, false, false},
		} {
			time.Sleep(c.pause)
			if usable, known := m.entry(key, time.Now()) != nil, m.former(key) != nil; usable != c.usable || known != c.known {
				t.Errorf("after %v more it is usable %v, known %v", c.pause, usable, known)
			}
		}
	})
}
