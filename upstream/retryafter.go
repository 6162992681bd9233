package upstream

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// maxRetryAfter bounds what is believed of a Retry-After: a day, which is how long a token lives.
	maxRetryAfter = 24 * time.Hour
	// defaultRetryAfter is what a 429 means that names no time.
	defaultRetryAfter = time.Second
)

// retryAfter reads the Retry-After header (RFC 9110, section 10.2.3): seconds, rounded up to whole ones, or an HTTP
// date. It returns 0 when there is none that can be read.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if decimal(value) {
		// The RFC has whole seconds; fractions are seen in the wild. Beyond the range of a float64 is +Inf, not an error of
		// ours.
		seconds, _ := strconv.ParseFloat(value, 64)
		return wholeSeconds(seconds)
	}
	if date, err := http.ParseTime(value); err == nil {
		return wholeSeconds(date.Sub(serverTime(header, now)).Seconds())
	}
	return 0
}

// rateLimitReset reads the X-Rate-Limit-Reset header, which some send with a 429 in place of Retry-After: seconds since
// 1970. It returns 0 when there is none that can be read, or that moment has passed.
func rateLimitReset(header http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(header.Get("X-Rate-Limit-Reset"))
	if !decimal(value) {
		return 0
	}
	reset, _ := strconv.ParseFloat(value, 64)
	return wholeSeconds(reset - float64(serverTime(header, now).Unix()))
}

// serverTime is the time of the answer by its own Date (RFC 9110, section 6.6.1), else ours: the two clocks may differ.
func serverTime(header http.Header, now time.Time) time.Time {
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		return date
	}
	return now
}

// decimal reports whether value is made of digits with at most one point between them, which is less than ParseFloat
// takes.
func decimal(value string) bool {
	whole, fraction, pointed := strings.Cut(value, ".")
	return digits(whole) && (!pointed || digits(fraction))
}

func digits(value string) bool {
	return value != "" && strings.Trim(value, "0123456789") == ""
}

// wholeSeconds rounds up, and keeps the result between 0 and maxRetryAfter.
func wholeSeconds(seconds float64) time.Duration {
	seconds = min(max(0, math.Ceil(seconds)), maxRetryAfter.Seconds())
	return time.Duration(seconds) * time.Second
}
