package main

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestHeadroom: whatever a load allocates in a second, the collector of garbage soon comes no more often than it should,
// unless that takes more than is allowed; and without a load it is back at the least.
func TestHeadroom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bytes := uint64(leastHeadroom)
		perSecond := rapid.Uint64Range(1<<20, 1<<30).Draw(t, "bytes a second")
		for range 20 {
			since := time.Duration(float64(bytes) / float64(perSecond) * float64(time.Second))
			bytes = nextHeadroom(bytes, since)
			if bytes < leastHeadroom || bytes > mostHeadroom {
				t.Fatalf("%d bytes", bytes)
			}
		}
		if since := float64(bytes) / float64(perSecond); since < apart.Seconds() && bytes < mostHeadroom {
			t.Fatalf("a collection each %v s with %d bytes", since, bytes)
		}
		for range 20 {
			bytes = nextHeadroom(bytes, time.Minute)
		}
		if bytes != leastHeadroom {
			t.Fatalf("%d bytes at rest", bytes)
		}
	})
}
