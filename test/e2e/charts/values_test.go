package charts

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"

	"token-sidecar/internal/testbed"
)

// TestWrongValues: each one is refused with a message that names the value and the remedy, even in a dependency.
func TestWrongValues(t *testing.T) {
	service := exampleService(t)
	for values, sentence := range map[string]string{
		"image.repository=": "image.repository: is missing; push the image " +
			"to your registry (make image-push) and name it",
		"image.repository=r/a:1@x": "image.repository: is no image without a tag",
		"image.digest=latest":      "image.digest: is no digest",
		"image.tag=a b":            "image.tag: is no tag",
		"humanapi.clientId=":       "humanapi.clientId: is missing; set it",
		"humanapi.existingSecret=": "humanapi.existingSecret: is missing; name " +
			"the Secret",
		"humanapi.clientSecret=x": "humanapi.clientSecret: is set beside " +
			"humanapi.existingSecret; keep one of them",
		"humanapi.csi.driver=x": "humanapi.csi: is set beside " +
			"humanapi.existingSecret; keep one of them",
		"humanapi.existingSecret=,humanapi.csi.readOnly=true": "humanapi.csi: names no driver",
		"humanapi.product=other":                              `humanapi.product: "other" is unknown; use connect or hip`,
		"humanapi.authUrl=http://auth.example": "humanapi.authUrl: is not a URL of the form " +
			"https://host, or http:// to loopback",
		"humanapi.ca.secret=a,humanapi.ca.configMap=b": "humanapi.ca: names a Secret and a ConfigMap; " +
			"keep one of them",
		"humanapi.clientID=a": "additional properties 'clientID' not allowed",
		"replicas=2":          "additional properties 'replicas' not allowed",
		"mode=sidecar":        `mode: "sidecar" is unknown; use native or plain`,
		"redis.url=redis://:password@redis:6379": "redis.url: holds a password; put that into a " +
			"Secret, and its name into redis.existingSecret",
		"redis.url=localhost:6379": "redis.url: is not a Redis URL; use " +
			"redis://host:6379/0, or rediss:// for TLS",
		"redis.mode=ring":        `redis.mode: "ring" is unknown; use single or cluster or sentinel`,
		"redis.existingSecret=r": "redis.existingSecret: is set but redis.url is not",
		"redis.ca.secret=r":      "redis.ca: is set but redis.url is not",
		"redis.ca.secret=r,redis.url=redis://r": "redis.ca: needs TLS; begin redis.url with " +
			"rediss://",
		"redis.url=redis://r,redis.mode=sentinel": "redis.url: names no master; add " +
			"?master_name=mymaster",
		"redis.url=redis://r?ttl=5": "redis.url: ttl is no option with redis.mode " +
			"single; use db or pool_size",
		"callerToken.generate=true,callerToken.existingSecret=a": "callerToken.generate: is set beside " +
			"callerToken.existingSecret",
		"audit.log=stdout":       "audit.existingSecret: is missing",
		"audit.existingSecret=a": "audit.existingSecret: is set but audit.log is not",
		"ports.token=80":         "ports.token: is no port from 1024 to 65535",
		"ports.token=8081": "ports.admin: is the same as ports.token; " +
			"choose another one",
		"settings.LISTEN_ADDR=0.0.0.0:8080": "settings.LISTEN_ADDR: has a value of its own " +
			"in the chart; use ports.token or socket",
		"settings.refresh_ahead=1m": "settings.refresh_ahead: is no setting of the " +
			"sidecar",
		"settings.REFRESH_AHED=1m": "settings.REFRESH_AHED: is no setting of the " +
			"sidecar",
		"settings.REFRESH_AHEAD=soon": "settings.REFRESH_AHEAD: is no duration; use " +
			"one such as 250ms, 60s or 10m",
		"settings.KEEP_REFRESH_TOKENS=true": "settings.KEEP_REFRESH_TOKENS: needs keys " +
			"that outlive the client secret; set encryptionKeys.existingSecret",
		"settings.REDIS_TIMEOUT.a=1": "settings.REDIS_TIMEOUT: is a map or a list",
		"extraEnv[0].name=REFRESH_AHEAD,extraEnv[0].value=1m": "extraEnv: REFRESH_AHEAD is a setting of the " +
			"sidecar; use settings.REFRESH_AHEAD",
		"extraEnv[0].name=ADMIN_ADDR,extraEnv[0].valueFrom.x=1": "extraEnv: ADMIN_ADDR has a value of its own " +
			"in the chart; use ports.admin",
		"extraEnv[0].name=HUMANAPI_CLIENT_ID,extraEnv[0].valueFrom.x=1": "extraEnv: HUMANAPI_CLIENT_ID is set beside " +
			"humanapi.clientId; keep one of them",
		"extraEnv[0].value=1":                   "extraEnv: an entry has no name",
		"extraEnv[0].name=A,extraEnv[1].name=A": "extraEnv: a name is there twice",
	} {
		t.Run(values, func(t *testing.T) {
			prefixed := "token-sidecar." + strings.ReplaceAll(values, ",", ",token-sidecar.")
			out, err := Render("demo", service, Rendering{Values: []string{prefixed}})
			if err == nil || !strings.Contains(err.Error(), "  "+sentence) && !strings.Contains(err.Error(), sentence+"\n") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// TestMistakesAreToldTogether: all of them, in a stable order.
func TestMistakesAreToldTogether(t *testing.T) {
	tree := map[string]any{
		"mode": "x", "redis": map[string]any{"url": "x", "mode": "y"}, "ports": map[string]any{"token": 1},
		"settings": map[string]any{"A": 1, "B": 2, "C": 3}, "humanapi": map[string]any{"product": "z"},
	}
	var first string
	for range 5 {
		_, err := Render("demo", sidecar, Rendering{Tree: tree})
		if err == nil || first != "" && err.Error() != first {
			t.Fatalf("%v, before: %s", err, first)
		}
		first = err.Error()
	}
	if lines := strings.Count(first, "\n  "); lines != 8 {
		t.Errorf("%d mistakes in: %s", lines, first)
	}
}

// TestNoValue: each value and each map of values can be null. Then the result is correct, or is refused with the
// value's name.
func TestNoValue(t *testing.T) {
	p := newProgram(t)
	var values yaml.Node
	if err := yaml.Unmarshal([]byte(testbed.ReadFile(t, filepath.Join(sidecar, "values.yaml"))), &values); err != nil {
		t.Fatal(err)
	}
	everything := []string{
		"podMonitor.enabled=true", "prometheusRule.enabled=true", "dashboard.enabled=true", "networkPolicy.enabled=true",
		"injection.enabled=true",
	}
	for _, path := range paths(values.Content[0], "") {
		out, err := Render("demo", sidecar, Rendering{Values: append(append([]string{required}, everything...),
			path+"=null"), APIs: offers("v1")})
		switch {
		case err != nil && !strings.Contains(err.Error(), "\n  "+path):
			t.Errorf("%s=null: %v", path, err)
		case strings.Contains(out, "<nil>") || strings.Contains(out, "<no value>"):
			t.Errorf("%s=null: %s", path, out)
		case err == nil:
			_, environ, err := sidecarOf(t, nil, append(everything[:4:4], path+"=null")...)
			if err != nil {
				if !errors.Is(err, errNoPod) || !strings.HasPrefix(path, "humanapi") {
					t.Errorf("%s=null: %v", path, err)
				}
				continue
			}
			if found := p.mistakes(environ); len(found) != 0 {
				t.Errorf("%s=null: %v", path, found)
			}
		}
	}
}

// paths are those of all values in a tree.
func paths(node *yaml.Node, prefix string) (all []string) {
	if node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i < len(node.Content); i += 2 {
		path := prefix + strings.ReplaceAll(node.Content[i].Value, ".", `\.`)
		all = append(all, path)
		all = append(all, paths(node.Content[i+1], path+".")...)
	}
	return all
}

// TestNumbers: numbers are rendered as they were written.
func TestNumbers(t *testing.T) {
	values := []string{required, "injection.enabled=true", "settings.MEMORY_CACHE_SIZE=100000000"}
	tree := map[string]any{"resources": map[string]any{"requests": map[string]any{
		"cpu":    0.5,
		"memory": float64(100000000),
	}}}
	out, err := Render("demo", sidecar, Rendering{Values: values, Tree: tree, APIs: offers("v1")})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`dyn({"name": dyn("MEMORY_CACHE_SIZE"), "value": dyn("100000000")})`, `"cpu": dyn(0.5), "memory": dyn(100000000)`,
		"- name: MEMORY_CACHE_SIZE\n        value: \"100000000\"",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in:\n%s", want, out)
		}
	}
}

// TestTagIsTheVersion: the image's tag is the chart's appVersion, even if the service's chart has another one.
func TestTagIsTheVersion(t *testing.T) {
	dir := t.TempDir()
	service, err := ExampleService(folder, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, chart := range []string{filepath.Join(dir, "token-sidecar"), filepath.Join(service, "charts/token-sidecar")} {
		if _, err := os.Stat(chart); err != nil {
			continue
		}
		path := filepath.Join(chart, "Chart.yaml")
		changed := strings.Replace(testbed.ReadFile(t, path), `appVersion: "0.1.0"`, `appVersion: "7.8.9"`, 1)
		if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rebuild(t, service)
	for _, chart := range []string{service, filepath.Join(dir, "token-sidecar")} {
		values := required
		if chart == service {
			values = ""
		}
		out, err := Render("demo", chart, Rendering{Values: []string{values}})
		if err != nil || !regexp.MustCompile(`image: "?\S+token-sidecar:7\.8\.9"?\n`).MatchString(out) {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// TestImage: its registry and its pull secrets.
func TestImage(t *testing.T) {
	for values, want := range map[string]string{
		"image.repository=r": "r:0.1.0",
		"image.registry=a.example:5000,image.repository=t/r":             "a.example:5000/t/r:0.1.0",
		"image.registry=a.example,global.imageRegistry=b.example/mirror": "b.example/mirror/example/token-sidecar:0.1.0",
		"image.tag=1.2": "example/token-sidecar:1.2",
		"image.digest=sha256:" + strings.Repeat("0", 64):           "example/token-sidecar@sha256:" + strings.Repeat("0", 64),
		"global.imagePullSecrets[0]=a,image.pullSecrets[0]=b":      "example/token-sidecar:0.1.0 a b",
		"global.imagePullSecrets[0].name=a,image.pullSecrets[0]=a": "example/token-sidecar:0.1.0 a",
	} {
		if strings.HasSuffix(values, "=1.2") {
			values = ""
		}
		tree := map[string]any{}
		if values == "" {
			tree = map[string]any{"image": map[string]any{"tag": "1.2"}}
		}
		pod, _, err := sidecarOf(t, tree, values)
		if err != nil {
			t.Errorf("%s: %v", values, err)
			continue
		}
		got := pod.Spec.InitContainers[0].Image
		for _, secret := range pod.Spec.ImagePullSecrets {
			got += " " + secret.Name
		}
		if got != want || pod.Spec.Containers[0].Image != pod.Spec.InitContainers[0].Image {
			t.Errorf("%s: %s, not %s", values, got, want)
		}
	}
}

// TestTestEnds: the pod of helm test has no container that keeps running, in either mode. One container tries the auth
// service and Redis with the sidecar's settings, unless the auth service would have to be in the pod.
func TestTestEnds(t *testing.T) {
	for values, want := range map[string][]string{
		"mode=native": {"healthcheck", "check"},
		"mode=plain":  {"check"},
		"mode=native,humanapi.authUrl=http://localhost:8090": {"healthcheck", "config"},
		"mode=plain,humanapi.authUrl=http://localhost:8090":  {"config"},
	} {
		pod, environ, err := sidecarOf(t, nil, values, "callerToken.generate=true,socket=true")
		if err != nil {
			t.Fatal(err)
		}
		var args []string
		for _, container := range pod.Spec.Containers {
			args = append(args, container.Args...)
			if container.StartupProbe != nil || container.LivenessProbe != nil || container.ReadinessProbe != nil ||
				container.RestartPolicy != nil {
				t.Errorf("%s: %s is probed or runs on", values, container.Name)
			}
		}
		if !slices.Equal(args, want) {
			t.Errorf("%s: %v, want %v", values, args, want)
		}
		for _, container := range pod.Spec.InitContainers {
			if container.RestartPolicy == nil || *container.RestartPolicy != corev1.ContainerRestartPolicyAlways {
				t.Errorf("%s: %s would be waited for", values, container.Name)
			}
		}
		pod.Spec.InitContainers, pod.Spec.Containers = nil, pod.Spec.Containers[len(want)-1:]
		checkFiles(t, pod, environ, values)
		if got := len(pod.Spec.Containers[0].Env) - 2; got != len(environ) { // POD_NAME and POD_NAMESPACE
			t.Errorf("%s: it has %d of %d variables", values, got, len(environ))
		}
	}
}

// TestProbesThatNoMeshRewrites: Istio without native sidecars would redirect this container's HTTP probes to a proxy
// that starts after it.
func TestProbesThatNoMeshRewrites(t *testing.T) {
	pod, _, err := sidecarOf(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	container := pod.Spec.InitContainers[0]
	for name, probe := range map[string]*corev1.Probe{
		"startup":  container.StartupProbe,
		"liveness": container.LivenessProbe,
	} {
		if probe.Exec == nil || strings.Join(probe.Exec.Command, " ") != "/token-sidecar healthcheck" {
			t.Errorf("%s: %+v", name, probe)
		}
	}
	if pod, _, err = sidecarOf(t, nil, "probes.startup=null"); err != nil ||
		pod.Spec.InitContainers[0].StartupProbe != nil {
		t.Errorf("%v", err)
	}
}

// TestGracePeriod: in mode plain the pod's grace period covers the sidecar's shutdown.
func TestGracePeriod(t *testing.T) {
	service := exampleService(t)
	for values, want := range map[string]string{
		"mode=native": "30", "mode=plain": "30", "mode=plain,token-sidecar.settings.SHUTDOWN_DELAY=1m": "80",
		"mode=plain,token-sidecar.settings.SHUTDOWN_DELAY=1500ms,token-sidecar.settings.SHUTDOWN_TIMEOUT=1m": "67",
	} {
		out, err := Render("demo", service, Rendering{Values: []string{"token-sidecar." + values}})
		if err != nil || !strings.Contains(out, "terminationGracePeriodSeconds: "+want+"\n") {
			t.Errorf("%s: %v\n%s", values, err, out)
		}
	}
	out, err := Render("demo", service, Rendering{Values: []string{"token-sidecar.mode=plain"}})
	if err != nil || !strings.Contains(out, "{name: SHUTDOWN_DELAY, value: 10s}") {
		t.Errorf("%v\n%s", err, out)
	}
}
