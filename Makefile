# Targets explain themselves: make help.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X token-sidecar/internal/app.version=$(VERSION) -X token-sidecar/internal/app.commit=$(COMMIT)
# gRPC, which the OTLP exporter links, has a trace page that nobody serves and that makes the program 10 MB larger.
TAGS    := grpcnotrace

# The modules: the program's, and those of what only its tests and benchmarks need. (test/cluster and test/validate are built, not tested.)
MODULES := . bench test/e2e

# Development tools, at pinned versions.
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
ACTIONLINT    := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
CYCLONEDX     := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.9.0
GOVULNCHECK   := golang.org/x/vuln/cmd/govulncheck@v1.9.0
TOOLS         := $(shell go env GOPATH)/token-sidecar-tools
KUBERNETES    := $(TOOLS)/v1.36.3

PLATFORM ?= linux/amd64

# A package's limit: by default it is 10 minutes, which a slow machine may need.
PATIENCE := -timeout 40m

# What tests need besides Go: a program or file, and the Debian package that has it.
NEEDED         := redis-server:redis-server curl:curl
NEEDED_BENCH   := nginx:nginx-light haproxy:haproxy cc:build-essential
NEEDED_E2E     := chromium:chromium promtool:prometheus buildah:buildah busybox:busybox-static ip:iproute2 newuidmap:uidmap
NEEDED_CLIENTS := node:nodejs javac:default-jdk-headless /usr/lib/python3/dist-packages/requests:python3-requests ip:iproute2
NEEDED_CLUSTER := etcd:etcd-server openssl:openssl

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build ## Run the sidecar with an emulated auth service; no settings needed
	@exec bin/token-sidecar serve --sandbox

.PHONY: build
build: ## Build bin/token-sidecar
	@CGO_ENABLED=0 go build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/token-sidecar .

# The tests of modules other than the program's read files outside of them, which the cache of go test does not notice.
.PHONY: test
test: export SKIP_NO_TESTS = 1
test: ## Run all tests, after installing what they need; 15 minutes, 35 the first time
	@echo "make test runs these, with the race detector where the sidecar's own code runs:"
	@echo "  1/3  the program's tests, unit tests and those from outside     5 minutes"
	@echo "  2/3  the benchmarks, only to see that they work                 2 minutes"
	@echo "  3/3  page, image, clients, dashboard and charts                 6 minutes; the first time 20, to build Helm's library and kubectl-validate"
	@echo "Each first installs the Debian packages that it needs, with apt-get (and sudo, unless you are root)."
	@echo "Each package prints a line when its tests have passed; the first take a minute or two to build."
	@echo; echo "1/3 the program"
	@$(MAKE) --no-print-directory needed
	go test -race $(PATIENCE) ./...
	@echo; echo "2/3 the benchmarks, briefly"
	@$(MAKE) --no-print-directory needed NEEDED="$(NEEDED) $(NEEDED_BENCH)"
	cd bench && go test -race $(PATIENCE) -count 1 .
	@echo; echo "3/3 page, image, clients, dashboard and charts"
	@$(MAKE) --no-print-directory needed NEEDED="$(NEEDED) $(NEEDED_E2E) $(NEEDED_CLIENTS)"
	cd test/e2e && go test -race $(PATIENCE) -count 1 .
	cd test/e2e && go test -race $(PATIENCE) -count 1 ./clients
	@$(MAKE) --no-print-directory $(TOOLS)/kubectl-validate
	cd test/e2e && PATH="$(TOOLS):$$PATH" go test $(PATIENCE) -count 1 ./charts

