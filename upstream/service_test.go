package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"token-sidecar/internal/secret"
)

// A mood is how the auth service answers one user.
type mood struct {
	status     int // 0: a token
	body       string
	retryAfter string
	header     http.Header
	latency    time.Duration
	oversleep  time.Duration // how late a time-out is noticed
	err        error         // of the network
	rest       error         // instead of the rest of the body
	hangs      bool          // the body never ends
}

var (
	down  = mood{status: 500}
	hangs = mood{latency: time.Hour}
	bare  = mood{status: 401, body: `{"statusCode":401,"error":"Unauthorized","message":"m"}`}
	wrong = mood{status: 401, body: `{"errorCode":"INVALID_CLIENT_ID_OR_SECRET"}`}
	gone  = mood{status: 404, body: `{"errorCode":"UNKNOWN_CLIENT_USER_ID"}`}
	page  = mood{body: "<html>"}
)

// A service is an auth service without a network, for many concurrent clients.
type service struct {
	mu     sync.Mutex
	moods  map[string]mood // by path, user, or "" for the rest
	calls  map[string]int  // by user
	total  int
	now    int // in progress
	most   int // the most at the same time
	starts []time.Time
}

func newService() *service { return &service{moods: map[string]mood{}, calls: map[string]int{}} }

// is sets how a user, a path or everybody ("") is answered.
func (s *service) is(who string, m mood) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moods[who] = m
}

// heals makes everything work again.
func (s *service) heals() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.moods)
}

// count returns the number of attempts so far.
func (s *service) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

func (s *service) of(user string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[user]
}

func (s *service) begin(path, user string) mood {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[user]++
	s.total++
	s.now++
	s.most = max(s.most, s.now)
	s.starts = append(s.starts, time.Now())
	for _, who := range []string{user, path, ""} {
		if m, ok := s.moods[who]; ok {
			return m
		}
	}
	return mood{}
}

func (s *service) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now--
}

// RoundTrip implements [http.RoundTripper].
func (s *service) RoundTrip(r *http.Request) (*http.Response, error) {
	var asked wire
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		return nil, err
	}
	m := s.begin(r.URL.Path, asked.UserID)
	defer s.end()
	if m.latency > 0 && !sleep(r.Context(), m.latency) {
		time.Sleep(m.oversleep)
		return nil, r.Context().Err()
	}
	if m.err != nil {
		return nil, m.err
	}
	header := http.Header{}
	if m.header != nil {
		header = m.header.Clone()
	}
	if m.retryAfter != "" {
		header.Set("Retry-After", m.retryAfter)
	}
	if m.status == 0 {
		m.status = http.StatusOK
		if m.body == "" {
			m.body = anyToken
		}
	}
	content := []io.Reader{strings.NewReader(m.body)}
	if m.rest != nil {
		content = append(content, iotest.ErrReader(m.rest))
	}
	if m.hangs {
		content = append(content, readerFunc(func([]byte) (int, error) {
			<-r.Context().Done()
			return 0, r.Context().Err()
		}))
	}
	body := io.NopCloser(io.MultiReader(content...))
	return &http.Response{StatusCode: m.status, Header: header, Body: body, Request: r}, nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func (s *service) client(change func(*Options)) *Client {
	opts := Options{
		URL: "http://auth.test", ClientID: "id", Secret: secret.Fixed("the-client-secret"),
		RefusalPause: 10 * time.Second, Transport: s,
	}
	if change != nil {
		change(&opts)
	}
	return New(opts)
}

func named(user string) Request {
	return Request{Path: ConnectPath, Type: "access", UserID: secret.Hide(user)}
}

func ask(t testing.TB, c *Client, req Request) *Error {
	t.Helper()
	_, err := c.Token(t.Context(), req)
	if err == nil {
		return nil
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is no *Error", err)
	}
	return e
}

func contextWithTimeout(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

// inBubble runs test on virtual time, with a healthy service.
func inBubble(t *testing.T, test func(t *testing.T, s *service)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newService()) })
}
