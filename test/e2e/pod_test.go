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

// A probe is that of a container in a manifest.
type probe struct {
	Get struct {
		Path string `yaml:"path"`
		Port int    `yaml:"port"`
	} `yaml:"httpGet"`
}

// A manifest is what is looked at of a rendered Deployment.
type manifest struct {
	Spec struct {
		Template struct {
			Spec struct {
				InitContainers []struct {
					Command   []string `yaml:"command"`
					Env       []struct{ Name, Value string }
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

// podScript is a pod: a network of its own, in which the sidecar starts and has passed its start-up probe before the
// app comes; at the end the app has gone when the sidecar is told to. Probes come to the pod's address, as those of the
// kubelet do.
const podScript = `
ip link set lo up && ip addr add 10.9.9.9/32 dev lo
program sandbox --addr 127.0.0.1:8090 >/dev/null & auth=$!
env -i PATH="$PATH" %[1]s program 2>log & sidecar=$!
trap 'kill $auth $sidecar 2>/dev/null; cat log >&2' EXIT
curl -sf --retry 60 --retry-delay 1 --retry-connrefused -o /dev/null http://10.9.9.9:%[2]d%[3]s
curl -sf -o /dev/null http://10.9.9.9:%[4]d%[5]s && curl -sf -o /dev/null http://10.9.9.9:%[6]d%[7]s && echo probes pass
curl -s -o /dev/null http://10.9.9.9:8080/token?client_user_id=alice || echo tokens are for the pod only
%[8]s
%[8]s
kill -TERM $sidecar; wait $sidecar; echo the sidecar ended with $?
`

// TestPodInMiniature runs the sidecar and the app as the rendered manifest says: command, environment, files, probes.
func TestPodInMiniature(t *testing.T) {
	testbed.Needs(t, "unshare", "ip", "curl")
	var m manifest
	if err := yaml.Unmarshal([]byte(testbed.ReadFile(t, "test/e2e/charts/testdata/service-native.yaml")), &m); err != nil {
		t.Fatal(err)
	}
	sidecar, app := m.Spec.Template.Spec.InitContainers[0], m.Spec.Template.Spec.Containers[0]
	dir := testbed.InPath(t, "program")
	secrets := filepath.Dir(testbed.WriteFile(t, "client-secret", "sandbox-secret"))
	environ := "HUMANAPI_AUTH_URL=http://127.0.0.1:8090"
	for _, v := range sidecar.Env {
		value := strings.ReplaceAll(v.Value, "/etc/token-sidecar", secrets)
		if v.Name == "HUMANAPI_CLIENT_ID" {
			value = "sandbox-client"
		}
		environ += " " + v.Name + "=" + value
	}
	asks := regexp.MustCompile(`(?m)^\s*(curl .*)$`).FindStringSubmatch(strings.Join(app.Args, "\n"))
	if len(sidecar.Command) != 0 || len(sidecar.Env) < 5 || asks == nil {
		t.Fatalf("not understood: %+v, %+v", sidecar, app)
	}
	script := fmt.Sprintf(podScript, environ, sidecar.Startup.Get.Port, sidecar.Startup.Get.Path,
		sidecar.Readiness.Get.Port,
		sidecar.Readiness.Get.Path, sidecar.Liveness.Get.Port, sidecar.Liveness.Get.Path, asks[1])
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
