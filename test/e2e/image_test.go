package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"token-sidecar/internal/testbed"
)

// A builder makes images for real, in a storage of its own.
type builder struct {
	t    *testing.T
	root string
}

func (b builder) run(args ...string) string {
	b.t.Helper()
	storage := []string{"--storage-driver", "vfs", "--root", filepath.Join(b.root, "root"), "--runroot", filepath.Join(b.root, "run")}
	cmd := exec.CommandContext(context.WithoutCancel(b.t.Context()), "buildah", append(storage, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("buildah %v: %v\n%s%s", args, err, out, &stderr)
	}
	return strings.TrimSpace(string(out))
}

func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "bash", "-euc", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

// standIn makes an image that, with the volumes of build, can do what the Dockerfile asks of the builder image: a shell, this
// machine's Go and its certificates. Images cannot be pulled everywhere the tests run.
func (b builder) standIn() string {
	b.t.Helper()
	container := b.run("from", "scratch")
	root := b.run("mount", container)
	sh(b.t, `cd `+root+` && mkdir -p bin tmp root etc/ssl/certs && cp "$(command -v busybox)" bin/busybox && for tool in sh mkdir cp; do ln -s busybox bin/$tool; done
cp /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/`)
	b.run("config", "--env", "PATH=/usr/local/go/bin:/bin", "--env", "HOME=/root", "--env", "GOTOOLCHAIN=local", "--env", "GOPROXY="+sh(b.t, "go env GOPROXY"), container)
	b.run("umount", container)
	b.run("commit", "--quiet", container, "stand-in")
	return "localhost/stand-in"
}

// build builds the Dockerfile on base. The container sees this machine's Go, modules and cache, and what it writes there is
// dropped with it.
func (b builder) build(base, tag string) string {
	b.t.Helper()
	args := []string{"build", "--quiet", "--isolation", "chroot", "--timestamp", "0", "--build-arg", "BUILDER=" + base, "--build-arg", "VERSION=v1.2.3", "--tag", tag}
	for from, to := range map[string]string{"GOROOT": "/usr/local/go", "GOMODCACHE": "/root/go/pkg/mod", "GOCACHE": "/root/.cache/go-build"} {
		args = append(args, "--volume", sh(b.t, "go env "+from)+":"+to+":O")
	}
	return b.run(append(args, ".")...)
}

// TestImage builds the Dockerfile for real, and runs what came of it the way a pod does: as its user, in its
// own root.
func TestImage(t *testing.T) {
	testbed.Needs(t, "buildah", "busybox")
	b := builder{t: t, root: t.TempDir()}
	t.Cleanup(func() {
		_ = exec.Command("buildah", "--storage-driver", "vfs", "--root", filepath.Join(b.root, "root"), "--runroot", filepath.Join(b.root, "run"), "umount", "--all").Run()
	})
	base := b.standIn()
	first := b.build(base, "first")
	if second := b.build(base, "second"); first != second {
		t.Errorf("two builds of the same source are %s and %s", first, second)
	}

	var image struct {
		OCI struct {
			Architecture string `json:"architecture"`
			Config       struct {
				User       string            `json:"User"`
				Entrypoint []string          `json:"Entrypoint"`
				Labels     map[string]string `json:"Labels"`
			} `json:"config"`
		} `json:"OCIv1"`
	}
	if err := json.Unmarshal([]byte(b.run("inspect", "--type", "image", "first")), &image); err != nil {
		t.Fatal(err)
	}
	config := image.OCI.Config
	if config.User != "65532:65532" || config.Entrypoint[0] != "/token-sidecar" || config.Labels["org.opencontainers.image.version"] != "v1.2.3" {
		t.Errorf("%+v", config)
	}

	root := b.run("mount", b.run("from", "localhost/first"))
	files := sh(t, "cd "+root+" && find . -type f | grep -vE '^./(dev|proc|sys)/' | sort | xargs du -cb | awk '{print $2, $1}'")
	var size int
	if _, err := fmt.Sscanf(files[strings.Index(files, "total "):], "total %d", &size); err != nil || size > 20_000_000 {
		t.Errorf("%d bytes, %v", size, err)
	}
	if lines := strings.Split(files, "\n"); len(lines) != 3 {
		t.Errorf("the image holds more than the program and certificates:\n%s", files)
	}

	auth := testbed.StartAuth(t)
	inImage := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "chroot", append([]string{"--userspec=65532:65532", root, "/token-sidecar"}, args...)...)
		cmd.Env = auth.Environ("LISTEN_ADDR="+testbed.FreeAddr(t), "ADMIN_ADDR="+testbed.FreeAddr(t))
		return cmd
	}
	if out, err := inImage("version").CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "token-sidecar v1.2.3\n") {
		t.Errorf("%v: %s", err, out)
	}
	serve := inImage()
	var log strings.Builder
	serve.Stdout, serve.Stderr = &log, &log
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	tool := func(args ...string) (string, error) {
		cmd := inImage(args...)
		cmd.Env = serve.Env
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	testbed.Eventually(t, "healthcheck", func() error {
		_, err := tool("healthcheck")
		return err
	})
	if out, err := tool("get", "--user", "alice"); err != nil || !strings.Contains(out, "access_token") {
		t.Errorf("%v: %s", err, out)
	}
	_ = serve.Process.Signal(syscall.SIGTERM)
	if err := serve.Wait(); err != nil {
		t.Errorf("%v:\n%s", err, &log)
	}
}

// TestOtherArchitecture: the program also builds for arm64.
func TestOtherArchitecture(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", os.DevNull, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s", out)
	}
}
