# The verbs of this repository; `make help` lists them. CI runs `make lint test` and nothing else.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run demo test sim chaos bench compare lint fmt proto baseline have-build have-python have-node have-nextest venv buf

# Where cargo builds; everything that these verbs install for themselves goes there too.
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
# What `run` and `demo` build: dev builds in a third of the time; PROFILE=release runs faster.
PROFILE ?= dev
OUT := $(TARGET)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

CARGO ?= cargo
PYTHON ?= python3
VENV := $(TARGET)/venv
BUF_VERSION := 1.75.0
BUF := $(TARGET)/buf/node_modules/.bin/buf

help: ## Say what there is.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | \
	  while IFS=$$'\t' read -r verb what; do printf '  make %-9s %s\n' "$$verb" "$$what"; done

run: have-build ## Build, start the three services, run the demonstrations, stop.
	$(CARGO) build --locked --profile $(PROFILE) $(SUITE)
	$(OUT)/multiagents demo --up

demo: have-build ## As run, with the long demonstration cut short.
	$(CARGO) build --locked --profile $(PROFILE) $(SUITE)
	$(OUT)/multiagents demo --up --quick

SUITE := -p orchestrator -p worker-host -p monitor -p multiagents

test: have-build have-python have-nextest venv ## Run every test: languages first, then Rust.
	$(CARGO) build --locked --workspace --bins
	PYTHONDONTWRITEBYTECODE=1 MULTIAGENTS_BINARIES=$(TARGET)/debug \
	  $(VENV)/bin/pytest -q -p no:cacheprovider tests/languages
	$(CARGO) nextest run --locked --workspace

sim: have-build ## Simulate faults: SEED=… again, or fresh seeds for SIM_SECONDS=… (60).
	SEED=$(SEED) FAULTS=$(FAULTS) STARTS=$(STARTS) STEPS=$(STEPS) SIM_SECONDS=$(SIM_SECONDS) \
	  $(CARGO) test --locked -q -p tests --test sim -- --ignored --nocapture what_make_sim_asks_for

# Rounds of `make chaos`; so many are what a release needs, and take a quarter of an hour.
CHAOS_ROUNDS ?= 300

chaos: have-build have-nextest ## Break real processes and files; CHAOS_ROUNDS=… (300).
	$(CARGO) build --locked --workspace --bins
	CHAOS_ROUNDS=$(CHAOS_ROUNDS) TEST_LONG=1 $(CARGO) nextest run --locked --profile chaos \
	  --no-capture -p tests -p eventlog \
	  -E 'package(eventlog) & binary(/^(backup|damage|faults)$$/) | test(/^(chaos|backup|hosts_come_to_harm)::/)'

bench: have-build ## Measure beside the machine's own limits; ONLY=core or other parts; writes target/bench.json.
	$(CARGO) build --locked --release --workspace --bins
	$(TARGET)/release/bench $(TARGET)/bench.json $(ONLY)

compare: have-build ## Measure the build whose binaries are in the folder AGAINST, and this one, in turns.
	$(CARGO) build --locked --release --workspace --bins
	$(TARGET)/release/bench compare $(AGAINST) $(TARGET)/release

lint: have-build have-node buf ## Check format, lints, contracts and dependencies.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	cd proto && $(BUF) lint
	cd proto && $(BUF) breaking --against baseline.binpb
	@for check in 'machete' 'deny --locked check bans sources'; do \
	  if $(CARGO) $${check%% *} --version >/dev/null 2>&1; then \
	    echo "$(CARGO) $$check"; $(CARGO) $$check || exit 1; \
	  else echo "skipped: cargo-$${check%% *} is not installed"; fi; done

fmt: ## Format the code.
	$(CARGO) fmt --all

proto: have-build have-node buf ## Check the contracts alone.
	cd proto && $(BUF) lint
	cd proto && $(BUF) breaking --against baseline.binpb
	$(CARGO) nextest run --locked -p proto

baseline: have-node buf ## Renew the contracts' baseline, on purpose, in a commit of its own.
	cd proto && $(BUF) build --exclude-source-info -o baseline.binpb

# What a verb needs, named in one sentence before anything is built.
have-build:
	@command -v $(CARGO) >/dev/null || { echo "Rust is missing: install it with rustup, then repeat." >&2; exit 1; }
	@command -v $${CC:-cc} >/dev/null || { echo "A C compiler is missing: install one (Debian: apt-get install gcc libc6-dev), then repeat." >&2; exit 1; }

have-python:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3 is missing: install it (Debian: apt-get install python3 python3-venv), then repeat." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv is missing: install it (Debian: apt-get install python3-venv), then repeat." >&2; exit 1; }

have-node:
	@command -v npm >/dev/null || { echo "Node with npm is missing: install it (Debian: apt-get install nodejs npm), then repeat." >&2; exit 1; }

have-nextest:
	@$(CARGO) nextest --version >/dev/null 2>&1 || { echo "cargo-nextest is missing and is built first; this takes some minutes once."; \
	  $(CARGO) install cargo-nextest --locked --target-dir $(TARGET)/nextest-build; rm -rf $(TARGET)/nextest-build; }

venv: $(VENV)/ready

$(VENV)/ready: tests/languages/requirements.txt
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

buf: $(TARGET)/buf/$(BUF_VERSION)

$(TARGET)/buf/$(BUF_VERSION):
	rm -rf $(TARGET)/buf
	mkdir -p $(TARGET)/buf
	npm install --silent --no-audit --no-fund --prefix $(TARGET)/buf @bufbuild/buf@$(BUF_VERSION)
	$(BUF) --version
	touch $@
