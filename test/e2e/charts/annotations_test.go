//go:build cluster

package charts

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// A podCase is a pod that opts in, and the expected result.
type podCase struct {
	annotations map[string]string
	change      func(*corev1.Pod)
	refused     string            // the message, if it is refused
	env         map[string]string // expected values in the sidecar's environment
	check       func(corev1.Pod) error
}

// service is a pod as a team would write it, admitted under Pod Security "restricted".
func service(namespace string, c podCase) corev1.Pod {
	yes, no := true, false
	secure := &corev1.SecurityContext{
		AllowPrivilegeEscalation: &no, RunAsNonRoot: &yes,
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	pod := corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: "service", Namespace: namespace, Annotations: map[string]string{},
			Labels: map[string]string{"token-sidecar/inject": "true"},
		},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: &no,
			Containers: []corev1.Container{
				{Name: "app", Image: "app", SecurityContext: secure}, {Name: "other", Image: "other", SecurityContext: secure},
			},
		},
	}
	for name, value := range c.annotations {
		pod.Annotations["token-sidecar/"+name] = value
	}
	if c.change != nil {
		c.change(&pod)
	}
	return pod
}

// offer creates a pod as a dry run, and returns the admitted pod, or why it was refused.
func (c *cluster) offer(pod corev1.Pod) (admitted corev1.Pod, refused string) {
	c.t.Helper()
	manifest, err := json.Marshal(pod)
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := c.try(string(manifest), "kubectl", "create", "--dry-run=server", "-o", "json", "-f", "-")
	if err != nil {
		return admitted, out
	}
	if err := json.Unmarshal([]byte(out), &admitted); err != nil {
		c.t.Fatal(err)
	}
	return admitted, ""
}

// with returns the annotations of a valid pod, plus others.
func with(more ...string) map[string]string {
	all := map[string]string{"client-id": "my-client", "secret": "humanapi"}
	for i := 0; i < len(more); i += 2 {
		all[more[i]] = more[i+1]
	}
	return all
}

