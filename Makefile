# The commands of Posthorn. Each is plain go underneath; T is the time for each fuzz target.
T ?= 30s
LINT_VERSION = v2.15.0
LINT = .tools/golangci-lint-$(LINT_VERSION)
NFPM_VERSION = v2.45.0
NFPM = .tools/nfpm-$(NFPM_VERSION)

BUILDER = $(firstword $(foreach p,podman docker buildah,$(if $(shell command -v $(p)),$(p))))

.PHONY: build demo test check lint fmt bench fuzz packages container

build: ## the binary, in bin/
	go build -trimpath -o bin/posthorn ./cmd/posthorn

demo: ## everything in one process; open http://127.0.0.1:8025/
	go run ./cmd/posthorn demo $(ARGS)

test: ## the whole suite, real peers included; missing Debian packages are installed where that is allowed
	./internal/testpeer/install.sh
	go test -race -shuffle=on -timeout 30m ./...

check: lint ## format, lint, vet
	go vet ./...

lint: $(LINT)
	$(LINT) run ./...

fmt: $(LINT) ## put the sources in form
	$(LINT) fmt ./...

$(LINT):
	GOBIN=$(CURDIR)/.tools go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv .tools/golangci-lint $@

packages: $(NFPM) ## .deb and .rpm for amd64 and arm64, in bin/packages/
	NFPM=$(CURDIR)/$(NFPM) ./deploy/package/build.sh

container: ## the image posthorn, by podman, docker or buildah and the Go of this machine, without a registry
	ARCHES=$$(go env GOARCH) FORMATS=container ./deploy/package/build.sh
	$(if $(BUILDER),,$(error podman, docker or buildah is needed to make an image))
	BUILDAH_FORMAT=docker $(BUILDER) build -t posthorn bin/packages/container-$$(go env GOARCH)

$(NFPM):
	GOBIN=$(CURDIR)/.tools go install github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM_VERSION)
	mv .tools/nfpm $@

bench: build ## figures with their baselines in the same run, up to 30 minutes, and their page in docs/
	./bin/posthorn bench push --json > bin/bench.json
	./bin/posthorn bench listeners --json > bin/listeners.json
	./bin/posthorn bench page docs bin/bench.json bin/listeners.json

fuzz: ## every fuzz target for T
	@set -e; for file in $$(grep -rl --include='*_test.go' '^func Fuzz' .); do \
	  for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$file); do \
	    echo "== $$target in $$(dirname $$file)"; \
	    go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(T) ./$$(dirname $$file); \
	  done; \
	done
