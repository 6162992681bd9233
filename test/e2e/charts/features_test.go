package charts

import (
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestFeatures renders every pair of features together. The program accepts the rendered settings, and finds each file.
func TestFeatures(t *testing.T) {
	t.Parallel()
	p := newProgram(t)
	features := []string{
		"humanapi.existingSecret=,humanapi.clientSecret=x", "humanapi.existingSecret=,humanapi.csi.driver=d",
		"humanapi.ca.secret=ca", "humanapi.ca.configMap=ca",
		"humanapi.authUrl=https://a.example,humanapi.product=hip", "redis.url=redis://r", "redis.url=rediss://r",
		"redis.existingSecret=r", "redis.ca.secret=ca", "redis.ca.configMap=ca",
		"redis.mode=cluster", "redis.mode=sentinel", "redis.url=redis://r?master_name=m", "callerToken.generate=true",
		"callerToken.existingSecret=c",
		"encryptionKeys.existingSecret=e", "audit.log=stdout,audit.existingSecret=a", "settings.KEEP_REFRESH_TOKENS=true",
		"settings.KEEP_REFRESH_TOKENS=false", "socket=true", "mode=plain", "ports.token=9000", "ports.admin=8080",
		"settings.UPSTREAM_TIMEOUT=200s", "settings.UPSTREAM_MAX_ATTEMPTS=10", "settings.SHUTDOWN_DELAY=1m",
		"nameOverride=tokens", "fullnameOverride=tokens",
		"global.imageRegistry=r.example", "image.pullSecrets[0]=a", "commonLabels.team=a",
		"extraEnv[0].name=HTTPS_PROXY,extraEnv[0].value=http://proxy:3128",
		"probes.startup=null,probes.liveness=null,probes.readiness=null", "resources=null", "securityContext.runAsUser=1000",
	}
	rendered := 0
	for i, one := range features {
		for _, other := range features[i:] {
			pod, environ, err := sidecarOf(t, nil, one, other)
			if err != nil {
				if !strings.Contains(err.Error(), "the values have mistakes:\n  ") {
					t.Errorf("%s,%s: %v", one, other, err)
				}
				continue
			}
			rendered++
			if found := p.mistakes(environ); len(found) != 0 {
				t.Errorf("%s,%s: %v", one, other, found)
			}
			checkFiles(t, pod, environ, one+","+other)
		}
	}
	if rendered < len(features)*len(features)/3 {
		t.Errorf("only %d of them were rendered", rendered)
	}
}

// checkFiles checks that each file in the environment is in a volume that the container mounts.
func checkFiles(t *testing.T, pod *corev1.Pod, environ []string, name string) {
	t.Helper()
	files := map[string]bool{}
	for _, mount := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)[0].VolumeMounts {
		i := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name })
		if i < 0 {
			t.Errorf("%s: no volume %s", name, mount.Name)
			continue
		}
		volume := pod.Spec.Volumes[i]
		switch {
		case volume.CSI != nil:
			files[mount.MountPath+"/client-secret"] = true
		case volume.EmptyDir != nil:
			files[mount.MountPath+"/caller-token"] = true
		case volume.Projected != nil:
			for _, source := range volume.Projected.Sources {
				var items []corev1.KeyToPath
				if source.Secret != nil {
					items = source.Secret.Items
				} else {
					items = source.ConfigMap.Items
				}
				for _, item := range items {
					files[mount.MountPath+"/"+item.Path] = true
				}
			}
		}
	}
	for _, pair := range environ {
		if setting, file, _ := strings.Cut(pair, "="); strings.HasSuffix(setting, "_FILE") && !files[file] {
			t.Errorf("%s: %s is not mounted; there are %v", name, pair, slices.Sorted(maps.Keys(files)))
		}
	}
}

// TestPodIsNamed: the status page names its pod, in either mode, unless the user sets other names.
func TestPodIsNamed(t *testing.T) {
	t.Parallel()
	name, namespace := "POD_NAME=metadata.name", "POD_NAMESPACE=metadata.namespace"
	for values, want := range map[string][]string{
		"mode=native": {name, namespace},
		"mode=plain":  {name, namespace},
		"extraEnv[0].name=POD_NAME,extraEnv[0].value=web":                           {"POD_NAME=web", namespace},
		"extraEnv[0].name=POD_NAMESPACE,extraEnv[0].valueFrom.fieldRef.fieldPath=f": {name, "POD_NAMESPACE=f"},
	} {
		pod, _, err := sidecarOf(t, nil, values)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, variable := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)[0].Env {
			if !strings.HasPrefix(variable.Name, "POD_") {
				continue
			}
			value := variable.Value
			if from := variable.ValueFrom; from != nil {
				value = from.FieldRef.FieldPath
			}
			got = append(got, variable.Name+"="+value)
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", values, got, want)
		}
	}
}

// TestAuditLog: with its values the program has its log and its key, in either mode, and finds no mistakes in them.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	p := newProgram(t)
	folder := t.TempDir()
	for _, mode := range []string{"native", "plain"} {
		for log, more := range map[string]string{
			"stdout": "audit.existingSecretKey=k",
			folder + "/audit.log": "extraVolumes[0].name=log,extraVolumes[0].emptyDir.sizeLimit=1Gi," +
				"extraVolumeMounts[0].name=log,extraVolumeMounts[0].mountPath=" + folder,
		} {
			pod, environ, err := sidecarOf(t, nil, "mode="+mode, "audit.log="+log+",audit.existingSecret=a", more)
			if err != nil {
				t.Fatal(err)
			}
			if found := p.mistakes(environ); len(found) != 0 {
				t.Errorf("%s, %s: %v", mode, log, found)
			}
			for _, want := range []string{"AUDIT_LOG=" + log, "AUDIT_KEY_FILE=/etc/token-sidecar/audit-key"} {
				if !slices.Contains(environ, want) {
					t.Errorf("%s, %s: no %s in %v", mode, log, want, environ)
				}
			}
			checkFiles(t, pod, environ, mode+", "+log)
		}
	}
}
