package sandbox

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestDocumentedAnswers: every documented errorCode, in the documented order of checks, and every type.
func TestDocumentedAnswers(t *testing.T) {
	const ours = `"client_id":"sandbox-client","client_secret":"sandbox-secret"`
	for name, c := range map[string]struct {
		path, body string
		status     int
		field      string // a string field
		code       string
	}{
		"broken JSON":       {"connect", `{`, 400, "message", ""},
		"no type":           {"connect", `{` + ours + `,"client_user_id":"a"}`, 400, "message", ""},
		"no user":           {"connect", `{` + ours + `,"type":"access"}`, 400, "message", ""},
		"session, no email": {"connect", `{` + ours + `,"type":"session","client_user_id":"a"}`, 400, "message", ""},
		"wrong type":        {"connect", `{"client_id":"x","client_secret":"x","type":"x","client_user_id":"unknown-a"}`, 400, "message", "INVALID_TOKEN_TYPE"},
		"client on connect": {"connect", `{` + ours + `,"type":"client"}`, 400, "message", "INVALID_TOKEN_TYPE"},
		"wrong id":          {"connect", `{"client_id":"x","client_secret":"x","type":"access","client_user_id":"unknown-a"}`, 401, "message", "INVALID_CLIENT_ID"},
		"wrong secret":      {"connect", `{"client_id":"sandbox-client","client_secret":"x","type":"access","client_user_id":"unknown-a"}`, 401, "message", "INVALID_CLIENT_ID_OR_SECRET"},
		"forbidden":         {"connect", `{` + ours + `,"type":"access","client_user_id":"forbidden-a"}`, 403, "message", "NOT_AUTHORIZED"},
		"unknown":           {"connect", `{` + ours + `,"type":"access","client_user_id":"unknown-a"}`, 404, "message", "UNKNOWN_CLIENT_USER_ID"},
		"unconnected":       {"connect", `{` + ours + `,"type":"access","client_user_id":"unconnected-a"}`, 403, "message", "ACCESS_TOKEN_GENERATION_NOT_ALLOWED"},
		"access":            {"connect", `{` + ours + `,"type":"access","client_user_id":"a"}`, 200, "access_token", ""},
		"access of HIP":     {"admin", `{` + ours + `,"type":"access","client_user_id":"a"}`, 200, "refresh_token", ""},
		"id":                {"connect", `{` + ours + `,"type":"id","client_user_id":"a"}`, 200, "id_token", ""},
		"id_token":          {"connect", `{` + ours + `,"type":"id_token","client_user_id":"a"}`, 200, "id_refresh_token", ""},
		"session":           {"connect", `{` + ours + `,"type":"session","client_user_id":"a","client_user_email":"b"}`, 200, "session_token", ""},
		"client":            {"admin", `{` + ours + `,"type":"client"}`, 200, "client_token", ""},
	} {
		t.Run(name, func(t *testing.T) {
			rec := httptest.NewRecorder()
			New(Options{}).ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/"+c.path+"/token",
				strings.NewReader(c.body)))
			var fields map[string]any
			if err := json.Unmarshal(rec.Body.Bytes(), &fields); err != nil {
				t.Fatal(err)
			}
			text, _ := fields[c.field].(string)
			code, _ := fields["errorCode"].(string)
			if rec.Code != c.status || text == "" || code != c.code ||
				(c.status != 200) != (rec.Header().Get("X-Humanapi-Request-Id") != "") {
				t.Errorf("%d %s", rec.Code, rec.Body)
			}
		})
	}
}

func TestInspect(t *testing.T) {
	now := time.Now()
	token := mint("alice", now, 60)
	if mine, left := Inspect(token, "alice", now.Add(20*time.Second)); !mine || left > 40*time.Second ||
		left < 39*time.Second {
		t.Errorf("%v, %v", mine, left)
	}
	for _, other := range []string{"", "x", "sbx.a.b.c", strings.Replace(token, "sbx", "sby", 1)} {
		if mine, _ := Inspect(other, "alice", now); mine {
			t.Errorf("%q is taken for a token of alice", other)
		}
	}
	if mine, _ := Inspect(token, "bob", now); mine {
		t.Error("a token of alice is taken for one of bob")
	}
}

// TestMistakesInAMood: each error names its field.
func TestMistakesInAMood(t *testing.T) {
	s := New(Options{})
	for body, field := range map[string]string{
		`{"status":500}`:                        "",
		`{}`:                                    "",
		`{"users":{"a":{"status":401}}}`:        "",
		`{"paths":{"/v1/admin/token":{}}}`:      "",
		`{"status":429,"retry_after":"2.5"}`:    "",
		`{"fault":"nonsense"}`:                  "fault",
		`{"fault":"html","status":500}`:         "fault",
		`{"status":7}`:                          "status",
		`{"status":"500"}`:                      "status",
		`{"status":1.5}`:                        "status",
		`{"stauts":500}`:                        "stauts",
		`{"latency_ms":-1}`:                     "latency_ms",
		`{"latency_ms":"1s"}`:                   "latency_ms",
		`{"token_late_ms":-1}`:                  "token_late_ms",
		`{"expires_in":-1}`:                     "expires_in",
		`{"rate_limit_reset_in":-1}`:            "rate_limit_reset_in",
		`{"rate_limit_reset_in":1}`:             "rate_limit_reset_in",
		`{"retry_after":"1"}`:                   "retry_after",
		`{"retry_after":1,"status":429}`:        "retry_after",
		`{"error_code":"NOT_AUTHORIZED"}`:       "error_code",
		`{"echo":"yes"}`:                        "echo",
		`{"same_token":1}`:                      "same_token",
		`{"refuse_client_tokens":"no"}`:         "refuse_client_tokens",
		`{"client_secret":5}`:                   "client_secret",
		`{"users":["a"]}`:                       "users",
		`{"users":{"a":{"status":7}}}`:          "users.a.status",
		`{"users":{"a":{"client_secret":"x"}}}`: "users.a.client_secret",
		`{"users":{"a":{"users":{}}}}`:          "users.a.users",
		`{"paths":{"/v1/admin/token":{"paths":{"/v1/admin/token":{}}}}}`: "paths./v1/admin/token.paths",
		`{"paths":{"/token":{}}}`: "paths",
		`x`:                       "body",
		``:                        "body",
		`[]`:                      "body",
		`{} {}`:                   "body",
		`{"status":500`:           "body",
		`{"client_secret":"` + strings.Repeat("x", 65<<10) + `"}`: "body",
	} {
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/sandbox", strings.NewReader(body)))
		if field == "" {
			if rec.Code != http.StatusNoContent {
				t.Errorf("%s: %d %s", body, rec.Code, rec.Body)
			}
			continue
		}
		var wrong struct{ Field, Message string }
		err := json.Unmarshal(rec.Body.Bytes(), &wrong)
		if err != nil || rec.Code != http.StatusBadRequest || wrong.Field != field ||
			!strings.HasPrefix(wrong.Message, field+": ") {
			t.Errorf("%.80s: %d %s, want %s", body, rec.Code, rec.Body, field)
		}
	}
}
