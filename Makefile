# What a newcomer needs is `make run` and `make test`; the rest is for whoever works on banger.
SHELL := /bin/bash
GO ?= go
SOURCES := $(shell find api cmd internal proto -name '*.go' -o -name '*.sh' -o -name '*.s' -o -name '*.pgp' 2>/dev/null) go.mod go.sum
PROGRAMS := bin/banger bin/banger-guest bin/firecracker-qemu
LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: run build test test-images test-unit test-e2e check bench generate clean

run: ## install what is missing, build, and show a microVM
	@scripts/setup.sh run
	@$(MAKE) --no-print-directory -s build
	@scripts/show.sh

build: $(PROGRAMS) ## build into bin/

bin/%: $(SOURCES)
	@echo "build $@"
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $@ ./cmd/$*

test: ## everything: unit, integration and end-to-end with real VMs
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory -s build
	@scripts/test.sh

test-images: ## the slow tests of images, such as the developer image built whole: half an hour without KVM
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory -s build
	@GOFLAGS=-tags=images scripts/test.sh 'TestAgentImage|TestBuildWithoutPackage|TestDiskFullWhileBuilding|TestImageBuildFails|TestOpenRC'

check: ## formatting, vet, linters, shell scripts; widths and lengths are tests of internal/house
	@scripts/setup.sh test
	@test -z "$$(gofmt -l api bench cmd internal proto test)" || { gofmt -l api bench cmd internal proto test; exit 1; }
	$(GO) vet ./...
	$(GO) run $(LINT) run ./...
	shellcheck scripts/*.sh .ci/run $$(find internal -name '*.sh')

bench: ## side-by-side benchmarks; raw samples go to bench/
	@scripts/setup.sh bench
	@$(MAKE) --no-print-directory -s build
	$(GO) run ./bench

generate: ## the agent's protocol, after a change of the .proto (needs protoc)
	$(GO) generate ./proto/...

clean:
	rm -rf bin
