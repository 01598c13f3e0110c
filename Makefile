# Everything that a developer or CI runs. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

GO       ?= go
GOARCH   := $(shell $(GO) env GOARCH)
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w
STATIC   := CGO_ENABLED=0 GOOS=linux $(GO) build -trimpath
BUNDLE   := internal/bundle/files
TOOL     := $(GO) tool -modfile=tools.mod

# What the programs within are made of: `go list -deps`.
GUEST_SRC  := $(shell find cmd/stacyvm-guest internal/budget internal/guest internal/stacyvm proto/guest -name '*.go' ! -name '*_test.go') go.mod go.sum
SENTRY_SRC := $(shell find cmd/stacyvm-sentry internal/engine/gvisor/wire internal/flock internal/retry internal/stacyvm -name '*.go' ! -name '*_test.go') go.mod go.sum
PACK_SRC   := $(wildcard scripts/bundle/*.go)

.PHONY: help build run serve check test test-setup contention cluster conformance conformance-selftest lint generate bench bench-smoke dist vm-test clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-21s %s\n", $$1, $$2}'

build: $(BUNDLE)/stacyvm-guest.zst $(BUNDLE)/stacyvm-sentry.zst ## make bin/stacyvm, the one file that a user copies
	$(STATIC) -ldflags '$(LDFLAGS) -X github.com/stacyvm/stacyvm/internal/cli.Version=$(VERSION)' -o bin/stacyvm ./cmd/stacyvm

$(BUNDLE)/stacyvm-guest.zst: $(GUEST_SRC) $(PACK_SRC)
	$(STATIC) -ldflags '$(LDFLAGS)' -o bin/parts/stacyvm-guest ./cmd/stacyvm-guest
	$(GO) run ./scripts/bundle -in bin/parts/stacyvm-guest -out $@

# gVisor and nothing else, so that the rest of the product compiles in seconds. The first build takes minutes.
$(BUNDLE)/stacyvm-sentry.zst: $(SENTRY_SRC) $(PACK_SRC)
	$(STATIC) -ldflags '$(LDFLAGS)' -o bin/parts/stacyvm-sentry ./cmd/stacyvm-sentry
	$(GO) run ./scripts/bundle -in bin/parts/stacyvm-sentry -out $@ -strip-blob

run: build ## build, then run a real program in a real sandbox and print its result
	@scripts/demo.sh bin/stacyvm

serve: build ## build, then serve the API on http://127.0.0.1:7423
	bin/stacyvm serve

check: ## the quick loop: format, vet, lint and the tests that need neither gVisor nor root
	@scripts/check.sh

test: test-setup build ## install what the tests need, then run everything
	@scripts/test.sh

test-setup:
	@scripts/test-setup.sh

contention: test-setup ## the store's races, kills, restarts and promotions, as often as a night allows
	@scripts/contention.sh

cluster: test-setup build ## a whole cluster under kills, a restart of its database and a pulled cable; minutes
	@scripts/cluster.sh

conformance: build ## what a cluster is promised, gate by gate; see docs/cluster-conformance.md
	@STACYVM_BIN=$(CURDIR)/bin/stacyvm scripts/ci-cluster-conformance.sh

conformance-selftest: ## plant faults for each gate of `make conformance` and expect that gate to fail for the right reason
	@scripts/conformance-selftest.sh

lint: ## golangci-lint with the size and import rules (the first run builds it: minutes)
	$(TOOL) golangci-lint run ./...

generate: ## write the generated files anew; must leave no diff
	cd proto && $(GO) tool -modfile=../tools.mod buf lint && $(GO) tool -modfile=../tools.mod buf generate
	$(GO) generate ./internal/... ./client/...

bench: build ## time the product on this machine, in turns with its neighbours; ARGS="-before BINARY", "-profile DIR", "-plane"
	@scripts/bench.sh $(ARGS)

bench-smoke: build ## the ratios in a minute: before and after a change of a hot path; ARGS="-before BINARY"
	@scripts/bench.sh -smoke $(ARGS)

dist: build ## a Debian package, a tarball, checksums and bills of material in dist/
	@VERSION=$(VERSION) GOARCH=$(GOARCH) scripts/dist.sh dist

vm-test: ## try the package in a virtual machine with systemd and cgroup v2; half an hour and more, result in docs/vm-test.md
	@scripts/vm-test.sh

clean: ## remove what the build made
	rm -rf bin dist $(BUNDLE)/*.zst
