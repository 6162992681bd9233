package audit

import (
	"crypto/sha256"
	"encoding/base64"
	"reflect"
	"strings"
	"testing"
	"time"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
)

// TestDoc: docs/audit.md shows lines as they are written, and has a row for each field and each outcome.
func TestDoc(t *testing.T) {
	doc := testbed.ReadFile(t, "../../docs/audit.md")
	keys, err := ParseKeys(secret.Hide(base64.StdEncoding.EncodeToString([]byte("an-example-key-of-thirty-two-byte"))))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 25, 13, 7, 9, 123e6, time.FixedZone("", 3600))
	token := sha256.Sum256([]byte("a token"))
	vended := Event{
		Path: "/v1/connect/token", Type: "access", User: secret.Hide("alice"), Outcome: Memory, Status: 200, Token: &token,
	}
	refused := vended
	refused.Outcome, refused.Status, refused.Token = Refused, 404, nil
	refused.ErrorCode, refused.RequestID = "UNKNOWN_CLIENT_USER_ID", "0f3c9d52-7c1e"
	for _, line := range [][]byte{
		vended.line(at, keys[0]), refused.line(at, keys[0]), gapLine(at, lapse{at.Add(-time.Minute), 17}),
	} {
		if !strings.Contains(doc, "\n"+string(line)) {
			t.Errorf("docs/audit.md does not show\n%s", line)
		}
	}
	for _, of := range []any{line{}, gap{}} {
		for field := range reflect.TypeOf(of).Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if !strings.Contains(doc, "\n| `"+name+"` | ") {
				t.Errorf("docs/audit.md has no row for %s", name)
			}
		}
	}
	for _, outcome := range []Outcome{Memory, Redis, Fetched, Collapsed, Refused, Failed, Forgotten, Abandoned} {
		if !strings.Contains(doc, "\n| `"+string(outcome)+"` | ") {
			t.Errorf("docs/audit.md has no row for %s", outcome)
		}
	}
}
