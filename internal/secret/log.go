package secret

import (
	"log/slog"
	"strings"
)

// risky are parts of the names of attributes whose values must not be logged.
var risky = []string{"secret", "token", "password", "authorization", "user_id", "email", "key", "url", "body"}

// ReplaceAttr is for [slog.HandlerOptions]. It is a second line of defence behind the types of this package: it hides
// the value of an attribute whose name suggests a credential or a person, in case one is logged in the clear. It also
// formats durations for people.
func ReplaceAttr(_ []string, a slog.Attr) slog.Attr {
	name := strings.ToLower(a.Key)
	for _, part := range risky {
		if strings.Contains(name, part) {
			return slog.String(a.Key, hidden)
		}
	}
	if a.Value.Kind() == slog.KindDuration { // JSON would show nanoseconds
		return slog.String(a.Key, a.Value.Duration().String())
	}
	return a
}
