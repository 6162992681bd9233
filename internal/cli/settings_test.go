package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"token-sidecar/internal/settings"
	"token-sidecar/internal/testbed"
	"token-sidecar/internal/tracing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run executes a command with the signal to stop already given, and returns what it printed.
func run(environ []string, args ...string) (out, errs string, code int) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var stdout, stderr strings.Builder
	code = Run(ctx, Process{Args: args, Environ: environ, Stdout: &stdout, Stderr: &stderr})
	return stdout.String(), stderr.String(), code
}

// base is an environment in which serve starts.
func base(environ ...string) []string {
	return append([]string{
		"HUMANAPI_CLIENT_ID=id", "HUMANAPI_CLIENT_SECRET=secret", "HUMANAPI_AUTH_URL=http://127.0.0.1:1",
		"LISTEN_ADDR=127.0.0.1:0", "ADMIN_ADDR=localhost:0",
	}, environ...)
}

// wrongFiles are the ways in which a file can be unusable, whatever it should contain.
func wrongFiles(t *testing.T) map[string]string {
	return map[string]string{
		"missing":      "/no/such/file",
		"a folder":     t.TempDir(),
		"below a file": testbed.WriteFile(t, "file", "x") + "/file",
		"unreadable":   "/proc/self/mem",
		"empty":        testbed.WriteFile(t, "empty", ""),
		"white space":  testbed.WriteFile(t, "white", " \r\n\t"),
		"too large":    testbed.WriteFile(t, "large", strings.Repeat("x", 2<<20)),
		"endless":      "/dev/zero",
		"a long name":  "/" + strings.Repeat("x", 5000),
	}
}

