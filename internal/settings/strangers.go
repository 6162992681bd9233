package settings

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"token-sidecar/internal/spelling"
)

// A Stranger is a variable that looks like a setting but is not one.
type Stranger struct{ Name, Meant string }

// String formats s for people.
func (s Stranger) String() string {
	if s.Name == "MEMORY_CACHE_ENTRIES" {
		return s.Name + " has no effect any more; MEMORY_CACHE_SIZE bounds the cache, in bytes"
	}
	return fmt.Sprintf("%s is not a setting and has no effect; probably %s is meant", s.Name, s.Meant)
}

// Strangers returns the variables in environ that look like a mistyped setting, or like one of the names in further,
// which also have an effect.
func Strangers(environ []string, further ...string) (found []Stranger) {
	settings := names()
	// These are names that Kubernetes sets for the addresses of services, such as one called redis.
	link := regexp.MustCompile(`_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?$`)
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		isLink := link.MatchString(name) || strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://")
		if value == "" || isLink || slices.Contains(settings, name) || slices.Contains(further, name) {
			continue
		}
		spelt := strings.NewReplacer("-", "_", ".", "_").Replace(strings.ToUpper(name))
		meant := cmp.Or(spelling.Nearest(spelt, settings, len(spelt)/4), spelling.Nearest(spelt, further, 2))
		if meant == "" && hasOurPrefix(spelt) {
			meant = cmp.Or(spelling.Nearest(spelt, withWords(spelt, settings), len(spelt)),
				spelling.Nearest(spelt, settings, len(spelt)))
		}
		if meant != "" {
			found = append(found, Stranger{name, meant})
		}
	}
	return found
}

// hasOurPrefix reports whether name begins like our settings and unlike nearly all other variables.
func hasOurPrefix(name string) bool {
	return slices.ContainsFunc([]string{"HUMANAPI_", "UPSTREAM_", "BREAKER_", "MEMORY_CACHE_", "REDIS_"},
		func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// withWords returns those names that contain all words of name.
func withWords(name string, names []string) (found []string) {
	for _, candidate := range names {
		words := strings.Split(candidate, "_")
		if !slices.ContainsFunc(strings.Split(name, "_"), func(w string) bool { return !slices.Contains(words, w) }) {
			found = append(found, candidate)
		}
	}
	return found
}