// TestOneInstallForTheCluster: one release serves all namespaces with a label, and annotations configure each pod. Pods
// that cannot work are refused with a message.
func TestOneInstallForTheCluster(t *testing.T) {
	c := startCluster(t)
	for _, namespace := range []string{"tokens", "one", "two", "outside"} {
		c.must("", "kubectl", "create", "namespace", namespace)
		c.must("", "kubectl", "create", "serviceaccount", "default", "--namespace", namespace)
		c.must("", "kubectl", "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
	}
	c.must("", "kubectl", "label", "namespace", "one", "two", "tokens=on")
	release := c.release("tokens", "tokens")
	const values = "image.repository=token-sidecar,image.pullSecrets[0]=registry,injection.enabled=true," +
		"injection.namespaceSelector.matchLabels.tokens=on"
	release.install(sidecar, values, "callerToken.generate=true,resources.requests.cpu=0.5")
	c.until("pods are injected", func() bool {
		pod, _ := c.offer(service("one", podCase{annotations: with()}))
		_, refused := c.offer(service("one", podCase{}))
		return len(pod.Spec.InitContainers) == 1 && refused != ""
	})
	volume := func(name string) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
	}
	port := func(container, number int) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers[container].Ports = []corev1.ContainerPort{{ContainerPort: int32(number)}}
		}
	}
	cases := map[string]podCase{
		"client and secret": {annotations: with(), env: map[string]string{
			"HUMANAPI_CLIENT_ID": "my-client", "LISTEN_ADDR": "localhost:8080", "ADMIN_ADDR": ":8081",
			"HUMANAPI_PRODUCT": "connect",
		}, check: inOrder},
		"everything": {
			annotations: with("secret-key", "s", "product", "hip", "port", "9000", "admin-port", "9001", "app-container",
				"other"),
			env: map[string]string{"LISTEN_ADDR": "localhost:9000", "ADMIN_ADDR": ":9001", "HUMANAPI_PRODUCT": "hip"},
			check: func(p corev1.Pod) error {
				if key := p.Spec.Volumes[0].Projected.Sources[0].Secret.Items[0].Key; key != "s" ||
					p.Spec.InitContainers[0].Ports[0].ContainerPort != 9001 {
					return fmt.Errorf("key %s, port %d", key, p.Spec.InitContainers[0].Ports[0].ContainerPort)
				}
				if len(p.Spec.Containers[0].VolumeMounts) != 0 || len(p.Spec.Containers[1].VolumeMounts) != 1 {
					return fmt.Errorf("the wrong container has the caller token: %+v", p.Spec.Containers)
				}
				return nil
			},
		},
		"own volumes, init containers and pull secrets": {annotations: with(), change: func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{volume("mine")}
			p.Spec.InitContainers = []corev1.Container{*p.Spec.Containers[0].DeepCopy()}
			p.Spec.InitContainers[0].Name = "migrate"
			p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "mine"}}
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "mine", MountPath: "/mine"}}
		}, check: func(p corev1.Pod) error {
			if len(p.Spec.InitContainers) != 2 || p.Spec.InitContainers[1].Name != "migrate" || len(p.Spec.Volumes) != 3 ||
				len(p.Spec.ImagePullSecrets) != 2 ||
				len(p.Spec.Containers[0].VolumeMounts) != 2 {
				return fmt.Errorf("%+v", p.Spec)
			}
			return nil
		}},
		"ports of the app elsewhere": {annotations: with("port", "9000"), change: port(0, 8080), check: inOrder},
		"its own sidecar": {
			annotations: with(),
			change:      func(p *corev1.Pod) { p.Spec.Containers[1].Name = "token-sidecar" }, check: func(p corev1.Pod) error {
				if len(p.Spec.InitContainers) != 0 {
					return fmt.Errorf("%+v", p.Spec.InitContainers)
				}
				return nil
			},
		},
		"no annotations": {refused: "annotation token-sidecar/client-id is missing"},
		"no secret": {
			annotations: map[string]string{"client-id": "a"},
			refused:     "annotation token-sidecar/secret is missing or no name of a Secret",
		},
		"a wrong secret": {
			annotations: with("secret", "Human API"),
			refused:     "annotation token-sidecar/secret is missing or no name of a Secret",
		},
		"a wrong product": {
			annotations: with("product", "other"),
			refused:     "annotation token-sidecar/product is neither connect nor hip",
		},
		"no such container": {
			annotations: with("app-container", "none"),
			refused:     "annotation token-sidecar/app-container names no container",
		},
		"one port for both": {annotations: with("port", "8081"), refused: "are the same; choose two ports"},
		"the app's port": {
			annotations: with(), change: port(0, 8080),
			refused: "a container has a port that the sidecar takes before it starts",
		},
		"the app's admin port": {
			annotations: with("admin-port", "9000"), change: port(1, 9000),
			refused: "a container has a port that the sidecar takes before it starts",
		},
		"hostNetwork": {
			annotations: with(), change: func(p *corev1.Pod) { p.Spec.HostNetwork = true },
			refused: "the pod has hostNetwork, where everybody on the node could ask",
		},
		"a volume of that name": {
			annotations: with(),
			change:      func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{volume("token-sidecar")} },
			refused:     "the pod has a volume with a name of the sidecar's",
		},
		"a volume at that path": {annotations: with(), change: func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{volume("mine")}
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "mine", MountPath: "/run/token-sidecar"}}
		}, refused: "a container has a volume at /run/token-sidecar"},
	}
	for _, number := range []string{"", "80", "1023", "65536", "99999", "http", "8080x", "-1", "9000.5", "09000"} {
		cases["port "+number] = podCase{
			annotations: with("port", number),
			refused:     "annotation token-sidecar/port is no port from 1024 to 65535",
		}
		cases["admin port "+number] = podCase{
			annotations: with("admin-port", number),
			refused:     "annotation token-sidecar/admin-port is no port from 1024 to 65535",
		}
	}
	for _, number := range []string{"1024", "1099", "9999", "10000", "59999", "60000", "65535"} {
		cases["port "+number] = podCase{
			annotations: with("port", number),
			env:         map[string]string{"LISTEN_ADDR": "localhost:" + number}, check: inOrder,
		}
	}
	for name, pc := range cases {
		pod := service("one", pc)
		if pod.Spec.HostNetwork {
			c.must("", "kubectl", "label", "--overwrite", "namespace", "two", "pod-security.kubernetes.io/enforce=privileged")
			pod.Namespace = "two"
		}
		var admitted corev1.Pod
		var refused string
		c.until("the label of the namespace is in force", func() bool {
			admitted, refused = c.offer(pod)
			return !strings.Contains(refused, "PodSecurity")
		})
		switch {
		case pc.refused != "":
			if !strings.Contains(refused, "token-sidecar: "+pc.refused) && !strings.Contains(refused, pc.refused) {
				t.Errorf("%s: %s", name, refused)
			}
			continue
		case refused != "":
			t.Errorf("%s: %s", name, refused)
			continue
		case pc.check != nil:
			if err := pc.check(admitted); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for variable, want := range pc.env {
			if got := environOf(admitted)[variable]; got != want {
				t.Errorf("%s: %s is %q, not %q", name, variable, got, want)
			}
		}
	}
	if pod, refused := c.offer(service("outside", podCase{})); refused != "" || len(pod.Spec.InitContainers) != 0 {
		t.Errorf("a pod of a namespace without the label: %s %+v", refused, pod.Spec.InitContainers)
	}

	// Ignore is for clusters in which pods must start whatever happens.
	release.upgrade(sidecar, values, "injection.failurePolicy=Ignore,socket=true")
	if out := c.must("", "kubectl", "get", "mutatingadmissionpolicies,validatingadmissionpolicies", "-o",
		"jsonpath={.items[*].spec.failurePolicy}"); out != "Ignore Ignore" {
		t.Errorf("failurePolicy: %s", out)
	}
	c.until("the upgrade is in force", func() bool {
		pod, refused := c.offer(service("one", podCase{annotations: with(), change: port(0, 8080)}))
		return refused == "" && environOf(pod)["LISTEN_ADDR"] == "unix:///run/token-sidecar/token.sock"
	})
	release.uninstall()
}

