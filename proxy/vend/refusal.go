package vend

import (
	"encoding/json"
	"errors"
	"time"

	"token-sidecar/cache"
	"token-sidecar/internal/secret"
	"token-sidecar/upstream"
)

// lateTTL is how long a key is not fetched again after a token that arrived too late: the next would most likely be
// late too.
const lateTTL = time.Second

// A refusalRecord is how the caches store why there is no token: a definitive refusal by the auth service, or a token
// that arrived too late.
type refusalRecord struct {
	Late      bool   `json:"late,omitempty"`
	Status    int    `json:"status,omitempty"`
	Code      string `json:"code,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	Body      []byte `json:"body,omitempty"`
}

// encodeRefusal returns err as a record, and how long to cache it; 0 means not at all.
func (b *Broker) encodeRefusal(err error) (record cache.Refusal, ttl time.Duration) {
	var e *upstream.Error
	var kept refusalRecord
	switch {
	case errors.Is(err, ErrTooLate):
		kept, ttl = refusalRecord{Late: true}, lateTTL
	case errors.As(err, &e) && e.Kind == upstream.Refused:
		kept, ttl = refusalRecord{Status: e.Status, Code: e.Code, RequestID: e.RequestID, Body: e.Body.Reveal()},
			b.opts.NegativeTTL
	default:
		return record, 0
	}
	plain, err := json.Marshal(kept)
	if err != nil {
		return record, 0
	}
	return secret.Hide(plain), ttl
}

// decodeRefusal is the inverse of encodeRefusal.
func decodeRefusal(record cache.Refusal) error {
	var kept refusalRecord
	if err := json.Unmarshal(record.Reveal(), &kept); err != nil {
		return errors.New("vend: a shared refusal cannot be read")
	}
	if kept.Late {
		return ErrTooLate
	}
	return &upstream.Error{
		Kind: upstream.Refused, Status: kept.Status, Code: kept.Code, RequestID: kept.RequestID, Body: secret.Hide(kept.Body),
	}
}
