package cache

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"token-sidecar/internal/secret"
)

// rotate makes a keyring of these secrets, one after the other; the last one is in use.
func rotate(t testing.TB, keys *Keyring, secrets ...string) {
	t.Helper()
	for _, s := range secrets {
		if err := keys.UseSecret(secret.Hide(s)); err != nil {
			t.Fatal(err)
		}
	}
}

// sealed returns a token sealed with the first key, and its name.
func sealed(keys *Keyring, keepFor time.Duration) (raw string, at name) {
	at = keys.names(NewKey("u"))[0]
	return string(tokenKind) + formatFence(1) + formatToken(newEntry("x", keepFor), at, time.Now()), at
}

// opens reports whether keys can open the sealed token, and still look under its name.
func opens(keys *Keyring, raw string, at name) (read, named bool) {
	for _, n := range keys.names(NewKey("u")) {
		if n.text == at.text {
			at, named = n, true
		}
	}
	_, err := keys.parseToken(raw, at, time.Now(), time.Minute)
	return err == nil, named
}

// TestAFormerSecretEnds: it is used as long as the tokens sealed with it live, and a day at most.
func TestAFormerSecretEnds(t *testing.T) {
	for _, c := range []struct{ keepFor, want time.Duration }{
		{time.Minute, time.Minute},
		{time.Hour, time.Hour},
		{23 * time.Hour, 23 * time.Hour},
		{24 * time.Hour, 24 * time.Hour},
		{30 * 24 * time.Hour, 24 * time.Hour},
	} {
		for _, how := range []string{"sealed it", "opened it"} {
			t.Run(fmt.Sprintf("%s for %v", how, c.keepFor), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					keys, sealer := &Keyring{}, &Keyring{}
					rotate(t, keys, "old")
					rotate(t, sealer, "old")
					if how == "sealed it" {
						sealer = keys
					}
					sealed(sealer, c.keepFor/2)
					raw, at := sealed(sealer, c.keepFor)
					if read, named := opens(keys, raw, at); !read || !named {
						t.Fatal("the secret in force does not open")
					}
					time.Sleep(time.Hour) // a secret in use does not end
					rotate(t, keys, "new")
					if n := len(keys.names(NewKey("u"))); n != 2 {
						t.Errorf("%d names", n)
					}
					time.Sleep(c.want - time.Millisecond)
					if read, named := opens(keys, raw, at); !read || !named {
						t.Errorf("ended early: reads %v, names %v", read, named)
					}
					time.Sleep(time.Millisecond)
					if read, named := opens(keys, raw, at); read || named {
						t.Errorf("not ended: reads %v, names %v", read, named)
					}
				})
			})
		}
	}
}

// TestAFormerSecretOfWhichNothingIsKnown: another sidecar may have sealed something with it, so it is kept for a day.
func TestAFormerSecretOfWhichNothingIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := &Keyring{}
		rotate(t, keys, "old", "new")
		time.Sleep(24*time.Hour - time.Millisecond)
		if n := len(keys.all()); n != 2 {
			t.Errorf("%d keys within the day", n)
		}
		time.Sleep(time.Millisecond)
		if n := len(keys.all()); n != 1 {
			t.Errorf("%d keys after the day", n)
		}
	})
}

// TestSecretsThatChangeOften: each former one has its own end, few are kept, and one that returns is in use again.
func TestSecretsThatChangeOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := &Keyring{}
		rotate(t, keys, "a")
		rawA, atA := sealed(keys, time.Hour)
		rotate(t, keys, "b")
		rawB, atB := sealed(keys, 2*time.Hour)
		time.Sleep(30 * time.Minute)
		rotate(t, keys, "c", "c")
		for _, after := range []struct {
			wait time.Duration
			a, b bool
		}{{0, true, true}, {30 * time.Minute, false, true}, {90 * time.Minute, false, false}} {
			time.Sleep(after.wait)
			a, _ := opens(keys, rawA, atA)
			b, _ := opens(keys, rawB, atB)
			if a != after.a || b != after.b {
				t.Errorf("%v later: a opens %v, b %v", after.wait, a, b)
			}
		}
		rotate(t, keys, "d", "a", "e", "a")
		time.Sleep(100 * 24 * time.Hour)
		if a, named := opens(keys, rawA, atA); !a || !named || len(keys.all()) != 1 {
			t.Errorf("the secret that came back: %v, %v, %d keys", a, named, len(keys.all()))
		}
		for i := range 10 {
			rotate(t, keys, fmt.Sprint(i))
		}
		if n := len(keys.all()); n != 1+maxFormer {
			t.Errorf("%d keys", n)
		}
	})
}
