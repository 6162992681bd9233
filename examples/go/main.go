// Command go reads data of a user from Human API: go run . USER [PATH]
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// A client reads from Human API with tokens from the sidecar.
type client struct {
	sidecar, dataAPI string
	callerTokenFile  string
	http             *http.Client // reuses connections, and uses no proxy for localhost
}

// A tokenError means that the sidecar has no token: errorCode says why, Retry-After when to ask again.
type tokenError struct {
	Code       string `json:"errorCode"`
	Message    string `json:"message"`
	RetryAfter string `json:"-"`
}

// Error implements error.
func (e *tokenError) Error() string { return e.Code + ": " + e.Message }

type answer struct {
	status     int
	body       []byte
	retryAfter string
}

// do makes a request and reads the whole answer, so that the connection can be reused.
func (c *client) do(ctx context.Context, method, url string, header http.Header) (a answer, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return a, err
	}
	req.Header = header
	res, err := c.http.Do(req)
	if err != nil {
		return a, err
	}
	defer func() { _ = res.Body.Close() }()
	a = answer{status: res.StatusCode, retryAfter: res.Header.Get("Retry-After")}
	a.body, err = io.ReadAll(res.Body)
	return a, err
}

func (c *client) callSidecar(ctx context.Context, method, user string, header http.Header) ([]byte, error) {
	if c.callerTokenFile != "" {
		callerToken, err := os.ReadFile(c.callerTokenFile)
		if err != nil {
			return nil, err
		}
		header.Set("Authorization", "Bearer "+strings.TrimSpace(string(callerToken)))
	}
	a, err := c.do(ctx, method, c.sidecar+"/token?"+url.Values{"client_user_id": {user}}.Encode(), header)
	if err == nil && a.status >= 300 {
		failure := &tokenError{RetryAfter: a.retryAfter}
		if err = json.Unmarshal(a.body, failure); err == nil {
			err = failure
		}
	}
	return a.body, err
}

func (c *client) ask(ctx context.Context, user string) (token string, err error) {
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	body, err := c.callSidecar(ctx, http.MethodGet, user, http.Header{})
	if err == nil {
		err = json.Unmarshal(body, &answer)
	}
	return answer.AccessToken, err
}

// forget forgets this very token. A newer one, which another caller may have got meanwhile, stays.
func (c *client) forget(ctx context.Context, user, token string) error {
	hash := sha256.Sum256([]byte(token))
	header := http.Header{"X-Rejected-Token-Hash": {hex.EncodeToString(hash[:])}}
	_, err := c.callSidecar(ctx, http.MethodDelete, user, header)
	return err
}

// use calls the data API with a token.
func (c *client) use(ctx context.Context, token, path string) (answer, error) {
	return c.do(ctx, http.MethodGet, c.dataAPI+path, http.Header{"Authorization": {"Bearer " + token}})
}

func (c *client) read(ctx context.Context, user, path string) ([]byte, error) {
	token, err := c.ask(ctx, user)
	if err != nil {
		return nil, err
	}
	a, err := c.use(ctx, token, path)
	if err == nil && a.status == http.StatusUnauthorized { // revoked: forget it, and ask once more
		if err := c.forget(ctx, user, token); err != nil {
			return nil, err
		}
		if token, err = c.ask(ctx, user); err != nil {
			return nil, err
		}
		a, err = c.use(ctx, token, path)
	}
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("%s: status %d", path, a.status)
	}
	return a.body, err
}

func main() {
	args := append(os.Args[1:], "/v1/human/profile")
	c := &client{
		sidecar:         cmp.Or(os.Getenv("SIDECAR_URL"), "http://localhost:8080"),
		dataAPI:         cmp.Or(os.Getenv("DATA_API_URL"), "https://api.humanapi.co"),
		callerTokenFile: os.Getenv("CALLER_TOKEN_FILE"),
		// Longer than the sidecar itself waits for the auth service (17 s).
		http: &http.Client{Timeout: 20 * time.Second},
	}
	body, err := c.read(context.Background(), args[0], args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(string(body))
}