// wrongValues are mistakes, each in the setting that must be named, with the other settings that it takes.
func wrongValues(t *testing.T) []string {
	keys := " ENCRYPTION_KEYS_FILE=" + testbed.WriteFile(t, "keys", strings.Repeat("A", 43)+"=\n")
	password := testbed.WriteFile(t, "password", "p")
	ca, _ := testbed.Certificate(t)
	auditKey := " AUDIT_KEY_FILE=" + testbed.WriteFile(t, "audit-key", strings.Repeat("A", 43)+"=\n")
	socket := testbed.WriteFile(t, "no-socket", "")
	wrong := []string{
		"HUMANAPI_CLIENT_ID=", "HUMANAPI_CLIENT_SECRET=",
		"HUMANAPI_CLIENT_SECRET=x HUMANAPI_CLIENT_SECRET_FILE=" + password,
		"HUMANAPI_AUTH_URL=x", "HUMANAPI_AUTH_URL=http://auth.example", "HUMANAPI_AUTH_URL=https://auth.example/v1",
		"HUMANAPI_PRODUCT=x", "HUMANAPI_CA_FILE=" + password, "REDIS_URL=rediss://h REDIS_CA_FILE=" + password,
		"LISTEN_ADDR=x", "LISTEN_ADDR=0.0.0.0:0", "LISTEN_ADDR=192.0.2.1:0 ALLOW_REMOTE_CALLERS=true CALLER_TOKEN_FILE=" + password,
		"LISTEN_ADDR=unix://x", "LISTEN_ADDR=unix:///no/such/folder/x", "LISTEN_ADDR=unix://" + socket,
		"LISTEN_ADDR=unix://" + socket + "/x", "LISTEN_ADDR=unix:///" + strings.Repeat("x", 200),
		"ADMIN_ADDR=x", "ADMIN_ADDR=192.0.2.1:0", "ADMIN_ADDR=nobody.invalid:0",
		"ADMIN_ADDR=127.0.0.1:9797 LISTEN_ADDR=localhost:9797",
		"ALLOW_REMOTE_CALLERS=x",
		"CALLER_TOKEN_GENERATE=x", "CALLER_TOKEN_GENERATE=true", "ALLOWED_TYPES=x", "ALLOWED_TYPES=access,,client",
		"CALLER_TOKEN_FILE=" + testbed.WriteFile(t, "two-lines", "a\nb"),
		"CALLER_TOKEN_GENERATE=true CALLER_TOKEN_FILE=" + testbed.WriteFile(t, "two-lines", "a\nb"),
		"CALLER_TOKEN_GENERATE=true CALLER_TOKEN_FILE=/proc/self/mem",
		"CALLER_TOKEN_GENERATE=true CALLER_TOKEN_FILE=" + t.TempDir(),
		"CALLER_TOKEN_GENERATE=true CALLER_TOKEN_FILE=/no/such/folder/token",
		"REDIS_URL=x", "REDIS_URL=http://h", "REDIS_URL=redis://h:x", "REDIS_URL=redis://h/x",
		"REDIS_URL=redis://h?unheard=1", "REDIS_URL=redis://h REDIS_MODE=sentinel", "REDIS_MODE=x",
		"REDIS_URL=redis://h REDIS_MODE=x", "REDIS_CA_FILE=" + ca, "REDIS_URL=redis://h REDIS_CA_FILE=" + ca,
		"REDIS_PASSWORD_FILE=" + password, "REDIS_URL=redis://:p@h REDIS_PASSWORD_FILE=" + password,
		"ENCRYPTION_KEYS_FILE=" + password, "ENCRYPTION_KEYS_FILE=" + testbed.WriteFile(t, "short", "AAAA"),
		"KEEP_REFRESH_TOKENS=true", "KEEP_REFRESH_TOKENS=true" + keys, "KEEP_REFRESH_TOKENS=x",
		"AUDIT_LOG=stdout", "AUDIT_LOG=x" + auditKey, "AUDIT_LOG=/no/such/folder/x" + auditKey,
		"AUDIT_LOG=" + t.TempDir() + auditKey,
		"AUDIT_KEY_FILE=" + ca, "AUDIT_LOG=stdout AUDIT_KEY_FILE=" + ca,
		"UPSTREAM_TIMEOUT=9m", "LOG_LEVEL=x", "LOG_FORMAT=x", "FAST_PATH=x",
		"MEMORY_CACHE_SIZE=x", "MEMORY_CACHE_SIZE=1023KiB",
		"OTEL_TRACES_EXPORTER=x", "OTEL_EXPORTER_OTLP_ENDPOINT=x", "OTEL_EXPORTER_OTLP_CERTIFICATE=" + password,
	}
	none, _ := settings.Load(nil)
	for _, s := range none.List(nil) {
		switch {
		case strings.Contains(s.Takes, "a duration"):
			wrong = append(wrong, s.Name+"=x", s.Name+"=5", s.Name+"=-1s", s.Name+"=1000h", s.Name+"=9999999h")
		case strings.Contains(s.Takes, "a whole number"):
			wrong = append(wrong, s.Name+"=x", s.Name+"=1.5", s.Name+"=-1", s.Name+"=1000001", s.Name+"=99999999999999999999")
		case strings.HasSuffix(s.Name, "_FILE"):
			for _, path := range wrongFiles(t) {
				pair := s.Name + "=" + path
				switch s.Name {
				case "HUMANAPI_CLIENT_SECRET_FILE":
					pair += " HUMANAPI_CLIENT_SECRET="
				case "AUDIT_KEY_FILE":
					pair += " AUDIT_LOG=stdout"
				case "REDIS_CA_FILE":
					pair += " REDIS_URL=rediss://h"
				case "REDIS_PASSWORD_FILE":
					pair += " REDIS_URL=redis://h"
				}
				wrong = append(wrong, pair)
			}
		}
	}
	return wrong
}