.PHONY: needed
needed:
	@missing=(); \
	for pair in $(NEEDED); do [[ -e "$${pair%%:*}" ]] || command -v "$${pair%%:*}" >/dev/null || missing+=("$${pair##*:}"); done; \
	if (( $${#missing[@]} )); then \
	  echo "installing $${missing[*]}"; \
	  if ! command -v apt-get >/dev/null; then echo "there is no apt-get; install with your package manager: $${missing[*]}"; exit 1; fi; \
	  sudo=; [[ $$(id -u) == 0 ]] || sudo=sudo; \
	  $$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -qq -y --no-install-recommends "$${missing[@]}" >/dev/null; \
	fi

.PHONY: lint
lint: $(TOOLS)/golangci-lint $(TOOLS)/govulncheck $(TOOLS)/actionlint ## Format check, linters, known vulnerabilities
	@test -z "$$(git ls-files '*.go' | xargs gofmt -l)"
	@for module in $(MODULES); do echo "lint $$module"; ( cd $$module && go mod tidy -diff && go vet -tags cluster ./... && $(TOOLS)/golangci-lint run --build-tags cluster ); done
	$(TOOLS)/actionlint
	.ci/vulnerabilities $(TOOLS)/govulncheck

.PHONY: tidy
tidy: ## Update go.mod and go.sum of all modules, after a change in one
	@for module in $(MODULES); do ( cd $$module && go mod tidy ); done

.PHONY: image
image: ## Build the image for amd64 (PLATFORM=linux/arm64 for arm64)
	docker build --platform $(PLATFORM) --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) -t token-sidecar:$(VERSION) .

# Where image-push and chart-push push to, as in REGISTRY=registry.example/team; docker login, or helm registry login, comes before.
REGISTRY  ?=
IMAGE     ?= $(REGISTRY)/token-sidecar
CHARTS    ?= oci://$(REGISTRY)/charts
PLATFORMS ?= linux/amd64,linux/arm64
HOME_PAGE ?= $(shell git remote get-url origin 2>/dev/null | sed -E 's|^git@([^:]+):|https://\1/|; s|^ssh://git@|https://|; s|\.git$$||' | grep '^https://')
# VERSION as charts and tags can have it: 1.2.3, 1.2.3-4-gabc, or 0.0.0-gabc before there is a tag.
RELEASE    = $(shell v=$$(sed 's/^v//' <<<'$(VERSION)'); [[ $$v =~ ^[0-9]+\.[0-9]+\.[0-9]+ ]] || v=0.0.0-g$$v; echo $$v)

.PHONY: image-push
image-push: registry ## Build the image for amd64 and arm64 and push it: make image-push REGISTRY=registry.example/team
	docker buildx build --platform $(PLATFORMS) --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) --push -t $(IMAGE):$(RELEASE) .

.PHONY: chart-push
chart-push: registry ## Push the chart, set to use that image: make chart-push REGISTRY=registry.example/team
	@mkdir -p bin && cd test/e2e && go run ./release -image $(IMAGE) -version $(RELEASE) -home '$(HOME_PAGE)' -push $(CHARTS) $(CHART_PUSH_FLAGS) ../../charts/token-sidecar ../../bin

.PHONY: registry
registry:
	@[[ -n '$(REGISTRY)' ]] || { echo "name the registry: make $(MAKECMDGOALS) REGISTRY=registry.example/team"; exit 1; }

.PHONY: release-version
release-version:
	@echo $(RELEASE)

.PHONY: sbom
sbom: $(TOOLS)/cyclonedx-gomod ## Write bin/sbom.json, the program's bill of materials (CycloneDX)
	@mkdir -p bin && $(TOOLS)/cyclonedx-gomod app -json -licenses -output bin/sbom.json . && echo bin/sbom.json

.PHONY: test-cluster
test-cluster: $(KUBERNETES)/kube-apiserver $(KUBERNETES)/helm ## Install the charts and run the docs' commands on a real API server; 15 minutes the first time
	@$(MAKE) --no-print-directory needed NEEDED="$(NEEDED_CLUSTER)"
	cd test/e2e && PATH="$(KUBERNETES):$$PATH" go test -tags cluster $(PATIENCE) -count 1 ./charts

# From sources by the Go module proxy.
$(KUBERNETES)/kube-apiserver: test/cluster/go.mod
	@mkdir -p $(KUBERNETES)
	@echo "building kubectl and kube-apiserver $(notdir $(KUBERNETES))"
	cd test/cluster && CGO_ENABLED=0 go build -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=$(notdir $(KUBERNETES))' -o $(KUBERNETES)/ tool
	@touch $@

$(TOOLS)/kubectl-validate: test/validate/go.mod
	@mkdir -p $(TOOLS)
	@echo "building kubectl-validate"
	cd test/validate && CGO_ENABLED=0 go build -ldflags '-s -w' -o $(TOOLS)/ tool
	@touch $@

$(KUBERNETES)/helm: test/e2e/go.mod
	@echo "building helm"
	cd test/e2e && CGO_ENABLED=0 go build -ldflags '-s -w' -o $@ helm.sh/helm/v4/cmd/helm
	@touch $@

.PHONY: manifest
manifest: ## Write plain manifests of a service with the sidecar to bin/manifest, for kubectl kustomize
	@cd test/e2e && go run ./manifest ../../charts ../../bin/manifest && echo bin/manifest

.PHONY: golden
golden: ## Rewrite the charts' expected output and the chart's README; review the diff
	cd test/e2e && go test -count 1 -run 'TestRendered|TestInjectionNeeds|TestSchema|TestSettingsFile|TestReadme' ./charts -args -update

.PHONY: reliability
reliability: needed ## Run the reliability tests, write the counts to docs/reliability.md
	go test -race -count 1 -run 'TestFleet|TestOutageLadder|TestFailover|TestEveryStepFailsOnce|TestAProcessStops' ./test -args -record docs/reliability.md
	go test -count 1 -run TestTenMinutesOfOutage ./upstream -args -record $(CURDIR)/docs/reliability.md

.PHONY: bench
bench: ## Measure the sidecar and its peers, write the results to docs/performance.md; an hour
	@$(MAKE) --no-print-directory needed NEEDED="$(NEEDED) $(NEEDED_BENCH)"
	cd bench && go test -count 1 -timeout 0 -v -skip TestDay . -args -rounds 41 -length 250ms -scale 1 -record $(CURDIR)/docs/performance.md
	cd bench && GOGC=200 go test -count 1 -timeout 0 -v -run TestDay . -args -scale 1 -record $(CURDIR)/docs/performance.md

# Each figure is a ratio within one run, so that a slower machine does not look like a slower sidecar.
.PHONY: bench-quick
bench-quick: ## Compare with docs/performance.md, fail where a ratio is a fifth worse; 3 minutes
	@$(MAKE) --no-print-directory needed NEEDED="$(NEEDED) $(NEEDED_BENCH)"
	cd bench && go test -count 1 -timeout 15m -v -run 'TestHits|TestRedisHits|TestAllocations|TestMemory$$' . -args \
	  -rounds 7 -length 200ms -scale 1 -compare $(CURDIR)/docs/performance.md

# Without the race detector, whose own memory grows with the requests; make test runs a short soak with it.
SOAK ?= 10m
.PHONY: soak
soak: needed ## Inject random faults for ten minutes (SOAK=1h for longer), fail if anything grows
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
$(TOOLS)/actionlint:
	GOBIN=$(TOOLS) go install $(ACTIONLINT)
$(TOOLS)/cyclonedx-gomod:
	GOBIN=$(TOOLS) go install $(CYCLONEDX)
$(TOOLS)/govulncheck:
	GOBIN=$(TOOLS) go install $(GOVULNCHECK)
