package upstream

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		body    string
		life    time.Duration // 0: refused
		digits  string
		refresh string
	}{
		"access":             {`{"access_token":"x","expires_in":86400,"refresh_token":"r"}`, 24 * time.Hour, "86400", "r"},
		"numeric string":     {`{"expires_in":"60","access_token":"x"}`, time.Minute, "60", ""},
		"with white space":   {" {\n\"expires_in\" :\t60 , \"access_token\": \"x\"}\n", time.Minute, "60", ""},
		"fraction":           {`{"access_token":"x","expires_in":1.5}`, 1500 * time.Millisecond, "1.5", ""},
		"exponent":           {`{"access_token":"x","expires_in":1e3}`, 1000 * time.Second, "1e3", ""},
		"endless":            {`{"access_token":"x","expires_in":1e300}`, maxLife, "1e300", ""},
		"id":                 {`{"id_token":"x","id_token_expires_in":60}`, time.Minute, "60", ""},
		"client":             {`{"client_token":"x","expires_in":60}`, time.Minute, "60", ""},
		"session":            {`{"session_token":"x","human_id":"h","expires_in":60}`, time.Minute, "60", ""},
		"null refresh token": {`{"access_token":"x","expires_in":60,"refresh_token":null}`, time.Minute, "60", ""},
		"nested names":       {`{"o":{"expires_in":1,"access_token":"y"},"access_token":"x","expires_in":60}`, time.Minute, "60", ""},

		"id's life for an access token": {`{"access_token":"x","id_token_expires_in":60}`, 0, "", ""},
		"no token":                      {`{"expires_in":60}`, 0, "", ""},
		"null token":                    {`{"access_token":null,"expires_in":60}`, 0, "", ""},
		"number as token":               {`{"access_token":1,"expires_in":60}`, 0, "", ""},
		"empty token":                   {`{"access_token":"","expires_in":60}`, 0, "", ""},
		"no life":                       {`{"access_token":"x"}`, 0, "", ""},
		"null life":                     {`{"access_token":"x","expires_in":null}`, 0, "", ""},
		"zero":                          {`{"access_token":"x","expires_in":0}`, 0, "", ""},
		"tiny":                          {`{"access_token":"x","expires_in":1e-300}`, 0, "", ""},
		"negative":                      {`{"access_token":"x","expires_in":-1}`, 0, "", ""},
		"infinite":                      {`{"access_token":"x","expires_in":"Inf"}`, 0, "", ""},
		"not a number":                  {`{"access_token":"x","expires_in":"NaN"}`, 0, "", ""},
		"words":                         {`{"access_token":"x","expires_in":"soon"}`, 0, "", ""},
		"repeated":                      {`{"access_token":"x","access_token":"y","expires_in":60}`, 0, "", ""},
		"repeated after null":           {`{"access_token":null,"access_token":"y","expires_in":60}`, 0, "", ""},
		"list":                          {`[{"access_token":"x","expires_in":60}]`, 0, "", ""},
		"trailing":                      {`{"access_token":"x","expires_in":60} x`, 0, "", ""},
		"raw bytes":                     {"{\"access_token\":\"x\",\"expires_in\":60,\"a\":\"\xff\"}", 0, "", ""},
		"cut":                           {`{"access_token":"x","expires_in":60`, 0, "", ""},
		"empty":                         {``, 0, "", ""},
		"html":                          {`<html>`, 0, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			answer, err := parseAnswer(200, []byte(c.body), time.Now())
			if (err != nil) != (c.life == 0) {
				t.Fatalf("error %v", err)
			}
			if err != nil {
				return
			}
			got := answer.Lifetimes[0]
			if got.Life != c.life || c.body[got.Start:got.End] != c.digits || answer.RefreshToken.Reveal() != c.refresh ||
				answer.Tokens[0].Reveal() != "x" {
				t.Errorf("%+v", got)
			}
		})
	}
}

