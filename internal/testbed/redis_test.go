package testbed

import "testing"

// TestAnAddressIsGivenToOne: neither this process nor one that begins at the same port is given an address that a test
// still has.
func TestAnAddressIsGivenToOne(t *testing.T) {
	next := nextPort.Load()
	first := FreeAddr(t)
	nextPort.Store(next)
	if second := FreeAddr(t); second == first {
		t.Errorf("%s was given out twice", second)
	}
}
