# Targets explain themselves: make help.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X token-sidecar/internal/app.version=$(VERSION) -X token-sidecar/internal/app.commit=$(COMMIT)
# gRPC, which the OTLP exporter links, has a trace page that nobody serves and that makes the program 10 MB larger.
TAGS    := grpcnotrace

# Tools of development, at the versions everybody uses.
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
CYCLONEDX     := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.9.0
HELM          := helm.sh/helm/v3/cmd/helm@v3.22.0
HELM_DOCS     := github.com/norwoodj/helm-docs/cmd/helm-docs@v1.14.2
VALIDATE      := sigs.k8s.io/kubectl-validate@v0.0.4
GOVULNCHECK   := golang.org/x/vuln/cmd/govulncheck@v1.9.0
KUBERNETES    := $(shell go env GOPATH)/token-sidecar-tools/v1.36.3
TOOLS         := $(shell go env GOPATH)/token-sidecar-tools

CHART_TOOLS   := $(addprefix $(TOOLS)/,helm helm-docs kubectl-validate)

PLATFORM ?= linux/amd64

# What the tests run besides Go, as Debian packages: name of the program, name of the package.
NEEDED := redis-server:redis-server curl:curl chromium:chromium promtool:prometheus buildah:buildah busybox:busybox-static nginx:nginx-light ip:iproute2

.PHONY: help
help: ## Tell what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build ## Run the sidecar with an emulated auth service; no settings needed
	@exec bin/token-sidecar serve --sandbox

.PHONY: build
build: ## Build bin/token-sidecar
	@CGO_ENABLED=0 go build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/token-sidecar .

.PHONY: test
test: needed $(CHART_TOOLS) ## Install what the tests need, and run all of them with the race detector
	PATH="$(TOOLS):$$PATH" go test -race -timeout 10m ./...

.PHONY: needed
needed:
	@missing=(); \
	for pair in $(NEEDED); do command -v "$${pair%%:*}" >/dev/null || missing+=("$${pair##*:}"); done; \
	if (( $${#missing[@]} )); then \
	  echo "installing $${missing[*]}"; \
	  if ! command -v apt-get >/dev/null; then echo "make test needs: $${missing[*]}; install them with your package manager"; exit 1; fi; \
	  sudo=; [[ $$(id -u) == 0 ]] || sudo=sudo; \
	  $$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -qq -y --no-install-recommends "$${missing[@]}" >/dev/null; \
	fi

.PHONY: lint
lint: $(TOOLS)/golangci-lint $(TOOLS)/govulncheck ## Format check, linters, known vulnerabilities
	@test -z "$$(git ls-files '*.go' | xargs gofmt -l)"
	go mod tidy -diff
	go vet ./... && go vet -tags cluster ./charts
	$(TOOLS)/golangci-lint run
	.ci/vulnerabilities $(TOOLS)/govulncheck

.PHONY: image
image: ## Build the image for this machine, and for arm64 with PLATFORM=linux/arm64
	docker build --platform $(PLATFORM) --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) -t token-sidecar:$(VERSION) .

.PHONY: sbom
sbom: $(TOOLS)/cyclonedx-gomod ## Write bin/sbom.json, what the program is made of (CycloneDX)
	@mkdir -p bin && $(TOOLS)/cyclonedx-gomod app -json -licenses -output bin/sbom.json . && echo bin/sbom.json

.PHONY: test-cluster
test-cluster: $(TOOLS)/helm $(KUBERNETES)/kube-apiserver ## Install the charts on a real API server and look at the pods it admits
	@$(MAKE) --no-print-directory needed NEEDED="etcd:etcd-server openssl:openssl"
	PATH="$(KUBERNETES):$(TOOLS):$$PATH" go test -tags cluster -count 1 -run 'TestInjection$$|TestServiceIsAdmitted' ./charts

# From sources by the Go module proxy, a few minutes the first time.
$(KUBERNETES)/kube-apiserver: charts/cluster/go.mod
	@mkdir -p $(KUBERNETES)
	cd charts/cluster && CGO_ENABLED=0 go build -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=$(notdir $(KUBERNETES))' \
	  -o $(KUBERNETES)/ k8s.io/kubernetes/cmd/kubectl k8s.io/kubernetes/cmd/kube-apiserver
	@touch $@

.PHONY: manifest
manifest: $(TOOLS)/helm ## Write bin/manifest, plain manifests of a service with the sidecar, for kubectl kustomize
	@rm -rf bin/manifest bin/charts && mkdir -p bin/manifest bin/charts && cp -r charts/token-sidecar charts/example-service bin/charts/
	@$(TOOLS)/helm dependency build bin/charts/example-service >/dev/null
	@$(TOOLS)/helm template example bin/charts/example-service --skip-tests --kube-version 1.36.0 > bin/manifest/service.yaml
	@printf 'apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [service.yaml]\n' > bin/manifest/kustomization.yaml
	@echo bin/manifest

.PHONY: chart-readme
chart-readme: $(TOOLS)/helm-docs ## Write the chart's README anew, from its values
	$(TOOLS)/helm-docs --chart-search-root charts/token-sidecar

.PHONY: golden
golden: $(TOOLS)/helm ## Write anew what the charts are expected to render to; look at the difference
	PATH="$(TOOLS):$$PATH" go test ./charts -args -update

.PHONY: reliability
reliability: needed ## Run the fleet and the outage ladder, write the counts into docs/reliability.md
	go test -race -count 1 -run 'TestFleet|TestOutageLadder|TestFailover' ./test -args -record docs/reliability.md
	go test -count 1 -run TestTenMinutesOfOutage ./upstream -args -record $(CURDIR)/docs/reliability.md

.PHONY: bench
bench: needed ## Measure the sidecar beside nginx and bare net/http, write docs/performance.md; half an hour
	go test -count 1 -timeout 0 -v -skip TestDay ./bench -args -rounds 41 -length 250ms -scale 1 -record $(CURDIR)/docs/performance.md
	GOGC=200 go test -count 1 -timeout 0 -v -run TestDay ./bench -args -scale 1 -record $(CURDIR)/docs/performance.md

# Without the race detector, whose own memory grows with the requests; make test runs a short soak with it.
SOAK ?= 10m
.PHONY: soak
soak: needed ## Random faults for ten minutes (SOAK=1h for longer); nothing may grow
	go test -count 1 -timeout 0 -v -run TestSoak ./test -args -soak $(SOAK)

FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: ## Fuzz each parser for 30 seconds (FUZZTIME=10m for longer)
	@go list -f '{{$$p := .ImportPath}}{{range .TestGoFiles}}{{$$p}} {{end}}' ./... | xargs -n1 | sort -u | while read -r package; do \
	  go test -list '^Fuzz' "$$package" | grep '^Fuzz' | while read -r target; do \
	    echo "$$package $$target"; go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x "$$package"; \
	  done; \
	done

$(TOOLS)/golangci-lint:
	GOBIN=$(TOOLS) go install $(GOLANGCI_LINT)
$(TOOLS)/cyclonedx-gomod:
	GOBIN=$(TOOLS) go install $(CYCLONEDX)
$(TOOLS)/helm:
	GOBIN=$(TOOLS) go install $(HELM)
$(TOOLS)/helm-docs:
	GOBIN=$(TOOLS) go install $(HELM_DOCS)
$(TOOLS)/kubectl-validate:
	GOBIN=$(TOOLS) go install $(VALIDATE)
$(TOOLS)/govulncheck:
	GOBIN=$(TOOLS) go install $(GOVULNCHECK)
