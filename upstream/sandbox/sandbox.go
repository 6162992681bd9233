// Package sandbox emulates the auth service, for tests and for trying out the sidecar.
//
// It checks what the auth service is documented to check, in this order, and answers each mistake with the documented
// errorCode: broken JSON or a missing field, type, client_id, client_secret, the client's rights, the user, the user's
// connection. The statuses of refusals are guesses, because the auth service documents none. Every client_user_id is a
// connected user, except those that begin with unconnected-, unknown- or forbidden-.
package sandbox

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The credentials that the sandbox accepts by default.
const (
	DefaultClientID     = "sandbox-client"
	DefaultClientSecret = "sandbox-secret"
)

// Options configure a [Sandbox]. Empty fields mean the defaults.
type Options struct {
	ClientID, ClientSecret string
	Mood                   Mood
}

// A Sandbox is an [http.Handler] for the auth service's two calls, and for GET and PUT /sandbox, which show and set its
// [Mood] and count its calls.
type Sandbox struct {
	clientID string
	mux      *http.ServeMux

	mu     sync.Mutex
	secret string
	mood   Mood
	counts Counts
	last   map[string]lasting // see Mood.SameToken
}

// Counts are numbers of calls.
type Counts struct {
	Calls  int `json:"calls"`  // all
	Tokens int `json:"tokens"` // those answered with a token
	// Overlaps counts the calls for a user and type that began while another one for the same was in progress.
	Overlaps int `json:"overlaps"`
	// Users counts the calls for each user, under a hash; see [Sandbox.CallsOf].
	Users map[string]int `json:"users"`

	running map[string]int
}

// New returns a sandbox.
func New(opts Options) *Sandbox {
	s := &Sandbox{clientID: opts.ClientID, secret: opts.ClientSecret, mood: opts.Mood, last: map[string]lasting{}}
	if s.clientID == "" {
		s.clientID = DefaultClientID
	}
	if s.secret == "" {
		s.secret = DefaultClientSecret
	}
	s.counts = Counts{Users: map[string]int{}, running: map[string]int{}}
	s.mux = http.NewServeMux()
	for _, path := range tokenPaths {
		s.mux.HandleFunc("POST "+path, s.token)
	}
	s.mux.HandleFunc("GET /sandbox", s.show)
	s.mux.HandleFunc("PUT /sandbox", s.set)
	return s
}

// ServeHTTP implements [http.Handler].
func (s *Sandbox) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Set replaces the mood.
func (s *Sandbox) Set(mood Mood) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mood = mood
	clear(s.last)
	if mood.ClientSecret != "" {
		s.secret = mood.ClientSecret
	}
}

// Counts returns the calls so far.
func (s *Sandbox) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts
	c.running, c.Users = nil, make(map[string]int, len(s.counts.Users))
	maps.Copy(c.Users, s.counts.Users)
	return c
}

// CallsOf returns the calls for one user.
func (s *Sandbox) CallsOf(user string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts.Users[owner(user)]
}

func (s *Sandbox) current() Mood {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mood
}

// request is the body of a call; a field of the wrong type counts as missing.
type request struct {
	ClientID     string   `json:"client_id"`
	ClientSecret string   `json:"client_secret"`
	UserID       string   `json:"client_user_id"`
	Email        string   `json:"client_user_email"`
	Type         string   `json:"type"`
	Scopes       []string `json:"extra_scopes"`
}

func (s *Sandbox) token(w http.ResponseWriter, r *http.Request) {
	req, raw, parsed := parse(r)
	mood := s.current().of(r.URL.Path, req.UserID)
	done := s.count(req)
	defer done()
	if !wait(r, time.Duration(mood.LatencyMS)*time.Millisecond) {
		return
	}
	if broken, ok := faults[mood.Fault]; ok {
		broken(w, r)
		return
	}
	no := mood.refusal()
	if no == nil {
		no = s.check(r.URL.Path, req, parsed, mood)
	}
	if no != nil {
		if mood.Echo {
			no.echo = raw
		}
		no.write(w)
		return
	}
	token := s.answer(r.URL.Path, req, mood, time.Now())
	if !wait(r, time.Duration(mood.TokenLateMS)*time.Millisecond) {
		return
	}
	s.mu.Lock()
	s.counts.Tokens++
	s.mu.Unlock()
	reply(w, http.StatusOK, token)
}

// answer returns a token for req: a new one, or the last one again.
func (s *Sandbox) answer(path string, req request, mood Mood, now time.Time) map[string]any {
	life := mood.ExpiresIn
	if life == 0 {
		life = 86400
	}
	if !mood.SameToken {
		return answer(req, now, life)
	}
	key := path + " " + owner(req.UserID) + " " + req.Type + " " + strings.Join(req.Scopes, " ")
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.last[key]; ok && now.Before(last.end) {
		return last.answer
	}
	fresh := answer(req, now, life)
	s.last[key] = lasting{fresh, now.Add(time.Duration(life) * time.Second)}
	return fresh
}

// A lasting answer may be repeated until its token expires.
type lasting struct {
	answer map[string]any
	end    time.Time
}

// count counts a call, and returns what to do at its end.
func (s *Sandbox) count(req request) func() {
	key := owner(req.UserID) + req.Type
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Calls++
	s.counts.Users[owner(req.UserID)]++
	if s.counts.running[key]++; s.counts.running[key] > 1 {
		s.counts.Overlaps++
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.counts.running[key]--; s.counts.running[key] == 0 {
			delete(s.counts.running, key)
		}
	}
}

func parse(r *http.Request) (req request, raw string, ok bool) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil {
		return req, "", false
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/x-www-form-urlencoded" {
		req, ok = parseForm(string(body))
		return req, string(body), ok
	}
	return req, string(body), json.Unmarshal(body, &req) == nil
}

// answer returns a token for req, with the fields known for its type.
func answer(req request, now time.Time, life int) map[string]any {
	token := mint(req.UserID, now, life)
	switch req.Type {
	case "session":
		return map[string]any{"session_token": token, "human_id": rand.Text(), "expires_in": life}
	case "id", "id_token":
		return map[string]any{
			"id_token": token, "id_token_expires_in": life, "id_refresh_token": "itrt-" + rand.Text(), "token_type": "Bearer",
		}
	case "client":
		return map[string]any{"client_token": token, "expires_in": life}
	default:
		return map[string]any{
			"access_token": token, "expires_in": life, "token_type": "Bearer", "refresh_token": "atrt-" + rand.Text(),
		}
	}
}

// mint makes a token that contains whose it is and when it expires; see [Inspect].
func mint(user string, now time.Time, life int) string {
	return fmt.Sprintf("sbx.%s.%d.%s", owner(user), now.UnixMilli()+int64(life)*1000, rand.Text())
}

// Inspect reports whether token was made for user, and how much of its life was left at now, by wall time.
func Inspect(token, user string, now time.Time) (mine bool, left time.Duration) {
	parts := strings.Split(token, ".")
	if len(parts) != 4 || parts[0] != "sbx" {
		return false, 0
	}
	end, err := strconv.ParseInt(parts[2], 10, 64)
	return err == nil && parts[1] == owner(user), time.UnixMilli(end).Sub(now)
}

// owner returns a short name for a user that does not reveal the client_user_id.
func owner(user string) string {
	mac := hmac.New(sha256.New, []byte("sandbox"))
	mac.Write([]byte(user))
	return hex.EncodeToString(mac.Sum(nil)[:8])
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
