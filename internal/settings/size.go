package settings

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A Size is a number of bytes, written as 33554432, 32KiB, 32MiB or 1GiB; the B may be omitted, as in Kubernetes.
type Size int64

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{{"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10}}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *Size) UnmarshalText(text []byte) error {
	number, unit := strings.TrimSuffix(string(text), "B"), int64(1)
	for _, u := range sizeUnits {
		if digits, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = digits, u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<40)/unit {
		return errors.New("is not a size; use bytes, or a number with KiB, MiB or GiB")
	}
	*s = Size(n * unit)
	return nil
}

// Bytes is the number of bytes.
func (s Size) Bytes() int64 { return int64(s) }

// String implements [fmt.Stringer].
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && int64(s)%u.bytes == 0 {
			return fmt.Sprint(int64(s)/u.bytes, u.suffix, "B")
		}
	}
	return strconv.FormatInt(int64(s), 10)
}
