package testbed

import (
	"time"
	"unsafe"
)

// Stepped returns t as it would have been read after a step of the wall clock alone, with the monotonic clock
// unchanged. A test cannot step the machine's clock, and the time package cannot make such a time.
func Stepped(t time.Time, by time.Duration) time.Time {
	type layout struct { // of time.Time
		wall, monotonic uint64
		zone            *time.Location
	}
	stepped := t.Add(by) // by both clocks
	(*layout)(unsafe.Pointer(&stepped)).monotonic = (*layout)(unsafe.Pointer(&t)).monotonic
	if stepped.Sub(t) != 0 || stepped.UnixNano()-t.UnixNano() != int64(by) {
		panic("testbed: time.Time has another layout than this knows, or there is no monotonic reading")
	}
	return stepped
}
