package upstream

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// maxRetryAfter bounds Retry-After: a day, which is how long a token lives.
	maxRetryAfter = 24 * time.Hour
	// defaultRetryAfter is used for a 429 that names no time.
	defaultRetryAfter = time.Second
)

// retryAfter reads the Retry-After header (RFC 9110, section 10.2.3): seconds, rounded up, or an HTTP date. It returns
// 0 if the header is missing or cannot be parsed.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if decimal(value) {
		// The RFC allows whole seconds only, but fractions occur. A number beyond float64 becomes +Inf; the error is
		// ignored.
		seconds, _ := strconv.ParseFloat(value, 64)
		return wholeSeconds(seconds)
	}
	if date, err := http.ParseTime(value); err == nil {
		return wholeSeconds(date.Sub(serverTime(header, now)).Seconds())
	}
	return 0
}

// rateLimitReset reads the X-Rate-Limit-Reset header, which some servers send with a 429 instead of Retry-After:
// seconds since 1970. It returns 0 if the header is missing or cannot be parsed, or if that time has passed.
func rateLimitReset(header http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(header.Get("X-Rate-Limit-Reset"))
	if !decimal(value) {
		return 0
	}
	reset, _ := strconv.ParseFloat(value, 64)
	return wholeSeconds(reset - float64(serverTime(header, now).Unix()))
}

// serverTime is the time of the answer by its own Date (RFC 9110, section 6.6.1), if it has one, because the two clocks
// may differ; otherwise it is now.
func serverTime(header http.Header, now time.Time) time.Time {
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		return date
	}
	return now
}

// decimal reports whether value consists of digits with at most one point between them; ParseFloat accepts more.
func decimal(value string) bool {
	whole, fraction, pointed := strings.Cut(value, ".")
	return digits(whole) && (!pointed || digits(fraction))
}

func digits(value string) bool {
	return value != "" && strings.Trim(value, "0123456789") == ""
}

// wholeSeconds rounds up, and limits the result to between 0 and maxRetryAfter.
func wholeSeconds(seconds float64) time.Duration {
	seconds = min(max(0, math.Ceil(seconds)), maxRetryAfter.Seconds())
	return time.Duration(seconds) * time.Second
}
