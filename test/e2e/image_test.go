package e2e

import (
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"token-sidecar/internal/testbed"
)

// A builder really makes images, in a storage of its own.
type builder struct {
	t    *testing.T
	root string
}

// command returns a command that has root's rights over the files of images; other users get these in a user namespace.
func (b builder) command(name string, args ...string) *exec.Cmd {
	if os.Getuid() != 0 {
		name, args = "buildah", append([]string{"unshare", name}, args...)
	}
	return exec.CommandContext(context.WithoutCancel(b.t.Context()), name, args...)
}

func (b builder) run(args ...string) string {
	b.t.Helper()
	storage := []string{
		"--storage-driver", "vfs", "--root", filepath.Join(b.root, "root"), "--runroot",
		filepath.Join(b.root, "run"),
	}
	return b.output(b.command("buildah", append(storage, args...)...))
}

func (b builder) sh(script string) string {
	b.t.Helper()
	return b.output(b.command("bash", "-euc", script))
}

func (b builder) output(cmd *exec.Cmd) string {
	b.t.Helper()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("%v: %v\n%s%s", cmd.Args, err, out, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// goEnv returns one of Go's variables.
func (b builder) goEnv(name string) string {
	b.t.Helper()
	return b.output(exec.CommandContext(b.t.Context(), "go", "env", name))
}

// standIn makes an image that, with the volumes of build, can replace the builder image of the Dockerfile: a shell,
// this machine's Go and its certificates. Not every machine that runs the tests can pull images.
func (b builder) standIn() string {
	b.t.Helper()
	container := b.run("from", "scratch")
	root := b.run("mount", container)
	b.sh(`cd ` + root + ` && mkdir -p bin tmp root etc/ssl/certs && cp "$(command -v busybox)" bin/busybox
for tool in sh mkdir cp; do ln -s busybox bin/$tool; done
cp /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/`)
	b.run("config", "--env", "PATH=/usr/local/go/bin:/bin", "--env", "HOME=/root", "--env", "GOTOOLCHAIN=local", "--env",
		"GOPROXY="+b.goEnv("GOPROXY"), container)
	b.run("umount", container)
	b.run("commit", "--quiet", container, "stand-in")
	return "localhost/stand-in"
}

// build builds the Dockerfile on base. The container sees this machine's Go, modules and cache; what it writes there is
// discarded.
func (b builder) build(base, tag string) string {
	b.t.Helper()
	args := []string{
		"build", "--quiet", "--isolation", "chroot", "--timestamp", "0", "--build-arg", "BUILDER=" + base,
		"--build-arg", "VERSION=v1.2.3", "--tag", tag,
	}
	for from, to := range map[string]string{
		"GOROOT": "/usr/local/go", "GOMODCACHE": "/root/go/pkg/mod",
		"GOCACHE": "/root/.cache/go-build",
	} {
		args = append(args, "--volume", b.goEnv(from)+":"+to+":O")
	}
	return b.run(append(args, ".")...)
}

// TestImage really builds the Dockerfile, and runs the result as a pod does: as its user, in its own root.
func TestImage(t *testing.T) {
	testbed.Needs(t, "buildah", "busybox")
	b := builder{t: t, root: t.TempDir()}
	t.Cleanup(func() {
		b.run("rm", "--all") // unmounts them
		b.sh("rm -rf " + b.root + "/*")
	})
	base := b.standIn()
	b.output(exec.CommandContext(t.Context(), "make", "build")) // fills the cache for both builds
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
	if config.User != "65532:65532" || config.Entrypoint[0] != "/token-sidecar" ||
		config.Labels["org.opencontainers.image.version"] != "v1.2.3" {
		t.Errorf("%+v", config)
	}

	root := b.run("mount", b.run("from", "localhost/first"))
	files := b.sh("cd " + root +
		" && find . -type f | grep -vE '^./(dev|proc|sys)/' | sort | xargs du -cb | awk '{print $2, $1}'")
	var size int
	if _, err := fmt.Sscanf(files[strings.Index(files, "total "):], "total %d", &size); err != nil || size > 20_000_000 {
		t.Errorf("%d bytes, %v", size, err)
	}
	if lines := strings.Split(files, "\n"); len(lines) != 3 {
		t.Errorf("the image holds more than the program and certificates:\n%s", files)
	}

	b.sh("install --mode 644 " + root + "/token-sidecar " + b.root)
	checkProgram(t, filepath.Join(b.root, "token-sidecar"), map[string]elf.Machine{
		"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64,
	}[image.OCI.Architecture])

	environ := testbed.StartAuth(t).Environ("PATH="+os.Getenv("PATH"), "HOME="+os.Getenv("HOME"),
		"LISTEN_ADDR="+testbed.FreeAddr(t), "ADMIN_ADDR="+testbed.FreeAddr(t))
	inImage := func(script string) *exec.Cmd {
		cmd := b.command("bash", "-euc", `sidecar="chroot --userspec=65532:65532 $0 /token-sidecar"; `+script, root)
		cmd.Env = environ
		return cmd
	}
	if out, err := inImage("$sidecar version").CombinedOutput(); err != nil || !strings.HasPrefix(string(out),
		"token-sidecar v1.2.3\n") {
		t.Errorf("%v: %s", err, out)
	}
	serve := inImage("$sidecar serve & read || kill $!; wait $!") // it is told to end when standard input ends
	var log strings.Builder
	serve.Stdout, serve.Stderr = &log, &log
	end, err := serve.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	testbed.Eventually(t, "healthcheck", func() error { return inImage("$sidecar healthcheck").Run() })
	if out, err := inImage("$sidecar get --user alice").CombinedOutput(); err != nil || !strings.Contains(string(out),
		"access_token") {
		t.Errorf("%v: %s", err, out)
	}
	_ = end.Close()
	if err := serve.Wait(); err != nil {
		t.Errorf("%v:\n%s", err, &log)
	}
}
