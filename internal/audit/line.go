package audit

import (
	"crypto/sha256"
	"encoding/json"
	"time"

	"token-sidecar/internal/secret"
)

// format is the number of the lines' format. A change that readers would notice raises it.
const format = 1

// timeFormat is RFC 3339 with milliseconds, of a time in UTC.
const timeFormat = "2006-01-02T15:04:05.000Z"

// An Outcome is how a request ended.
type Outcome string

// The outcomes. The first four are tokens that were vended, by where they came from.
const (
	Memory    Outcome = "memory"
	Redis     Outcome = "redis"
	Fetched   Outcome = "fetched"
	Collapsed Outcome = "collapsed"
	// Refused is no token by somebody's decision, that of the auth service or of a setting.
	Refused Outcome = "refused"
	// Failed is no token for any other reason.
	Failed Outcome = "failed"
	// Forgotten is a DELETE that was carried out.
	Forgotten Outcome = "forgotten"
	// Abandoned is a caller who left before there was an answer.
	Abandoned Outcome = "abandoned"
)

// An Event is what is recorded of one request. Path, Type and Outcome are required.
type Event struct {
	// Path and Type are those of the auth service.
	Path, Type string
	// User is the client_user_id, empty for a token of the client itself.
	User    secret.Text
	Outcome Outcome
	// Status is that of the answer, 0 for none.
	Status int
	// ErrorCode is that of the answer, and RequestID that of the auth service; both may be empty.
	ErrorCode, RequestID string
	// Token is the SHA-256 of the token that is vended, nil for none.
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
	text, _ := json.Marshal(v) // texts and numbers: never fails
	return append(text, '\n')
}
