package audit

import (
	"crypto/sha256"
	"encoding/json"
	"time"

	"token-sidecar/internal/secret"
)

// format is the version of the lines' format. It is raised by changes that affect readers.
const format = 1

// timeFormat is RFC 3339 with milliseconds, in UTC.
const timeFormat = "2006-01-02T15:04:05.000Z"

// An Outcome is how a request ended.
type Outcome string

// The outcomes. The first four mean that a token was vended, and say from where.
const (
	Memory    Outcome = "memory"
	Redis     Outcome = "redis"
	Fetched   Outcome = "fetched"
	Collapsed Outcome = "collapsed"
	// Refused means that the auth service or a setting denied the token.
	Refused Outcome = "refused"
	// Failed means that there was no token for any other reason.
	Failed Outcome = "failed"
	// Forgotten means that a DELETE was carried out.
	Forgotten Outcome = "forgotten"
	// Abandoned means that the caller left before the answer.
	Abandoned Outcome = "abandoned"
)

// An Event is what is recorded about one request. Path, Type and Outcome are required.
type Event struct {
	// Path and Type are as sent to the auth service.
	Path, Type string
	// User is the client_user_id, empty for a token of the client itself.
	User    secret.Text
	Outcome Outcome
	// Status is the status of the answer, 0 if there was none.
	Status int
	// ErrorCode is that of the answer, and RequestID the auth service's; both may be empty.
	ErrorCode, RequestID string
	// Token is the SHA-256 of the vended token, nil if there was none.
	Token *[sha256.Size]byte
}

// A line is an event as it is written. docs/audit.md describes each field.
type line struct {
	Format    int     `json:"audit"`
	Time      string  `json:"time"`
	Path      string  `json:"path"`
	Type      string  `json:"type"`
	Outcome   Outcome `json:"outcome"`
	Status    int     `json:"status,omitempty"`
	ErrorCode string  `json:"errorCode,omitempty"`
	RequestID string  `json:"requestId,omitempty"`
	Key       string  `json:"key"`
	User      string  `json:"user,omitempty"`
	Token     string  `json:"token,omitempty"`
}

func (e Event) line(now time.Time, key Key) []byte {
	l := line{
		Format: format, Time: stamp(now), Path: e.Path, Type: e.Type, Outcome: e.Outcome, Status: e.Status,
		ErrorCode: e.ErrorCode, RequestID: e.RequestID, Key: key.ID,
	}
	if e.User.Reveal() != "" {
		l.User = key.User(e.User)
	}
	if e.Token != nil {
		l.Token = key.Token(*e.Token)
	}
	return marshal(l)
}

// A gap is the first line after a lapse.
type gap struct {
	Format   int    `json:"audit"`
	Time     string `json:"time"`
	Event    string `json:"event"`
	Since    string `json:"since"`
	Withheld int    `json:"withheld"`
}

func gapLine(now time.Time, over lapse) []byte {
	return marshal(gap{
		Format: format, Time: stamp(now), Event: "resumed", Since: stamp(over.since), Withheld: over.withheld,
	})
}

func stamp(t time.Time) string { return t.UTC().Format(timeFormat) }

func marshal(v any) []byte {
	text, _ := json.Marshal(v) // strings and numbers: never fails
	return append(text, '\n')
}