// environOf returns the environment of the injected container.
func environOf(pod corev1.Pod) map[string]string {
	environ := map[string]string{}
	if len(pod.Spec.InitContainers) > 0 {
		for _, variable := range pod.Spec.InitContainers[0].Env {
			environ[variable.Name] = variable.Value
		}
	}
	return environ
}

// inOrder checks that the sidecar comes first, keeps running, has its secrets, shares its run folder with the app only,
// and requests the expected resources.
func inOrder(p corev1.Pod) error {
	first := p.Spec.InitContainers[0]
	half := first.Resources.Requests[corev1.ResourceCPU]
	switch {
	case first.Name != "token-sidecar" || first.RestartPolicy == nil ||
		*first.RestartPolicy != corev1.ContainerRestartPolicyAlways:
		return fmt.Errorf("%+v", first)
	case p.Spec.Volumes[0].Projected == nil || p.Spec.Volumes[0].Projected.Sources[0].Secret.Name != "humanapi" ||
		len(p.Spec.Volumes) != 2:
		return fmt.Errorf("volumes %+v", p.Spec.Volumes)
	case !slices.Equal(mounts(first), []string{"token-sidecar", "token-sidecar-run"}) ||
		!slices.Equal(mounts(p.Spec.Containers[0]), []string{"token-sidecar-run"}) ||
		len(p.Spec.Containers[1].VolumeMounts) != 0:
		return fmt.Errorf("mounts %v, %+v", mounts(first), p.Spec.Containers)
	case half.String() != "500m":
		return fmt.Errorf("cpu %s", half.String())
	case len(p.Spec.ImagePullSecrets) != 1 || p.Spec.ImagePullSecrets[0].Name != "registry":
		return fmt.Errorf("pull secrets %v", p.Spec.ImagePullSecrets)
	case first.ReadinessProbe.HTTPGet.Port != intstr.FromString(first.Ports[0].Name):
		return fmt.Errorf("probed at %v", first.ReadinessProbe.HTTPGet.Port)
	case environOf(p)["CALLER_TOKEN_GENERATE"] != "true":
		return fmt.Errorf("%v", slices.Sorted(maps.Keys(environOf(p))))
	}
	return nil
}

func mounts(container corev1.Container) (names []string) {
	for _, mount := range container.VolumeMounts {
		names = append(names, mount.Name)
	}
	return names
}
