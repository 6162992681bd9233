// Package sandbox emulates the auth service, for trying the sidecar and for tests.
//
// It checks what the auth service is documented to check, in this order, and answers each mistake with the
// documented errorCode: broken JSON or a missing field, type, client_id, client_secret, the client's rights,
// the user, the user's connection. The statuses of refusals are guesses: the auth service documents none.
// Every client_user_id is a connected user, but those that begin with unconnected-, unknown- and forbidden-.
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

// The sandbox's credentials unless told otherwise.
const (
	DefaultClientID     = "sandbox-client"
	DefaultClientSecret = "sandbox-secret"
)

// A Mood is how the sandbox behaves. The zero Mood is healthy.
type Mood struct {
	// LatencyMS delays every answer, in milliseconds.
	LatencyMS int `json:"latency_ms"`
	// Fault is one of [Faults], or empty.
	Fault string `json:"fault"`
	// Status, when not 0, answers every call with it.
	Status int `json:"status"`
	// RetryAfter is sent with such a Status: seconds, or an HTTP date.
	RetryAfter string `json:"retry_after"`
	// ExpiresIn is the lifetime of new tokens in seconds; 0 means 86400.
	ExpiresIn int `json:"expires_in"`
	// RefuseClientTokens answers type client with CLIENT_TOKEN_GENERATION_NOT_ALLOWED.
	RefuseClientTokens bool `json:"refuse_client_tokens"`
	// ClientSecret replaces the secret that is right from now on; empty leaves it.
	ClientSecret string `json:"client_secret"`
}

// Options configure a [Sandbox]. Empty fields mean the defaults.
type Options struct {
	ClientID, ClientSecret string
	Mood                   Mood
}

// A Sandbox is an [http.Handler] of the auth service's two calls, and of GET and PUT /sandbox, which show and
// set its [Mood] and count its calls.
type Sandbox struct {
	clientID string
	mux      *http.ServeMux

	mu     sync.Mutex
	secret string
	mood   Mood
	counts Counts
}

// Counts are the calls so far.
type Counts struct {
	Calls  int `json:"calls"`  // all
	Tokens int `json:"tokens"` // those answered with a token
	// Overlaps are calls of a user and type that began while another one of the same was under way.
	Overlaps int `json:"overlaps"`
	// Users holds the calls of each user under a hash; see [Sandbox.CallsOf].
	Users map[string]int `json:"users"`

	running map[string]int
}

// New returns a sandbox.
func New(opts Options) *Sandbox {
	s := &Sandbox{clientID: opts.ClientID, secret: opts.ClientSecret, mood: opts.Mood}
	if s.clientID == "" {
		s.clientID = DefaultClientID
	}
	if s.secret == "" {
		s.secret = DefaultClientSecret
	}
	s.counts = Counts{Users: map[string]int{}, running: map[string]int{}}
	s.mux = http.NewServeMux()
	s.mux.HandleFunc("POST /v1/connect/token", s.token)
	s.mux.HandleFunc("POST /v1/admin/token", s.token)
	s.mux.HandleFunc("GET /sandbox", s.show)
	s.mux.HandleFunc("PUT /sandbox", s.set)
	return s
}

// ServeHTTP implements [http.Handler].
func (s *Sandbox) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Set puts mood in force.
func (s *Sandbox) Set(mood Mood) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mood = mood
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

func (s *Sandbox) show(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{"mood": s.current(), "counts": s.Counts()})
}

func (s *Sandbox) current() Mood {
	s.mu.Lock()
	defer s.mu.Unlock()
	mood := s.mood
	mood.ClientSecret = ""
	return mood
}

func (s *Sandbox) set(w http.ResponseWriter, r *http.Request) {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	var mood Mood
	if err := dec.Decode(&mood); err != nil {
		http.Error(w, "not understood: "+err.Error(), http.StatusBadRequest)
		return
	}
	if err := mood.check(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.Set(mood)
	w.WriteHeader(http.StatusNoContent)
}

func (m Mood) check() error {
	if _, known := faults[m.Fault]; m.Fault != "" && !known {
		return fmt.Errorf("fault %q is unknown; use one of %s", m.Fault, strings.Join(Faults(), ", "))
	}
	if m.Status != 0 && (m.Status < 200 || m.Status > 599) {
		return fmt.Errorf("status %d is none; use 200 to 599", m.Status)
	}
	return nil
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
	req, parsed := parse(r)
	mood := s.current()
	done := s.count(req)
	defer done()
	if !wait(r, time.Duration(mood.LatencyMS)*time.Millisecond) {
		return
	}
	if broken, ok := faults[mood.Fault]; ok {
		broken(w, r)
		return
	}
	if mood.Status != 0 {
		if mood.RetryAfter != "" {
			w.Header().Set("Retry-After", mood.RetryAfter)
		}
		if mood.Status >= 300 && mood.Status < 400 {
			w.Header().Set("Location", "/v1/elsewhere")
		}
		reply(w, mood.Status, map[string]any{
			"statusCode": mood.Status, "error": http.StatusText(mood.Status),
			"message": "as told by PUT /sandbox",
		})
		return
	}
	if no := s.check(r.URL.Path, req, parsed, mood); no != nil {
		no.write(w)
		return
	}
	life := mood.ExpiresIn
	if life == 0 {
		life = 86400
	}
	s.mu.Lock()
	s.counts.Tokens++
	s.mu.Unlock()
	reply(w, http.StatusOK, answer(req, time.Now(), life))
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

func parse(r *http.Request) (req request, ok bool) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil {
		return req, false
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/x-www-form-urlencoded" {
		return parseForm(string(body))
	}
	return req, json.Unmarshal(body, &req) == nil
}

// answer is a token for req, with the fields that its type is known to have.
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

// mint makes a token that tells whose it is and when it ends; see [Inspect].
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

// owner is a short name of a user that does not tell the client_user_id.
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
