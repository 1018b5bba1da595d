# Thin names for commands anyone can type. What is not a system package goes to SLUICE_CACHE.
export SLUICE_CACHE ?= $(HOME)/.cache/sluice
export CARGO_TARGET_DIR ?= $(SLUICE_CACHE)/target

.PHONY: run build test lint unit generated flows faults browser bench
.DEFAULT_GOAL := build

run: ## Serve the example: synthetic orders at http://127.0.0.1:8080
	@scripts/setup build
	cargo run --release --locked -q -p sluice -- run -f examples/orders.yaml

build: ## Build the sluice binary
	@scripts/setup build
	cargo build --release --locked -p sluice

test: ## Every suite; ends with `N passed, N failed`
	@scripts/setup all
	@scripts/test lint unit generated flows browser

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

faults: ## The flows that break something under load
	@scripts/setup build kafka
	cargo build --release --locked -p sluice
	cargo test --release --locked -p sluice-tests --test faults

browser: ## The console and browsers' own clients, in headless Chromium
	@scripts/setup build kafka browser
	@scripts/test browser

bench: ## Speed and memory, on an otherwise idle machine: make bench [ARGS="--write docs/PERFORMANCE.md"]
	@scripts/setup build kafka
	cargo build --release --locked -p sluice
	cargo run --release --locked -q -p sluice-bench -- $(ARGS)
