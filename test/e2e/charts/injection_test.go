package charts

import (
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/kubernetes/scheme"
)

// TestInjectionNeedsTheCluster: injection is rendered for what the cluster offers, or fails with a message if that is
// not enough.
func TestInjectionNeedsTheCluster(t *testing.T) {
	values := []string{required, "injection.enabled=true"}
	if _, err := Render("demo", sidecar, Rendering{Values: values}); err == nil || !strings.Contains(err.Error(),
		"no MutatingAdmissionPolicy") || !strings.Contains(err.Error(), "--api-versions "+offers("v1")[0]) {
		t.Error(err)
	}
	for _, version := range []string{"v1", "v1beta1"} {
		golden(t, "injection-"+version, sidecar, Rendering{Values: values, APIs: offers(version)})
	}
	plain := Rendering{Values: append(values, "mode=plain"), APIs: offers("v1")}
	if _, err := Render("demo", sidecar, plain); err == nil || !strings.Contains(err.Error(), "needs mode native") {
		t.Error(err)
	}
}

// offers returns the APIs of a cluster with MutatingAdmissionPolicy in that version.
func offers(version string) []string {
	return []string{"admissionregistration.k8s.io/" + version + "/MutatingAdmissionPolicy"}
}

func TestNativeSidecarsNeedANewerCluster(t *testing.T) {
	service := exampleService(t)
	if _, err := Render("demo", service, Rendering{Kubernetes: "1.28.0"}); err == nil || !strings.Contains(err.Error(),
		"set mode to plain") {
		t.Error(err)
	}
	if _, err := Render("demo", service,
		Rendering{Kubernetes: "1.28.0", Values: []string{"token-sidecar.mode=plain"}}); err != nil {
		t.Error(err)
	}
}

// TestPodLabels: configured labels replace the default ones, in the policy's binding and in the NetworkPolicy.
func TestPodLabels(t *testing.T) {
	out, err := Render("demo", sidecar, Rendering{
		Values: []string{required, "injection.enabled=true,injection.podLabels.team=a,networkPolicy.enabled=true"},
		APIs:   offers("v1"),
	})
	if err != nil || strings.Count(out, "matchLabels:\n        team: a\n") != 2 ||
		strings.Count(out, "matchLabels:\n      team: a\n") != 1 || strings.Contains(out, "token-sidecar/inject: ") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestNetworkPolicyOnlyRestricts: there is a rule for each configured peer and no other, whatever the ports.
func TestNetworkPolicyOnlyRestricts(t *testing.T) {
	for _, port := range []string{"1024", "8081", "65535"} {
		for values, want := range map[string]int{
			"mode=native": 0,
			"networkPolicy.from[0].podSelector.matchLabels.a=b":                                           1,
			"networkPolicy.ingress[0].ports[0].port=80":                                                   1,
			"networkPolicy.from[0].podSelector.matchLabels.a=b,networkPolicy.ingress[0].ports[0].port=80": 2,
		} {
			out, err := Render("demo", sidecar, Rendering{
				Values: []string{required, "networkPolicy.enabled=true", "ports.admin=" + port, values}, SkipTests: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			object, _, err := scheme.Codecs.UniversalDeserializer().Decode([]byte(out), nil, nil)
			policy, ok := object.(*networkingv1.NetworkPolicy)
			if err != nil || !ok {
				t.Fatalf("%v: %s", err, out)
			}
			if len(policy.Spec.Ingress) != want {
				t.Errorf("%s: %+v", values, policy.Spec.Ingress)
			}
			for _, rule := range policy.Spec.Ingress {
				if len(rule.From) == 0 && rule.Ports[0].Port.IntValue() != 80 || len(rule.Ports) != 1 ||
					rule.Ports[0].EndPort != nil {
					t.Errorf("%s opens %+v", values, rule)
				}
			}
		}
	}
}

// TestNotes: users are told which ports the chart uses.
func TestNotes(t *testing.T) {
	for values, want := range map[string]string{
		"":                                      "takes the ports 8080 and 8081 of the pod",
		"ports.token=9000":                      "takes the ports 9000 and 8081 of the pod",
		"socket=true":                           "takes the port 8081 of the pod",
		"networkPolicy.enabled=true":            "lets nothing reach the pods but the kubelet",
		"mode=native":                           `beside containers initContainers: {{- include "token-sidecar.container"`,
		"mode=plain":                            `its pod template containers: {{- include "token-sidecar.container"`,
		"injection.enabled=true":                "token-sidecar/client-id, token-sidecar/secret",
		"nameOverride=tokens":                   "exec POD -c tokens -- /token-sidecar check",
		"mode=plain,settings.SHUTDOWN_DELAY=1m": "needs terminationGracePeriodSeconds: 80",
	} {
		notes, err := Notes("demo", sidecar, Rendering{Values: []string{required, values}, APIs: offers("v1")})
		if err != nil || !strings.Contains(strings.Join(strings.Fields(notes), " "), want) {
			t.Errorf("%s: %v\n%s", values, err, notes)
		}
	}
}
