package e2e

import (
	"context"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"token-sidecar/internal/testbed"
)

// TestPlatforms evaluates the Dockerfile as docker build does, with BuildKit's own frontend, and runs what it would run
// in the builder image. The result is a program for the requested platform. (buildah, which builds the image in
// TestImage, sets TARGETARCH whatever the Dockerfile says.)
func TestPlatforms(t *testing.T) {
	for platform, machine := range map[string]elf.Machine{"linux/amd64": elf.EM_X86_64, "linux/arm64": elf.EM_AARCH64} {
		t.Run(platform, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "token-sidecar")
			runs := evaluate(t, platform)
			for _, run := range runs {
				script, from := run.Args[len(run.Args)-1], " -o /out/token-sidecar "
				if !strings.Contains(script, from) {
					continue
				}
				cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(script, from, " -o "+program+" ", 1))
				cmd.Env = os.Environ()
				for _, variable := range run.Env {
					if !strings.HasPrefix(variable, "PATH=") {
						cmd.Env = append(cmd.Env, variable)
					}
				}
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			checkProgram(t, program, machine)
		})
	}
}

// checkProgram checks that the file is a program for that machine, and needs no other file.
func checkProgram(t *testing.T, path string, machine elf.Machine) {
	t.Helper()
	file, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if file.Machine != machine {
		t.Errorf("a program for %v, not %v", file.Machine, machine)
	}
	if libraries, err := file.ImportedLibraries(); err != nil || len(libraries) != 0 {
		t.Errorf("it needs %v, %v", libraries, err)
	}
}

// evaluate returns what the Dockerfile runs for a platform when built on amd64.
func evaluate(t *testing.T, platform string) (runs []*pb.Meta) {
	t.Helper()
	target, builder := platforms.MustParse(platform), platforms.MustParse("linux/amd64")
	result, err := dockerfile2llb.Dockerfile2LLB(t.Context(), []byte(testbed.ReadFile(t, "Dockerfile")),
		dockerfile2llb.ConvertOpt{
			TargetPlatform: &target, MetaResolver: builderImage{},
			Config: dockerui.Config{BuildPlatforms: []ocispecs.Platform{builder}, TargetPlatforms: []ocispecs.Platform{target}},
		})
	if err != nil {
		t.Fatal(err)
	}
	definition, err := result.State.Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range definition.Def {
		var op pb.Op
		if err := op.UnmarshalVT(step); err != nil {
			t.Fatal(err)
		}
		if run := op.GetExec(); run != nil {
			runs = append(runs, run.Meta)
			if op.Platform.Architecture != "amd64" {
				t.Errorf("%v runs on %v, emulated", run.Meta.Args, op.Platform)
			}
		}
	}
	if result.Image.Architecture != target.Architecture || result.Image.OS != target.OS {
		t.Errorf("the image is for %s/%s", result.Image.OS, result.Image.Architecture)
	}
	return runs
}

// builderImage replaces the builder's image, of which only the platform matters.
type builderImage struct{}

func (builderImage) ResolveImageConfig(
	_ context.Context, ref string, _ sourceresolver.Opt,
) (string, digest.Digest, []byte, error) {
	return ref, "", []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["` +
		digest.FromString("").String() + `"]}}`), nil
}
