package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
)

// A promServer scrapes sidecars and evaluates the alert rules.
type promServer struct{ url string }

// startPrometheus scrapes the targets, which are named by their pods.
func startPrometheus(t *testing.T, targets map[string]string, interval time.Duration) *promServer {
	t.Helper()
	dir, addr := t.TempDir(), testbed.FreeAddr(t)
	rules, err := filepath.Abs(observability + "alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("global: {scrape_interval: %[1]s, scrape_timeout: %[1]s, evaluation_interval: %[1]s}\n"+
		"rule_files: [%[2]s]\nscrape_configs:\n  - job_name: default/token-sidecar\n    static_configs:\n", interval, rules)
	for pod, target := range targets {
		config += fmt.Sprintf("      - {targets: ['%s'], labels: {namespace: %s, pod: %s}}\n", target, pod, pod)
	}
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "prometheus",
		"--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &promServer{url: "http://" + addr}
}

// get queries its API, and parses the answer into data.
func (p *promServer) get(path string, query url.Values, data any) error {
	res, err := http.Get(p.url + "/api/v1/" + path + "?" + query.Encode())
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer := struct {
		Error string
		Data  any
	}{Data: data}
	err = json.NewDecoder(res.Body).Decode(&answer)
	if answer.Error != "" {
		err = errors.New(answer.Error)
	}
	return err
}

// An alert is one that Prometheus has raised, pending or firing.
type alert struct {
	Labels, Annotations map[string]string
	State               string
}

func (p *promServer) alerts() ([]alert, error) {
	var data struct{ Alerts []alert }
	err := p.get("alerts", nil, &data)
	return data.Alerts, err
}

// says checks that the fault's alert is raised for its pod, and names the cause: by its label, or in its summary.
func (p *promServer) says(f fault) error {
	raised, err := p.alerts()
	if err != nil {
		return err
	}
	for _, a := range raised {
		cause, labelled := a.Labels["cause"]
		if !labelled && strings.HasSuffix(a.Annotations["summary"], ": "+f.cause) {
			cause = f.cause
		}
		if a.Labels["alertname"] == f.alert && a.Labels["pod"] == f.name && cause == f.cause {
			return nil
		}
	}
	return fmt.Errorf("no alert %s for %s with the cause %s among %v", f.alert, f.name, f.cause, raised)
}
