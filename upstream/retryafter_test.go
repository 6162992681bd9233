package upstream

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	in := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for name, c := range map[string]struct {
		value, date string
		want        time.Duration
	}{
		"seconds":               {"7", "", 7 * time.Second},
		"spaces":                {" 7 ", "", 7 * time.Second},
		"fraction":              {"2.5", "", 3 * time.Second},
		"tiny fraction":         {"0.001", "", time.Second},
		"none":                  {"", "", 0},
		"zero":                  {"0", "", 0},
		"words":                 {"soon", "", 0},
		"negative":              {"-5", "", 0},
		"exponent":              {"1e3", "", 0},
		"infinite":              {"Inf", "", 0},
		"two points":            {"1.2.3", "", 0},
		"point alone":           {".", "", 0},
		"an hour":               {"3600", "", time.Hour},
		"a year":                {"31536000", "", maxRetryAfter},
		"64 bits":               {"18446744073709551615", "", maxRetryAfter},
		"more than 64 bits":     {"184467440737095516150000000000000000000", "", maxRetryAfter},
		"more than a float":     {strings.Repeat("9", 400), "", maxRetryAfter},
		"date":                  {in(7 * time.Second), "", 7 * time.Second},
		"past date":             {in(-time.Hour), "", 0},
		"far date":              {in(100000 * time.Hour), "", maxRetryAfter},
		"by the server's clock": {in(time.Hour + 7*time.Second), in(time.Hour), 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			header := http.Header{"Retry-After": {c.value}}
			if c.date != "" {
				header.Set("Date", c.date)
			}
			if got := retryAfter(header, now); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

func TestRateLimitReset(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) string { return strconv.FormatInt(now.Add(d).Unix(), 10) }
	for name, c := range map[string]struct {
		value, date string
		want        time.Duration
	}{
		"in 42 s":               {at(42 * time.Second), "", 42 * time.Second},
		"passed":                {at(-time.Second), "", 0},
		"none":                  {"", "", 0},
		"words":                 {"soon", "", 0},
		"more than 64 bits":     {"184467440737095516150", "", maxRetryAfter},
		"by the server's clock": {at(time.Hour + 7*time.Second), now.Add(time.Hour).Format(http.TimeFormat), 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			header := http.Header{"X-Rate-Limit-Reset": {c.value}}
			if c.date != "" {
				header.Set("Date", c.date)
			}
			if got := rateLimitReset(header, now); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}
