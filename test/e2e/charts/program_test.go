package charts

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"token-sidecar/cache"
	"token-sidecar/internal/cli"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/settings"
	"token-sidecar/internal/testbed"
)

// A program is what a pod has besides its environment: the files that the chart mounts.
type program struct {
	t     *testing.T
	paths *strings.Replacer
}

func newProgram(t *testing.T) program {
	t.Helper()
	certificate, _ := testbed.Certificate(t)
	ca := testbed.ReadFile(t, certificate)
	key := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))
	from, replace := t.TempDir(), []string{"/run/token-sidecar", t.TempDir(), "/etc/token-sidecar-csi", ""}
	for name, content := range map[string]string{
		"client-secret": "s3cr3t", "redis-password": "p", "caller-token": "t", "encryption-keys": key, "audit-key": key,
		"humanapi-ca.crt": ca, "redis-ca.crt": ca,
	} {
		if err := os.WriteFile(filepath.Join(from, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	replace[3] = from
	return program{t: t, paths: strings.NewReplacer(append(replace, "/etc/token-sidecar", from)...)}
}

// mistakes returns the settings in which the program finds mistakes, with its messages.
func (p program) mistakes(environ []string) map[string]string {
	p.t.Helper()
	var here []string
	url, mode := "", "single"
	for _, pair := range environ {
		here = append(here, p.paths.Replace(pair))
		if value, ok := strings.CutPrefix(pair, "REDIS_URL="); ok {
			url = value
		}
		if value, ok := strings.CutPrefix(pair, "REDIS_MODE="); ok {
			mode = value
		}
	}
	var errs strings.Builder
	found := map[string]string{}
	cli.Run(p.t.Context(), cli.Process{Args: []string{"config"}, Environ: here, Stdout: io.Discard, Stderr: &errs})
	for _, line := range regexp.MustCompile(`(?m)^  ([A-Z0-9_]+): (.*)$`).FindAllStringSubmatch(errs.String(), -1) {
		found[line[1]] = line[2]
	}
	if errs.Len() != 0 && len(found) == 0 {
		p.t.Fatalf("not understood: %s", &errs)
	}
	if url != "" && found["REDIS_URL"] == "" && found["REDIS_MODE"] == "" {
		client, err := cache.Connect(cache.Server{URL: secret.Hide(url), Mode: mode, Timeout: 1})
		if err != nil {
			name, says, _ := strings.Cut(err.Error(), ": ")
			found[name] = says
		} else {
			_ = client.Close()
		}
	}
	return found
}

// errNoPod means that a chart without a client has nothing to test.
var errNoPod = errors.New("no pod")

// sidecarOf renders the chart and returns the sidecar's container in its test pod, with its environment.
func sidecarOf(t *testing.T, tree map[string]any, values ...string) (pod *corev1.Pod, environ []string, err error) {
	t.Helper()
	out, err := Render("demo", sidecar, Rendering{
		Namespace: "demo", Values: append([]string{required}, values...),
		Tree: tree,
	})
	if err != nil {
		return nil, nil, err
	}
	for document := range strings.SplitSeq(out, "\n---\n") {
		if !strings.Contains(document, "kind: Pod\n") {
			continue
		}
		object, _, err := scheme.Codecs.UniversalDeserializer().Decode([]byte(document), nil, nil)
		if err != nil {
			t.Fatalf("%v:\n%s", err, document)
		}
		pod, ok := object.(*corev1.Pod)
		if !ok {
			t.Fatalf("%T", object)
		}
		for _, variable := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)[0].Env {
			if variable.ValueFrom == nil {
				environ = append(environ, variable.Name+"="+variable.Value)
			}
		}
		return pod, environ, nil
	}
	return nil, nil, errNoPod
}

// settingsMistakes returns the settings that the chart refuses.
func settingsMistakes(err error) map[string]string {
	found := map[string]string{}
	lines := regexp.MustCompile(`(?m)^  settings\.([A-Z0-9_]+): (.*)$`)
	for _, line := range lines.FindAllStringSubmatch(fmt.Sprint(err), -1) {
		found[line[1]] = line[2]
	}
	return found
}

// byName are the settings that the chart takes by name.
func byName() map[string]bool {
	names := map[string]bool{}
	for field := range reflect.TypeFor[settings.Settings]().Fields() {
		if name := field.Tag.Get("env"); byValue()[name] == "" {
			names[name] = true
		}
	}
	return names
}

// TestSettings sets all settings to each text in turn, and compares which ones the chart and the program refuse.
func TestSettings(t *testing.T) {
	p := newProgram(t)
	byName := byName()
	for _, text := range []any{
		"", "0", "1", "-1", "9", "10", "11", "1.5", "1e6", "+1", " 1", "999999999", "9999999999", "banana",
		"true", "false", "yes", "0s", "1ns", "1ms", "250ms", "1s", "2s", "2001ms", "200s", "201s", "10m", "601s", "1h30m",
		"1.5s",
		"-1s", "5", "s", "1d", "100000h", "9999999h", "1MiB", "1Mi", "1MB", "1B", "1023KiB", "1024KiB", "1024GiB",
		"1025GiB", "1048575", "1048576",
		"json", "text", "xml", "debug", "info", "warn", "error", "loud", "access", "access,client", "access, id",
		"access,", "Access",
		"client,id,id_token,session", "access,refresh",
		true, false, 0, 1, 3, 1000000, 100000000, float64(3), float64(1000000), float64(100000000), 0.5, -1,
	} {
		t.Run(fmt.Sprintf("%T %v", text, text), func(t *testing.T) {
			tree, environ := map[string]any{}, []string{
				"HUMANAPI_CLIENT_ID=a", "HUMANAPI_CLIENT_SECRET=b", "REDIS_URL=redis://r",
				"ENCRYPTION_KEYS_FILE=/etc/token-sidecar/encryption-keys",
			}
			spelt := spell(text)
			for name := range byName {
				tree[name] = text
				environ = append(environ, name+"="+spelt)
			}
			withRedis := []string{"redis.url=redis://r", "encryptionKeys.existingSecret=k"}
			_, _, err := sidecarOf(t, map[string]any{"settings": tree}, withRedis...)
			chart, program := settingsMistakes(err), p.mistakes(environ)
			if err != nil && len(chart) == 0 {
				t.Fatal(err)
			}
			accepted := map[string]any{}
			for name := range byName {
				switch says := program[name]; {
				case says != "" && chart[name] == "":
					t.Errorf("%s: the chart takes what the program refuses: %s", name, says)
				case says == "" && chart[name] != "" && !stricter(name, spelt):
					t.Errorf("%s: the program takes what the chart refuses: %s", name, chart[name])
				case chart[name] == "":
					accepted[name] = text
				}
			}
			if accepted["UPSTREAM_MAX_ATTEMPTS"] == nil {
				accepted["UPSTREAM_MAX_ATTEMPTS"] = "1" // with the default, a valid UPSTREAM_TIMEOUT would be too long
			}
			_, rendered, err := sidecarOf(t, map[string]any{"settings": accepted}, withRedis...)
			if err != nil {
				t.Fatal(err)
			}
			if found := p.mistakes(rendered); len(found) != 0 {
				t.Errorf("rendered: %v", found)
			}
			for name := range accepted {
				if spelt := spell(accepted[name]); !slices.Contains(rendered, name+"="+spelt) {
					t.Errorf("%s=%s is rendered as %v", name, spelt, rendered)
				}
			}
		})
	}
}

// spell formats a value for the environment.
func spell(value any) string {
	if number, ok := value.(float64); ok {
		return strconv.FormatFloat(number, 'f', -1, 64)
	}
	return fmt.Sprint(value)
}

// stricter reports whether the chart intentionally refuses a text that the program accepts: other spellings of numbers,
// true and false, excessive values, and values that make no sense in a pod.
func stricter(name, text string) bool {
	text = strings.TrimSpace(text)
	return name == "ALLOW_REMOTE_CALLERS" || text == "+1" || text == "1" || text == "0"
}

// TestValues sets each chart value that becomes a setting to many texts. The program accepts everything that the chart
// renders, and the chart's errors name the value.
func TestValues(t *testing.T) {
	t.Parallel()
	p := newProgram(t)
	hosts := []string{
		"", "h", "h.example", "h:1", "h:65536", "h:999999", "h:x", "h:", "[::1]", "[::1]:6379", "::1", "[::g]", "a b",
		"a_b", "h/", "h//", "h/0", "h/x", "h/0/1",
		"h?a", "h?addr=a", "h?addr=a:1", "h?addr=a:1&addr=b:2", "h?addr=", "h?master_name=m", "h?master_name=m&addr=a:1",
		"h?db=1", "h?db=x", "h?pool_size=5",
		"h?pool_size=x", "h?dial_timeout=1s", "h?unknown=1", "h?addr=a:1;", "h#f", "u@h", "u:p@h", ":p@h", "u:p@h/0",
		"u%40@h", "%", "h%zz", "127.0.0.1:1", "127.0.0.2",
		"localhost", "localhost:1", "u@localhost", "h:1/0?db=2", "h/0?protocol=3",
	}
	var urls []string
	for _, host := range hosts {
		urls = append(urls, "redis://"+host)
	}
	for _, scheme := range []string{
		"rediss://", "http://", "https://", "", "unix://", "REDIS://", "ftp://", "//",
		"redis:",
	} {
		urls = append(urls, scheme+"h", scheme+"127.0.0.1:1", scheme+"u:p@h/0")
	}
	ports := []any{0, 1, 80, 1023, 1024, 8080, 8081, 65535, 65536, 99999, -1}
	for value, probes := range map[string][]any{
		"humanapi.authUrl": append(anys(urls), anys(replaced(urls, "redis:", "https:"))...), "redis.url": anys(urls),
		"ports.token": ports, "ports.admin": ports,
		"humanapi.product": anys(words()), "redis.mode": anys(words()), "mode": anys(words()),
		"image.pullPolicy":  anys(words()),
		"humanapi.clientId": anys(words()), "humanapi.existingSecretKey": anys(words()),
		"redis.existingSecretKey": anys(words()),
		"audit.log":               anys(words()),
	} {
		for _, mode := range []string{"single", "cluster", "sentinel"} {
			if value != "redis.url" && mode != "single" {
				continue
			}
			for _, probe := range probes {
				tree := map[string]any{"redis": map[string]any{"mode": mode, "ca": map[string]any{}}}
				if mode == "single" {
					tree = map[string]any{}
				}
				set(tree, value, probe)
				if value == "audit.log" && probe != "" {
					set(tree, "audit.existingSecret", "k")
				}
				_, environ, err := sidecarOf(t, tree)
				name, _, _ := strings.Cut(value, ".existing")
				switch {
				case err == nil:
					if found := p.mistakes(environ); len(found) != 0 {
						t.Errorf("%s=%v, mode %s: the program refuses %v", value, probe, mode, found)
					}
				case strings.Contains(err.Error(), "\n  "+name) || value == "ports.token" && strings.Contains(err.Error(),
					"\n  ports.admin: is the same"):
					if value == "redis.url" && !strings.Contains(fmt.Sprint(probe), "@") {
						refused := p.mistakes([]string{
							"HUMANAPI_CLIENT_ID=a", "HUMANAPI_CLIENT_SECRET=b", "REDIS_MODE=" + mode,
							"REDIS_URL=" + fmt.Sprint(probe),
						})
						if len(refused) == 0 && !rareURL(fmt.Sprint(probe)) {
							t.Errorf("%s=%v, mode %s: the program takes it, but %v", value, probe, mode, err)
						}
					}
				default:
					t.Errorf("%s=%v: not refused by name: %v", value, probe, err)
				}
			}
		}
	}
}

// rareURL reports whether a URL is one that the program accepts and the chart does not, because nobody needs it.
func rareURL(url string) bool {
	return url == "" ||
		regexp.MustCompile(`^REDIS:|//$|:$|#f|//\?|h//|h/0/1|h/x|dial_timeout|protocol|:65536|:999999|addr=(a|)$|db=|addr=a:1;|\[::g\]|%|::1$|h\?a$|unknown|master_name`).MatchString(url)
}

func replaced(texts []string, from, to string) (all []string) {
	for _, text := range texts {
		all = append(all, strings.Replace(text, from, to, 1))
	}
	return all
}

func words() []string {
	return []string{
		"", "connect", "hip", "single", "cluster", "sentinel", "native", "plain", "Always", "Never", "IfNotPresent",
		"always", "other", "a b", "stdout", "stderr",
		"/var/log/audit", "relative", "key.pem", "a/b", "'", `"`, "{", "é", "$(X)", "yes", "null", "1", "~",
	}
}

func anys(texts []string) (all []any) {
	for _, text := range texts {
		all = append(all, text)
	}
	return all
}

// set puts a value into a tree by its path.
func set(tree map[string]any, path string, value any) {
	head, rest, nested := strings.Cut(path, ".")
	if !nested {
		tree[head] = value
		return
	}
	child, ok := tree[head].(map[string]any)
	if !ok {
		child = map[string]any{}
		tree[head] = child
	}
	set(child, rest, value)
}
