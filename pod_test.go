package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"token-sidecar/internal/testbed"

	"go.yaml.in/yaml/v2"
)

// A manifest is what is looked at of a rendered Deployment.
type manifest struct {
	Spec struct {
		Template struct {
			Spec struct {
				InitContainers []struct {
					Command []string `yaml:"command"`
					Env     []struct{ Name, Value string }
					Startup struct {
						Get struct {
							Path string `yaml:"path"`
							Port int    `yaml:"port"`
						} `yaml:"httpGet"`
					} `yaml:"startupProbe"`
				} `yaml:"initContainers"`
			} `yaml:"spec"`
		} `yaml:"template"`
	} `yaml:"spec"`
}

// TestPodInMiniature runs the sidecar as the rendered manifest says: its environment, its files, its probes; then
// the app gets a token, and the end of the pod is orderly.
func TestPodInMiniature(t *testing.T) {
	var m manifest
	if err := yaml.Unmarshal([]byte(read(t, "charts/testdata/service-native.yaml")), &m); err != nil {
		t.Fatal(err)
	}
	sidecar := m.Spec.Template.Spec.InitContainers[0]
	auth := testbed.StartAuth(t)
	files := t.TempDir()
	if err := os.WriteFile(filepath.Join(files, "client-secret"), []byte("sandbox-secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	var environ []string
	values := map[string]string{"HUMANAPI_CLIENT_ID": "sandbox-client"}
	for _, v := range sidecar.Env {
		value := strings.ReplaceAll(v.Value, "/etc/token-sidecar", files)
		if replaced, ok := values[v.Name]; ok {
			value = replaced
		}
		environ = append(environ, v.Name+"="+value)
	}
	environ = append(environ, "HUMANAPI_AUTH_URL="+auth.URL)
	if len(sidecar.Command) != 0 || len(environ) < 6 {
		t.Fatalf("not understood: %+v", sidecar)
	}
	cmd := testbed.Command(context.WithoutCancel(t.Context()), environ)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := testbed.Observe(t, "127.0.0.1:8080", fmt.Sprint("127.0.0.1:", sidecar.Startup.Get.Port))
	testbed.Until(t, "the start-up probe passes", func() bool {
		status, _ := s.Fetch("http://" + s.Admin + sidecar.Startup.Get.Path)
		return status == 200
	})
	mustGet(t, s, "alice")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v:\n%s", err, &log)
	}
}
