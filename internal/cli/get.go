package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/settings"
)

// askLimit bounds how long get waits for a token.
const askLimit = time.Minute

func newGet(p Process) *cobra.Command {
	var user, kind, email, field string
	var show, fresh, compact bool
	cmd := &cobra.Command{
		Use:   "get --user U",
		Short: "Ask the running sidecar for a token",
		Long: "Ask the running sidecar at LISTEN_ADDR for a token and print the answer as JSON, tokens shortened.\n" +
			"Where it came from is told on standard error. With --field, print the value of that field alone, in full.",
		Example: "  token-sidecar get --user alice\n" +
			"  token-sidecar get --user alice --type id_token --show\n" +
			"  TOKEN=$(token-sidecar get --user alice --field access_token)",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if user == "" && kind != "client" {
				return usageError{errors.New("--user is missing; name the client_user_id whose token is wanted")}
			}
			query := url.Values{"type": {kind}}
			if user != "" {
				query.Set("client_user_id", user)
			}
			if email != "" {
				query.Set("client_user_email", email)
			}
			answer, status, err := askToken(cmd.Context(), p, query, fresh)
			if err != nil {
				return err
			}
			printed, err := answer.print(field, show, compact)
			if err != nil {
				return err
			}
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "Cache-Status: %s\n", status)
			_, err = fmt.Fprintln(cmd.OutOrStdout(), printed)
			return err
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "client_user_id")
	cmd.Flags().StringVar(&kind, "type", "access", "access, client, id_token, id or session")
	cmd.Flags().StringVar(&email, "email", "", "client_user_email, for type session")
	cmd.Flags().StringVar(&field, "field", "", "print this field of the answer alone, in full, such as access_token")
	cmd.Flags().BoolVar(&compact, "json", false, "print JSON on one line")
	cmd.Flags().BoolVar(&show, "show", false, "print tokens in full")
	cmd.Flags().BoolVar(&fresh, "no-cache", false, "skip the caches")
	return cmd
}

// askToken calls GET /token and returns the answer and its Cache-Status. An error answer is an error.
func askToken(ctx context.Context, p Process, query url.Values, fresh bool) (got answer, status string, err error) {
	s, err := settings.LoadOnly(p.Environ, "LISTEN_ADDR", "CALLER_TOKEN_FILE")
	if err != nil {
		return nil, "", settingsError(err, nil)
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/token?"+query.Encode(), nil)
	if err != nil {
		return nil, "", fmt.Errorf("cannot ask: %w", err)
	}
	if fresh {
		req.Header.Set("Cache-Control", "no-cache")
	}
	if s.CallerTokenFile != "" {
		token, err := secret.Open("CALLER_TOKEN_FILE", s.CallerTokenFile, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			return nil, "", err
		}
		req.Header.Set("Authorization", "Bearer "+token.Text().Reveal())
	}
	res, err := clientFor(s.ListenAddr).Do(req)
	if err != nil {
		return nil, "", noAnswer("LISTEN_ADDR", s.ListenAddr, err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 2<<20))
	if err != nil {
		return nil, "", noAnswer("LISTEN_ADDR", s.ListenAddr, err)
	}
	if err := json.Unmarshal(body, &got); err != nil {
		return nil, "", fmt.Errorf("LISTEN_ADDR %s is not answered by a sidecar: status %d, not JSON", s.ListenAddr,
			res.StatusCode)
	}
	if res.StatusCode != http.StatusOK {
		return nil, "", got.refusal(res)
	}
	return got, res.Header.Get("Cache-Status"), nil
}

// An answer is a JSON object by its fields.
type answer map[string]json.RawMessage

// refusal describes an error answer for a person.
func (a answer) refusal(res *http.Response) error {
	text := func(name string) (s string) {
		_ = json.Unmarshal(a[name], &s)
		return s
	}
	says := fmt.Sprintf("%s (status %d): %s", cmp.Or(text("errorCode"), "no errorCode"), res.StatusCode,
		cmp.Or(text("message"), "no message"))
	if id := res.Header.Get("X-Humanapi-Request-Id"); id != "" {
		says += "; for Human API's support, the request id is " + id
	}
	if wait := res.Header.Get("Retry-After"); wait != "" {
		says += "; ask again in " + wait + " s"
	}
	return errors.New(says)
}

// print returns the text to print: the value of field in full, or all fields, with tokens shortened unless show is set.
func (a answer) print(field string, show, compact bool) (string, error) {
	if field != "" {
		value, there := a[field]
		if !there {
			return "", fmt.Errorf("the answer has no field %s; it has %s", field,
				strings.Join(slices.Sorted(maps.Keys(a)), ", "))
		}
		var text string
		if json.Unmarshal(value, &text) == nil {
			return text, nil
		}
		return string(value), nil
	}
	all := maps.Clone(a)
	for name, value := range all {
		var text string
		if !show && strings.HasSuffix(name, "token") && json.Unmarshal(value, &text) == nil {
			all[name], _ = json.Marshal(text[:min(4, len(text)/4)] + "…")
		}
	}
	printed, err := json.Marshal(all)
	if err != nil || compact {
		return string(printed), err
	}
	var indented bytes.Buffer
	err = json.Indent(&indented, printed, "", "  ")
	return indented.String(), err
}
