package cache

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// value can be told to have expired.
type value struct{ number, expired *int }

// TestBounded compares a Bounded with a map, over random calls: what it has is right, it has what was put last, it is
// never over its bound, and drops nothing while there is room or something expired.
func TestBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 6).Draw(t, "most")
		b := NewBounded(most, func(v value) bool { return *v.expired != 0 })
		want := map[string]value{}
		names := rapid.StringMatching("[a-j]")
		have := func() (live int) {
			for name := range want {
				if _, ok := b.Get(NewKey(name)); ok && *want[name].expired == 0 {
					live++
				}
			}
			return live
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				name, number := names.Draw(t, "name"), rapid.Int().Draw(t, "number")
				live := have()
				_, had := b.Get(NewKey(name))
				v := value{&number, new(int)}
				wasDead := had && *want[name].expired != 0
				b.Put(NewKey(name), v)
				want[name] = v
				if got, ok := b.Get(NewKey(name)); !ok || got != v {
					t.Fatalf("%q is not there after it was put", name)
				}
				if (!had || wasDead) && live < most {
					live++
				}
				if n := have(); n < live {
					t.Fatalf("%d of %d are left, of at most %d", n, live, most)
				}
			},
			"expire": func(t *rapid.T) {
				if v, ok := want[names.Draw(t, "name")]; ok {
					*v.expired = 1
				}
			},
			"remove": func(t *rapid.T) {
				name := names.Draw(t, "name")
				b.Change(NewKey(name), func(v value) (value, bool) { return v, false })
				delete(want, name)
			},
			"change": func(t *rapid.T) {
				name, number := names.Draw(t, "name"), rapid.Int().Draw(t, "number")
				b.Change(NewKey(name), func(value) (value, bool) {
					want[name] = value{&number, new(int)}
					return want[name], true
				})
			},
			"": func(t *rapid.T) {
				for name := range want {
					if got, ok := b.Get(NewKey(name)); ok && got != want[name] {
						t.Fatalf("%q is %v, want %v", name, got, want[name])
					}
				}
				each := 0
				b.Each(func(value) { each++ })
				if b.Len() > most || each != b.Len() {
					t.Fatalf("%d values, %d counted, at most %d", b.Len(), each, most)
				}
			},
		})
	})
}

// TestBoundedSparesWhatIsAskedFor: of more users than there is room for, those that are asked for all the time stay.
func TestBoundedSparesWhatIsAskedFor(t *testing.T) {
	b := NewBounded(100, func(int) bool { return false })
	lost := 0
	for i := range 10_000 {
		regular := NewKey(fmt.Sprint("regular-", i%50))
		if _, ok := b.Get(regular); !ok {
			b.Put(regular, i)
			if i >= 50 {
				lost++
			}
		}
		if i%4 == 0 {
			b.Put(NewKey(fmt.Sprint("once-", i)), i)
		}
	}
	if lost != 0 {
		t.Errorf("what is asked for all the time was dropped %d times", lost)
	}
}

// TestBoundedLetsGoOfWhatExpired: it does not stay for want of something that needs its room.
func TestBoundedLetsGoOfWhatExpired(t *testing.T) {
	dead := false
	b := NewBounded(1000, func(i int) bool { return dead && i < 100 })
	for i := range 100 {
		b.Put(NewKey(fmt.Sprint(i)), i)
	}
	dead = true
	for i := range 100 {
		b.Put(NewKey(fmt.Sprint("later-", i)), 100+i)
	}
	if n := b.Len(); n != 100 {
		t.Errorf("%d values are there, 100 of them expired", n)
	}
}
