package charts

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/cli"
	"helm.sh/helm/v4/pkg/registry"
)

// A Publication is the metadata of a released chart.
type Publication struct {
	// Image is the image's name with its registry but without a tag; the tag is Version.
	Image, Version string
	// Home is the project's web page, empty for none.
	Home string
}

// Package writes the chart in folder from to folder to, as an archive that needs no value for the image, and returns
// its path.
func Package(from, to string, p Publication) (string, error) {
	c, err := loader.Load(from)
	if err != nil {
		return "", err
	}
	c.Metadata.Version, c.Metadata.AppVersion = p.Version, p.Version
	if p.Home != "" {
		c.Metadata.Home, c.Metadata.Sources = p.Home, []string{p.Home}
	}
	host, path, ok := strings.Cut(p.Image, "/")
	if !ok {
		return "", fmt.Errorf("the image %q has no registry; name it as registry/repository", p.Image)
	}
	for _, file := range c.Raw {
		if file.Name != chartutil.ValuesfileName {
			continue
		}
		for key, value := range map[string]string{"registry": host, "repository": path} {
			empty := regexp.MustCompile(`(?m)^  ` + key + `: ""$`)
			if n := len(empty.FindAll(file.Data, -1)); n != 1 {
				return "", fmt.Errorf("values.yaml has %d lines for image.%s", n, key)
			}
			file.Data = empty.ReplaceAll(file.Data, []byte("  "+key+": "+value))
		}
	}
	return chartutil.Save(c, to)
}

// Push uploads an archive to a folder of an OCI registry, such as oci://registry.example/charts, with the credentials
// of helm or docker, and returns the chart's reference.
func Push(archive, folder string, options ...registry.ClientOption) (string, error) {
	content, err := os.ReadFile(archive) //nolint:gosec // the user names the file
	if err != nil {
		return "", err
	}
	chart, err := loader.LoadArchive(bytes.NewReader(content))
	if err != nil {
		return "", fmt.Errorf("%s: %w", filepath.Base(archive), err)
	}
	client, err := registry.NewClient(append([]registry.ClientOption{
		registry.ClientOptCredentialsFile(cli.New().RegistryConfig),
	}, options...)...)
	if err != nil {
		return "", err
	}
	reference := fmt.Sprintf("%s/%s:%s", strings.TrimPrefix(strings.TrimRight(folder, "/"), "oci://"), chart.Name(),
		chart.Metadata.Version)
	if _, err := client.Push(content, reference); err != nil {
		return "", err
	}
	return "oci://" + reference, nil
}
