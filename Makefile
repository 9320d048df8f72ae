# Every target that a person needs; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PROGRAMS := strake straked strake-runtime containerd-shim-strake-v2
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X github.com/strake-containers/strake/internal/version.Version=$(VERSION)
# strake-runtime has a start of its own (cmd/strake-runtime/entry.go).
ENTRY    := -E main.entry
LINTER   := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

export CGO_ENABLED := 0
export PATH := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin

.PHONY: help build arm64 install demo test chaos test-unit test-crash test-execs test-kubelet test-kubelet-v2 test-callers test-handlers test-v2 bench lint generate clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the four static programs, in bin/
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $(patsubst %,./cmd/%,$(filter-out strake-runtime,$(PROGRAMS)))
	go build -trimpath -ldflags '$(LDFLAGS) $(ENTRY)' -o bin/ ./cmd/strake-runtime

arm64: ## check that everything, tests too, compiles for arm64
	GOARCH=arm64 go build -trimpath -o .work/arm64/ $(PROGRAMS:%=./cmd/%)
	GOARCH=arm64 go vet ./...

install: build ## copy the four programs to /usr/local/bin (or PREFIX/bin)
	install -D -t $(DESTDIR)$(or $(PREFIX),/usr/local)/bin $(PROGRAMS:%=bin/%)

demo: build ## the whole line at work in under two minutes (needs root)
	test/install-packages demo
	go run ./test/demo -bin bin

test: build arm64 ## every test: unit, root and end to end; installs what it needs
	test/install-packages test
	go test -json -timeout 14m -p 2 ./... | go run ./test/report

chaos: build ## an hour of random verbs while everything is killed (TIME=5m SEED=42)
	test/install-packages test
	go test ./test/crash/chaos -v -timeout 0 -chaos.time $(or $(TIME),1h) -chaos.seed $(or $(SEED),0)

test-unit: ## go test: without root, or a program that it uses, a test is skipped
	go test ./...

test-crash: ## a thousand kills and power cuts at random moments of the image store
	test/install-packages test
	STRAKE_CRASH_POINTS=1000 go test -timeout 60m -run 'TestCrash|TestPowerCut' ./image

test-execs: build ## 100,000 processes in a container, as probes make them: nothing is left (EXECS=n)
	test/install-packages test
	STRAKE_EXECS=$(or $(EXECS),100000) go test -count=1 -v -timeout 0 -run TestManyExecs ./shim/task

test-kubelet: build ## a real kubelet runs pods on straked, and evicts them (builds the kubelet: minutes)
	test/install-packages test
	test/kubelet/run.sh

test-kubelet-v2: build ## the same on cgroup v2 with systemd, in an emulated VM (slow)
	test/install-packages test
	test/kubelet/run.sh --v2

test-callers: build ## Podman, Docker and containerd on strake (installs them)
	test/install-packages callers
	test/e2e/callers/run.sh

test-handlers: build ## OCI runtimes and shims as handlers, gVisor too (which it builds)
	test/install-packages test
	go build -C test/gvisor -trimpath -o ../../bin/gvisor/runsc ./runsc
	go build -C test/gvisor -trimpath -o ../../bin/gvisor/containerd-shim-runsc-v1 ./shim
	STRAKE_GVISOR=$(CURDIR)/bin/gvisor go test -count=1 -v ./test/e2e/handlers

test-v2: build ## the tests that touch cgroups on cgroup v2, CRIU and SELinux, in an emulated VM (slow)
	test/vm/run.sh

bench: build ## speed and memory beside the peers that Debian ships, in one session
	test/install-packages bench
	test/bench/run.sh

lint: ## gofmt and golangci-lint (.golangci.yml says why each rule is there)
	go run $(LINTER) run ./...

generate: ## make the generated code again (protobuf, system call tables)
	test/install-packages generate
	go generate ./...

clean: ## remove what make made
	rm -rf bin .work
