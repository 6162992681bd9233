package secret

import (
	"log/slog"
	"strings"
)

// risky are parts of attribute names that must not reach a log with their value.
var risky = []string{"secret", "token", "password", "authorization", "user_id", "email", "key", "url", "body"}

// ReplaceAttr is for [slog.HandlerOptions]: a second net under the types of this package. It hides the value
// of an attribute whose name sounds like a credential or a person, should one ever be logged in the clear. It also
// writes durations so that people can read them.
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
