// Command manifest writes plain manifests of a service with the sidecar into a folder, for kubectl kustomize.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"token-sidecar/test/e2e/charts"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: manifest FOLDER-OF-THE-CHARTS FOLDER-TO-WRITE")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(from, to string) error {
	work, err := os.MkdirTemp("", "charts")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	service, err := charts.ExampleService(from, work)
	if err != nil {
		return err
	}
	manifest, err := charts.Render("example", service, charts.Rendering{SkipTests: true})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o750); err != nil { //nolint:gosec // the user names the folder
		return err
	}
	for name, content := range map[string]string{
		"service.yaml":       manifest,
		"kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [service.yaml]\n",
	} {
		if err := os.WriteFile(filepath.Join(to, name), []byte(content), 0o600); err != nil { //nolint:gosec // as above
			return err
		}
	}
	return nil
}
