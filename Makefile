# Thin names for commands anyone can type. What is not a system package goes to SLUICE_CACHE.
export SLUICE_CACHE ?= $(HOME)/.cache/sluice
export CARGO_TARGET_DIR ?= $(SLUICE_CACHE)/target
bin = $(CARGO_TARGET_DIR)/x86_64-unknown-linux-gnu/release

.PHONY: run build image test lint unit generated guard flows faults browser chart reconcile e2e cluster scale bench
.DEFAULT_GOAL := build

run: ## Serve the example: synthetic orders at http://127.0.0.1:8080
	@scripts/setup build
	@scripts/build sluice
	@$(bin)/sluice run -f examples/orders.yaml

build: ## Build the binaries `sluice` and `sluice-operator`
	@scripts/setup build
	@scripts/build sluice sluice-operator

image: build ## Pack them as OCI archives
	@scripts/setup cluster
	@scripts/image

test: ## Every suite that needs no root; ends with `N passed, N failed`
	@scripts/setup all
	@scripts/test lint unit generated guard flows browser chart reconcile

lint: ## Format, clippy, licences and sources
	@scripts/setup lint
	@scripts/test lint

unit: ## Tests beside the code
	@scripts/setup build
	@scripts/test unit

flows: ## The real binary against real Kafka, a real collector and hostile clients
	@scripts/setup build kafka otel
	@scripts/test flows

generated: ## Files made from the code are fresh
	@scripts/setup build
	@scripts/test generated

guard: ## Instructions that hot functions take, against a baseline; ARGS=--accept makes a new one
	@scripts/setup guard
	@$(if $(ARGS),scripts/guard $(ARGS),scripts/test guard)

faults: ## The flows that break something under load
	@scripts/setup build kafka
	@scripts/build sluice
	cargo test --release --locked --workspace --test faults

browser: ## The console and browsers' own clients in headless Chromium, and AsyncAPI documents against the official schema
	@scripts/setup build kafka browser
	@scripts/test browser

chart: ## The Helm chart: lint, golden renders, schemas
	@scripts/setup kubernetes
	@scripts/test chart

reconcile: ## The operator against a real API server
	@scripts/setup build kubernetes
	@scripts/test reconcile

e2e: ## Chart, images, operator and data planes on a real node; root
	@scripts/setup build kafka otel kubernetes cluster
	@scripts/test e2e

cluster: build ## Leave a cluster running with Sluice installed, to try things on; root
	@scripts/setup build kubernetes cluster
	@e2e/cluster/try

scale: ## The operator with 1,000 StreamAPIs on a real API server: make scale [ARGS="COUNT REST-SECONDS [DIRECTORY-FOR-CURVES]" or "gateway COUNT"]
	@scripts/setup build kubernetes
	@scripts/build sluice sluice-operator cluster-scale
	$(bin)/cluster-scale $(ARGS)

bench: ## Speed and memory beside others, on an otherwise idle machine: make bench [SCENARIO="a c"] [ARGS="--write docs/PERFORMANCE.md"]
	@scripts/setup build kafka
	@scripts/peers
	@scripts/build sluice sluice-bench
	$(bin)/sluice-bench $(SCENARIO) $(ARGS)