// TestConfigFindsWhatServeRefuses: for each possible mistake in a setting or a file, serve does not start, config exits
// with 1, and both print the same sentence, which names the setting and the remedy and is our own wording.
func TestConfigFindsWhatServeRefuses(t *testing.T) {
	if _, errs, code := run(base(), "serve"); code != 0 {
		t.Fatalf("without a mistake: exit %d\n%s", code, errs)
	}
	tried := map[string]bool{}
	for _, pairs := range wrongValues(t) {
		var environ []string
		names := map[string]bool{}
		// A setting occurs twice where the mistake needs others.
		for pair := range strings.SplitSeq(pairs, " ") {
			name, _, _ := strings.Cut(pair, "=")
			environ = append(environ, pair)
			names[name] = true
		}
		t.Run(fmt.Sprintf("%.80s", pairs), func(t *testing.T) {
			_, serves, serveCode := run(base(environ...), "serve")
			_, configs, configCode := run(base(environ...), "config")
			if serveCode != 1 || configCode != 1 || serves != configs {
				t.Errorf("serve, exit %d:\n%s\nconfig, exit %d:\n%s", serveCode, serves, configCode, configs)
			}
			sentences := strings.Split(strings.TrimSpace(serves), "\n  ")[1:]
			if len(sentences) != 1 {
				t.Errorf("one mistake is told as %q", sentences)
			}
			for _, sentence := range sentences {
				name, says, _ := strings.Cut(sentence, ": ")
				if !names[name] || !strings.ContainsAny(says, ";:,") {
					t.Errorf("no setting, or no remedy: %s", sentence)
				}
				tried[name] = true
				for _, foreign := range []string{
					"strconv", "time:", "parsing", "parse", "invalid syntax", "open ", "read ", "stat ", "listen tcp",
					"lookup", "dial", "env:", "%!", "goroutine",
				} {
					if strings.Contains(says, foreign) {
						t.Errorf("%q in: %s", foreign, sentence)
					}
				}
			}
		})
	}
	none, _ := settings.Load(nil)
	for _, s := range none.List(nil) {
		if !tried[s.Name] {
			t.Errorf("no mistake in %s was tried", s.Name)
		}
	}
}

// TestAllMistakesAreToldInTheOrderOfTheSettings: including those in files.
func TestAllMistakesAreToldInTheOrderOfTheSettings(t *testing.T) {
	_, errs, _ := run([]string{
		"OTEL_SDK_DISABLED=x", "SHUTDOWN_DELAY=x", "ENCRYPTION_KEYS_FILE=/x", "UPSTREAM_TIMEOUT=0s", "REDIS_CA_FILE=/x",
		"REDIS_URL=rediss://h?x=y", "CALLER_TOKEN_FILE=/x", "ADMIN_ADDR=nobody.invalid:0", "LISTEN_ADDR=x",
		"HUMANAPI_CLIENT_SECRET_FILE=/x",
	}, "config")
	var told []string
	for line := range strings.Lines(errs) {
		if name, _, found := strings.Cut(strings.TrimPrefix(line, "  "), ": "); found && name != "token-sidecar" {
			told = append(told, name)
		}
	}
	want := []string{
		"HUMANAPI_CLIENT_ID", "HUMANAPI_CLIENT_SECRET_FILE", "LISTEN_ADDR", "ADMIN_ADDR", "CALLER_TOKEN_FILE",
		"REDIS_URL", "REDIS_CA_FILE", "UPSTREAM_TIMEOUT", "ENCRYPTION_KEYS_FILE", "SHUTDOWN_DELAY", "OTEL_SDK_DISABLED",
	}
	if !slices.Equal(told, want) {
		t.Errorf("%q, want %q", told, want)
	}
}

