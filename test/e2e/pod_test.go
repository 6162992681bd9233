package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"

	"token-sidecar/internal/testbed"
)

// A probe is a container's probe in a manifest.
type probe struct {
	Get struct {
		Path string `yaml:"path"`
		Port string `yaml:"port"`
	} `yaml:"httpGet"`
	Exec struct {
		Command []string `yaml:"command"`
	} `yaml:"exec"`
}

// A manifest is the tested part of a rendered Deployment.
type manifest struct {
	Spec struct {
		Template struct {
			Spec struct {
				InitContainers []struct {
					Command []string `yaml:"command"`
					Env     []struct{ Name, Value string }
					Ports   []struct {
						Name string `yaml:"name"`
						Port int    `yaml:"containerPort"`
					} `yaml:"ports"`
					Startup   probe `yaml:"startupProbe"`
					Readiness probe `yaml:"readinessProbe"`
					Liveness  probe `yaml:"livenessProbe"`
				} `yaml:"initContainers"`
				Containers []struct {
					Args []string `yaml:"args"`
				} `yaml:"containers"`
			} `yaml:"spec"`
		} `yaml:"template"`
	} `yaml:"spec"`
}

// podScript is a pod: a network of its own, in which the sidecar starts, and passes its start-up probe before the app
// starts. At the end the app has ended when the sidecar is told to. HTTP probes go to the pod's address, like the
// kubelet's.
const podScript = `
ip link set lo up && ip addr add 10.9.9.9/32 dev lo
program sandbox --addr 127.0.0.1:8090 >/dev/null & auth=$!
sidecar() { env -i PATH="$PATH" %[1]s "$@"; }
env -i PATH="$PATH" %[1]s program 2>log & sidecar=$!
trap 'kill $auth $sidecar 2>/dev/null; cat log >&2' EXIT
for i in {1..600}; do sidecar %[2]s 2>/dev/null && break; done
sidecar %[3]s && curl -sf -o /dev/null http://10.9.9.9:%[4]d%[5]s && echo probes pass
curl -s -o /dev/null http://10.9.9.9:8080/token?client_user_id=alice || echo tokens are for the pod only
%[6]s
%[6]s
kill -TERM $sidecar; wait $sidecar; echo the sidecar ended with $?
`

// TestPodInMiniature runs the sidecar and the app as in the rendered manifests: command, environment, files, probes.
func TestPodInMiniature(t *testing.T) {
	testbed.Needs(t, "unshare", "ip", "curl")
	for _, name := range []string{"service-native", "service-shared"} {
		t.Run(name, func(t *testing.T) { runPod(t, "test/e2e/charts/testdata/"+name+".yaml") })
	}
}

func runPod(t *testing.T, path string) {
	t.Helper()
	var m manifest
	if err := yaml.Unmarshal([]byte(testbed.ReadFile(t, path)), &m); err != nil {
		t.Fatal(err)
	}
	sidecar, app := m.Spec.Template.Spec.InitContainers[0], m.Spec.Template.Spec.Containers[0]
	dir := testbed.InPath(t, "program")
	files := strings.NewReplacer(
		"/etc/token-sidecar", filepath.Dir(testbed.WriteFile(t, "client-secret", "sandbox-secret")),
		"/run/token-sidecar", t.TempDir(), "/token-sidecar", "program")
	environ := "HUMANAPI_AUTH_URL=http://127.0.0.1:8090"
	for _, v := range sidecar.Env {
		value := files.Replace(v.Value)
		if v.Name == "HUMANAPI_CLIENT_ID" {
			value = "sandbox-client"
		}
		environ += " " + v.Name + "=" + value
	}
	asks := regexp.MustCompile(`(?m)^\s*(curl .*)$`).FindStringSubmatch(strings.Join(app.Args, "\n"))
	if len(sidecar.Command) != 0 || len(sidecar.Env) < 5 || asks == nil ||
		sidecar.Readiness.Get.Port != sidecar.Ports[0].Name {
		t.Fatalf("not understood: %+v, %+v", sidecar, app)
	}
	script := fmt.Sprintf(podScript, environ, files.Replace(strings.Join(sidecar.Startup.Exec.Command, " ")),
		files.Replace(strings.Join(sidecar.Liveness.Exec.Command, " ")), sidecar.Ports[0].Port, sidecar.Readiness.Get.Path,
		files.Replace(asks[1]))
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "unshare", "--map-root-user", "--net", "bash", "-euc",
		script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	want := `probes pass
tokens are for the pod only
200 token-sidecar; fwd=miss
200 token-sidecar; hit; ttl=8639\d; detail=memory
the sidecar ended with 0
`
	if err != nil || !regexp.MustCompile("^"+want+"$").MatchString(string(out)) {
		t.Errorf("%v: %s\n%s", err, out, &stderr)
	}
}
