package cache

import (
	"strconv"
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

// TestWhatIsUsedStays: when memory is full, tokens that are used stay, and others make room.
func TestWhatIsUsedStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const room, used = 400, 40
		m := newMemory(room * (entryOverhead + 100) * refusalShare / (refusalShare - 1))
		defer m.close()
		put := func(name string) {
			m.put(NewKey(name), newEntry(name, time.Hour), 1, func() bool { return true })
		}
		use := func() (found int) {
			for i := range used {
				if m.entry(NewKey("used", strconv.Itoa(i)), time.Now()) != nil {
					found++
				}
				synctest.Wait() // otter takes only so many reads at once
			}
			return found
		}
		for i := range used {
			m.put(NewKey("used", strconv.Itoa(i)), newEntry("x", time.Hour), 1, func() bool { return true })
		}
		for i := range 10 * room {
			put(strconv.Itoa(i))
			if i%20 == 0 {
				time.Sleep(time.Second)
				use()
			}
		}
		if found := use(); found < used*9/10 {
			t.Errorf("%d of %d are still there, of %d", found, used, m.size())
		}
		if m.size() > 2*room {
			t.Errorf("%d tokens are there, with room for %d", m.size(), room)
		}
	})
}

// TestConfirmations: trust counts from the last confirmation, by both clocks; one of an older generation does not
// replace it, and a token that is put anew has none.
func TestConfirmations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(1 << 20)
		defer m.close()
		key, e := NewKey("u"), newEntry("x", time.Hour)
		expect := func(generation uint64, ago time.Duration) {
			t.Helper()
			if g, a := e.notes.generation.Load(), e.notes.confirmed(time.Now()); g != generation || generation > 0 && a != ago {
				t.Errorf("confirmed %v ago in generation %d, in place of %v and %d", a, g, ago, generation)
			}
		}
		good := func() bool { return true }
		m.put(key, e, 0, good)
		expect(0, 0)
		m.put(key, e, 2, good)
		time.Sleep(time.Second)
		m.put(key, e, 0, good)
		m.put(key, e, 1, good)
		expect(2, time.Second)
		m.put(key, e, 2, good)
		expect(2, 0)
		// One clock or the other has moved on by a minute.
		e.notes.wall.Add(-int64(time.Minute))
		expect(2, time.Minute)
		e.notes.wall.Add(2 * int64(time.Minute))
		e.notes.monotonic.Add(-int64(time.Minute))
		expect(2, time.Minute)
		m.forget(key, nil)
		m.put(key, e, 0, good)
		expect(0, 0)
	})
}