// TestNoSecretInTheWrongPlaceIsPrinted: whichever setting a secret was pasted into, and whatever surrounds it, no
// command prints it.
func TestNoSecretInTheWrongPlaceIsPrinted(t *testing.T) {
	const marker = "s3cr3tMarker"
	none, _ := settings.Load(nil)
	names := tracing.Variables()
	for _, s := range none.List(nil) {
		names = append(names, s.Name)
	}
	names = append(names, "HUMANAPI_CLIENT_SECRTE", "MEMORY_CACHE_ENTRIES")
	shapes := []string{
		"%s", "%s%%0", "https://%s", "https://u:%s@h", "https://%s@h:1", "https://h/%s", "https://h/?k=%s", "https://h#%s",
		"http://h:%s",
		"redis://:%s@h:1/0", "redis://h/%s", "redis://h/0?password=%s", "rediss://h:%s", "redis://%s", "unix://%s",
		"%s:80", ":%s",
		"u:%s@h:80", "access,%s", "1s%s", "5%s", "/%s", "./%s", "a=%s", "%s=a", "true%s", "\n%s\n", "{%s}",
		strings.Repeat("x", 60) + "%s", "%s" + strings.Repeat("x", 5000), "%%%s", "%s\x7f", "[%s]:80", "%s@[::1]:80",
	}
	// These settings are about such values, which cannot be told from a secret.
	right := []string{"HUMANAPI_AUTH_URL=https://" + marker}
	for _, name := range names {
		for _, shape := range shapes {
			pair := name + "=" + strings.Replace(fmt.Sprintf(shape, marker), "%!(EXTRA", "", 1)
			if slices.Contains(right, pair) {
				continue
			}
			for _, args := range [][]string{{"config"}, {"serve"}, {"serve", "--sandbox"}, {"refresh-token", "--user", "u"}} {
				environ := base(pair)
				if name == "HUMANAPI_CLIENT_SECRET_FILE" {
					environ = append(environ, "HUMANAPI_CLIENT_SECRET=")
				}
				out, errs, _ := run(environ, args...)
				for line := range strings.Lines(out + errs) {
					if strings.Contains(line, marker) {
						t.Errorf("%s with %q: %s", args, pair, line)
					}
				}
			}
		}
	}
}

// TestMistypedSettingsAreWarnedOf: with the name that was probably meant.
func TestMistypedSettingsAreWarnedOf(t *testing.T) {
	environ := base("REDIS_URI=x", "MEMORY_CACHE_ENTRIES=5", "REDIS_SERVICE_HOST=10.0.0.1",
		"OTEL_EXPORTER_OLTP_ENDPOINT=x")
	wrong := append(slices.Clone(environ), "LOG_LEVEL=x")
	for name, args := range map[string][]string{"config": {"config"}, "serve": {"serve"}} {
		for _, environ := range [][]string{environ, wrong} {
			_, errs, _ := run(environ, args...)
			for typed, meant := range map[string]string{
				"REDIS_URI": "REDIS_URL", "MEMORY_CACHE_ENTRIES": "MEMORY_CACHE_SIZE",
				"OTEL_EXPORTER_OLTP_ENDPOINT": "OTEL_EXPORTER_OTLP_ENDPOINT",
			} {
				if strings.Count(errs, typed) != 1 || !strings.Contains(errs, meant) {
					t.Errorf("%s does not tell of %s: %s", name, typed, errs)
				}
			}
			if strings.Contains(errs, "REDIS_SERVICE_HOST") {
				t.Errorf("%s warns of what Kubernetes sets: %s", name, errs)
			}
		}
	}
}

// TestToolsNeedNoSettings: except the address that they ask, whatever is wrong with the others.
func TestToolsNeedNoSettings(t *testing.T) {
	none, _ := settings.Load(nil)
	var environ []string
	for _, s := range none.List(nil) {
		environ = append(environ, s.Name+"=wrong")
	}
	environ = append(environ, "LISTEN_ADDR="+testbed.FreeAddr(t), "ADMIN_ADDR="+testbed.FreeAddr(t), "CALLER_TOKEN_FILE=")
	for _, args := range [][]string{{"get", "--user", "u"}, {"healthcheck"}, {"status"}} {
		ctx := t.Context()
		var errs strings.Builder
		code := Run(ctx, Process{Args: args, Environ: environ, Stdout: &errs, Stderr: &errs})
		if code != 1 || !strings.Contains(errs.String(), "is the sidecar running?") {
			t.Errorf("%s: exit %d: %s", args, code, &errs)
		}
	}
}
