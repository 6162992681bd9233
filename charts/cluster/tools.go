//go:build tools

// Package cluster names the programs of Kubernetes that make test-cluster builds: a module of its own, so that
// none of it gets into the sidecar's.
package cluster

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kubectl"
)
