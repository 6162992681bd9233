package test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"token-sidecar/internal/testbed"
)

// askMuch asks for so many tokens that the log lines fill every buffer on their way.
func askMuch(t *testing.T, s *testbed.Sidecar) (asked int) {
	t.Helper()
	const callers, each = 8, 1000
	var asking sync.WaitGroup
	for i := range callers {
		asking.Go(func() {
			for range each {
				if r := s.Get(fmt.Sprint("user-", i)); r.Status != 200 {
					t.Errorf("status %d, %v", r.Status, r.Err)
					return
				}
			}
		})
	}
	asking.Wait()
	return callers * each
}

func dropped(s *testbed.Sidecar) int {
	found := regexp.MustCompile(`(?m)^token_sidecar_log_lines_dropped_total (.*)$`).FindStringSubmatch(s.Metrics())
	if found == nil {
		return -1
	}
	n, _ := strconv.ParseFloat(found[1], 64)
	return int(n)
}

// TestALogThatNobodyReads: it delays neither callers nor the end. When it is read again, missing lines are reported in
// their place, once.
func TestALogThatNobodyReads(t *testing.T) {
	for _, readAgain := range []bool{false, true} {
		t.Run(fmt.Sprint("read again ", readAgain), func(t *testing.T) {
			auth := testbed.StartAuth(t)
			reader, writer, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			s := testbed.LaunchLogging(t, writer, auth.Environ()...)
			_ = writer.Close()
			defer func() { _ = reader.Close() }()
			s.AwaitReady()
			asked := askMuch(t, s)
			missing := dropped(s)
			if missing < 1000 {
				t.Errorf("%d lines were dropped", missing)
			}
			var logged, told, missed int
			var reading sync.WaitGroup
			if readAgain {
				reading.Go(func() {
					for lines := bufio.NewScanner(reader); lines.Scan(); {
						var line struct {
							Msg   string
							Lines int
						}
						if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
							t.Errorf("%s: %v", lines.Text(), err)
						}
						switch {
						case line.Msg == "request":
							logged++
						case line.Lines > 0:
							told, missed = told+1, line.Lines
						}
					}
				})
				testbed.Until(t, "what is logged now is written", func() bool {
					before := dropped(s)
					asked++
					served := s.Get("x").Status == 200
					missing = dropped(s) // the sidecar logs by itself, too
					return served && missing == before
				})
			}
			s.Signal(syscall.SIGTERM)
			if code := s.Wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			reading.Wait()
			if readAgain && (told != 1 || missed != missing || logged+missed < asked) {
				t.Errorf("%d requests of %d were logged, %d lines missing, told %d times of %d", logged, asked, missing, told,
					missed)
			}
		})
	}
}

// TestALogWhoseReaderIsGone: it does not end the process.
func TestALogWhoseReaderIsGone(t *testing.T) {
	auth := testbed.StartAuth(t)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s := testbed.LaunchLogging(t, writer, auth.Environ()...)
	_ = writer.Close()
	s.AwaitReady()
	_ = reader.Close()
	asked := askMuch(t, s)
	testbed.Until(t, "each line is counted", func() bool { return dropped(s) >= asked })
	s.Signal(syscall.SIGTERM)
	if code := s.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestSIGHUP: every file is read again at once.
func TestSIGHUP(t *testing.T) {
	auth := testbed.StartAuth(t)
	ca, _ := testbed.Certificate(t)
	otherCA, _ := testbed.Certificate(t)
	key := func(letter string) string { return strings.Repeat(letter, 43) + "=" }
	next := map[string]string{}
	environ := auth.Environ("REDIS_URL=rediss://" + testbed.FreeAddr(t))
	for name, content := range map[string][2]string{
		"HUMANAPI_CLIENT_SECRET_FILE": {"sandbox-secret", "another"},
		"HUMANAPI_CA_FILE":            {testbed.ReadFile(t, ca), testbed.ReadFile(t, otherCA)},
		"CALLER_TOKEN_FILE":           {"before", "after"},
		"REDIS_CA_FILE":               {testbed.ReadFile(t, ca), testbed.ReadFile(t, otherCA)},
		"REDIS_PASSWORD_FILE":         {"before", "after"},
		"ENCRYPTION_KEYS_FILE":        {key("A"), key("B")},
	} {
		path := testbed.WriteFile(t, name, content[0])
		environ = append(environ, name+"="+path)
		next[path] = content[1]
	}
	s := testbed.StartSidecar(t, append(environ, "HUMANAPI_CLIENT_SECRET=")...)
	write := func(content func(next string) string) {
		for path, text := range next {
			if err := os.WriteFile(path, []byte(content(text)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		before := strings.Count(s.Log(), "read again at a signal")
		s.Signal(syscall.SIGHUP)
		testbed.Until(t, "it is logged", func() bool { return strings.Count(s.Log(), "read again at a signal") > before })
	}
	expect := func(token, code string, unusable int) {
		t.Helper()
		if r := s.Get("alice", "Authorization", "Bearer "+token); r.ErrorCode != code {
			t.Errorf("with the token %s: %d %s", token, r.Status, r.ErrorCode)
		}
		if told := fmt.Sprintf(`"files":%d,"unusable":%d`, len(next), unusable); !strings.Contains(s.Log(), told) {
			t.Errorf("the log does not tell %s", told)
		}
	}
	write(func(next string) string { return next })
	for _, pair := range environ[len(environ)-len(next):] {
		name, _, _ := strings.Cut(pair, "=")
		if !strings.Contains(s.Log(), `"secret file changed, the new value is in force","setting":"`+name+`"`) {
			t.Errorf("the log does not tell that %s has changed", name)
		}
	}
	expect("after", "INVALID_CLIENT_ID_OR_SECRET", 0) // from the auth service, about the other client secret
	expect("before", "CALLER_TOKEN_REQUIRED", 0)
	write(func(string) string { return "" })
	expect("after", "INVALID_CLIENT_ID_OR_SECRET", len(next))
}
