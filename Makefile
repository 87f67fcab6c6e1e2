# The targets a user needs: run, test. See README.md.

GO      ?= go
BINARY  := bpf_tools_exporter
ARGS    ?=

VERSION  := $(shell cat VERSION)
REVISION := $(shell git rev-parse HEAD 2>/dev/null)
BRANCH   := $(shell git rev-parse --abbrev-ref HEAD 2>/dev/null)
DATE     := $(shell date -u +%Y-%m-%dT%H:%M:%SZ)
PKG      := github.com/prometheus/common/version
LDFLAGS  := -s -w -X $(PKG).Version=$(VERSION) -X $(PKG).Revision=$(REVISION) -X $(PKG).Branch=$(BRANCH) -X $(PKG).BuildDate=$(DATE)

# Debian's packages: the tools, and what only the tests need.
TOOLS_PACKAGES := bpftrace libbpf-tools bpfcc-tools
TEST_PACKAGES  := prometheus nftables iproute2 e2fsprogs xfsprogs chromium curl qemu-system-x86 mmdebstrap

.PHONY: all build run deps deps-tools deps-test test lint schema pictures race fuzz bench package release check-manifests test-kernels clean

all: build

# One static binary.
BINARY_PATH ?= $(BINARY)
build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BINARY_PATH) ./cmd/$(BINARY)

# Installs the tools if missing, builds, and starts the exporter, as root.
# Flags go into ARGS: make run ARGS=--log.level=debug
run: deps-tools build
	./$(BINARY) $(ARGS)

deps: deps-tools deps-test

deps-tools:
	@packaging/install-packages.sh $(TOOLS_PACKAGES)

deps-test:
	@packaging/install-packages.sh $(TEST_PACKAGES)
	@command -v npm >/dev/null || packaging/install-packages.sh npm

# The test command. As root on Linux it runs everything against the live
# kernel, one package at a time; elsewhere the tests that cannot run say why.
test: lint
	$(GO) test -p 1 -timeout 40m ./...

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run gofmt -w on these"; exit 1; }
	$(GO) vet ./...
	@bad="$$($(GO) list -f '{{.ImportPath}} {{.Imports}}' ./... | grep -w os/exec | grep -v /tools/process)"; \
		test -z "$$bad" || { echo "only tools/process may import os/exec:"; echo "$$bad"; exit 1; }

# Checks the dashboards against Grafana's own types; needs npm.
schema:
	cd dashboards/schema && npm install --no-package-lock --no-audit --no-fund --silent && npm run --silent check

# Draws the dashboards with real data into docs/pictures, as root; needs
# chromium.
pictures: deps
	DASHBOARD_PICTURES=$(CURDIR)/docs/pictures $(GO) test -count 1 -run TestLiveDashboards ./cmd/$(BINARY)

race:
	$(GO) test -race -timeout 30m ./...

# Each fuzz target for a while.
FUZZTIME ?= 30s
fuzz:
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep ^Fuzz); do \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

# What the exporter costs, beside the bare tools: as root, and with nothing
# else going on. The table comes last, after about five minutes.
bench: build
	$(GO) test -run '^$$' -bench . -benchmem ./collector ./tools/...
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 20m ./cmd/$(BINARY)

# The deb and the rpm for this architecture, in dist/.
package: build
	packaging/package.sh $(shell $(GO) env GOARCH)

# deb, rpm, tar archive and SBOM for all architectures, with checksums.
release: build
	RELEASE=1 packaging/package.sh amd64 arm64

# Renders the Kubernetes manifests and checks them against the API's types.
check-manifests:
	cd packaging/kubernetes/check && $(GO) vet ./... && $(GO) test ./...

# Tries the deb on other kernels, in virtual machines, and writes docs/kernels.md:
# most of an hour for each. Needs root, mmdebstrap and QEMU. The images stay in CACHE.
# STEPS of packaging/kernels/guest_test.go can be taken alone, also for some of
# the tools: STEPS=install,bcc TOOLS=execsnoop,profile
KERNELS ?= bullseye,bookworm,trixie,sid
STEPS   ?= all
TOOLS   ?= all
CACHE   ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bpf_tools_exporter/kernels
ACCEL   ?= tcg,thread=multi,tb-size=1024
test-kernels: package
	CGO_ENABLED=0 $(GO) test -count=1 -timeout 0 -v -run '^TestKernels$$' ./packaging/kernels -args -kernels=$(KERNELS) -steps=$(STEPS) -tools=$(TOOLS) \
		-accel=$(ACCEL) -cache=$(CACHE) -deb=$(CURDIR)/dist/bpf-tools-exporter_$(VERSION)_amd64.deb

clean:
	rm -rf $(BINARY) dist
