package charts

import (
	"strings"
	"testing"
)

// TestInjectionNeedsTheCluster: it is rendered for what the cluster offers, and says so where that is not enough.
func TestInjectionNeedsTheCluster(t *testing.T) {
	values := []string{required, "injection.enabled=true"}
	if _, err := Render("demo", sidecar, Rendering{Values: values}); err == nil || !strings.Contains(err.Error(),
		"no MutatingAdmissionPolicy") {
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

// offers is what a cluster with MutatingAdmissionPolicy in that version adds to the usual APIs.
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