// FuzzAnswer: whatever the auth service sends becomes an error, or a token whose lifetimes can be lowered in place,
// leaving JSON with the same fields.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"access_token":"x","expires_in":86400,"refresh_token":"r"}`))
	f.Add([]byte(`{"id_token":"x","id_token_expires_in":"60","expires_in":1e2}`))
	f.Add([]byte(`{"access_token":"x","expires_in":"-1"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		answer, err := parseAnswer(200, body, time.Now())
		if err != nil {
			if strings.Contains(err.Error(), string(body)) && len(body) > 12 {
				t.Fatalf("the error quotes the body: %v", err)
			}
			return
		}
		lowered, at := []byte{}, 0
		for _, life := range answer.Lifetimes {
			if life.Life <= 0 || life.Life > maxLife || life.Start < at || life.End <= life.Start {
				t.Fatalf("%+v", life)
			}
			lowered = append(append(lowered, body[at:life.Start]...), "7"...)
			at = life.End
		}
		lowered = append(lowered, body[at:]...)
		var before, after map[string]any
		if json.Unmarshal(body, &before) != nil || json.Unmarshal(lowered, &after) != nil || len(before) != len(after) {
			t.Fatalf("%q became %q", body, lowered)
		}
	})
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		kind   Kind
		code   string
	}{
		"documented code":        {404, `{"errorCode":"UNKNOWN_CLIENT_USER_ID","message":"m"}`, Refused, "UNKNOWN_CLIENT_USER_ID"},
		"our id":                 {401, `{"errorCode":"INVALID_CLIENT_ID"}`, ClientRefused, "INVALID_CLIENT_ID"},
		"our secret, odd status": {400, `{"errorCode":"INVALID_CLIENT_ID_OR_SECRET"}`, ClientRefused, "INVALID_CLIENT_ID_OR_SECRET"},
		"published shape":        {401, `{"statusCode":401,"error":"Unauthorized","message":"m"}`, Unauthorized, ""},
		"user's 401":             {401, `{"errorCode":"NOT_AUTHORIZED"}`, Refused, "NOT_AUTHORIZED"},
		"unnamed 403":            {403, `{"message":"m"}`, Refused, ""},
		"no JSON":                {404, `<html>`, Refused, ""},
		"nothing":                {400, ``, Refused, ""},
		"cut short":              {400, `{"errorCode":"INVALID_CLIENT_ID","message":"m`, Refused, ""},
		"code of another type":   {400, `{"errorCode":7}`, Refused, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := parseRefusal(c.status, http.Header{}, []byte(c.body))
			if e.Kind != c.kind || e.Code != c.code || e.Status != c.status {
				t.Errorf("%+v", e)
			}
		})
	}
}

// TestErrorsTellNothingOfBodies: an error's text may be logged.
// TestFailuresWithoutABody: whatever happens to the body of a failure, its status and its Retry-After count.
func TestFailuresWithoutABody(t *testing.T) {
	for _, status := range []int{408, 425, 429, 500, 502, 503, 504, 599} {
		for name, m := range map[string]mood{
			"whole":         {},
			"hangs at once": {hangs: true},
			"hangs later":   {body: `{"message":`, hangs: true},
			"is cut short":  {body: `{"message":`, rest: io.ErrUnexpectedEOF},
			"is too large":  {body: strings.Repeat(" ", maxBody+1)},
			"is no JSON":    {body: "<html>"},
		} {
			t.Run(fmt.Sprint(status, " ", name), func(t *testing.T) {
				inBubble(t, func(t *testing.T, s *service) {
					m.status, m.retryAfter = status, "700"
					s.is("", m)
					want := Unavailable
					if status == http.StatusTooManyRequests {
						want = RateLimited
					}
					began := time.Now()
					e := ask(t, s.client(nil), named("u"))
					if took := time.Since(began); took > failureBodyLimit {
						t.Errorf("judged after %v", took)
					}
					if e == nil || e.Kind != want || e.Status != status || e.RetryAfter != 700*time.Second {
						t.Errorf("%+v", e)
					}
					if n := s.count(); n != 1 {
						t.Errorf("%d attempts despite the Retry-After", n)
					}
				})
			})
		}
	}
}

func TestErrorsTellNothingOfBodies(t *testing.T) {
	e := parseRefusal(404, http.Header{"X-Humanapi-Request-Id": {"id"}},
		[]byte(`{"errorCode":"user 4711","message":"no user 4711"}`))
	for _, form := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(form, e.Body) + e.Error(); strings.Contains(text, "4711") {
			t.Errorf("%s prints %q", form, text)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	for value, want := range map[string]string{
		"abc-123": "abc-123", "": "", "a b": "", "a\x01": "", "ü": "", strings.Repeat("x", 129): "",
	} {
		if got := requestID(http.Header{"X-Humanapi-Request-Id": {value}}, nil); got != want {
			t.Errorf("%q became %q", value, got)
		}
		body, _ := json.Marshal(map[string]string{"message": "m", "x-humanapi-request-id": value})
		if got := requestID(http.Header{}, body); got != want {
			t.Errorf("%q in the body became %q", value, got)
		}
	}
	both := requestID(http.Header{"X-Humanapi-Request-Id": {"header"}}, []byte(`{"x-humanapi-request-id":"body"}`))
	if both != "header" {
		t.Errorf("of both, %q was taken", both)
	}
}
