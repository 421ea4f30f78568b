# What a user types. `make help` lists the targets.

CARGO ?= cargo
export CARGO
CACHE := $(or $(EVORING_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/evoring)
DENY := $(CACHE)/tools/bin/cargo-deny
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Where workers find data sets by name; `make setup` makes the link.
export EVORING_DATA ?= $(CURDIR)/.evoring-data

GATE := ops/gate.sh
TIDY := python3 ops/tidy

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test verify audit bench-prune completions

help:
	@echo 'make demo         set-up and the main job on this machine (examples/prune-fashion.toml)'
	@echo 'make test         set-up and the tests; ends with "N passed, 0 failed"'
	@echo 'make verify       what CI runs: format, lints, docs, licences, arrows, tests'
	@echo 'make setup        only fetch what building needs (into $(CACHE))'
	@echo 'make bench-prune  how much faster an evaluation is than the full masked net'
	@echo 'make audit        known vulnerabilities in dependencies (needs a network)'
	@echo 'make completions  shell completions, into $(TARGET)/completions'

setup:
	@ops/setup/setup.sh

demo: setup
	@$(GATE) "release build" $(CARGO) build --release --locked --workspace --bins
	@$(GATE) "job examples/prune-fashion.toml" $(TARGET)/release/evoring run examples/prune-fashion.toml

test: setup
	@$(GATE) "test build" $(CARGO) test --workspace --locked --no-run
	@ops/test.py

# The cheap gates come first; the tests last, so that their count is the last line.
verify: setup
	@$(GATE) "format" $(CARGO) fmt --all --check
	@$(GATE) "tidy checks can fail" $(TIDY)/selftest.py
	@$(GATE) "sources (sizes, paths, ignored tests)" $(TIDY)/sources.py
	@$(GATE) "arrows between rooms" $(TIDY)/arrows.py
	@$(GATE) "clippy" $(CARGO) clippy --workspace --all-targets --locked --quiet -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(GATE) "rustdoc" $(CARGO) doc --workspace --no-deps --document-private-items --locked --quiet
	@$(GATE) "cargo-deny is there" ops/setup/setup.sh --deny
	@$(GATE) "crates are here" $(CARGO) fetch --locked --quiet
	@$(GATE) "bans, licences, sources" $(DENY) --offline --workspace --log-level warn check --hide-inclusion-graph bans licenses sources
	@$(GATE) "build" $(CARGO) build --workspace --locked --quiet
	@$(GATE) "libtorch only in the executor" $(TIDY)/libtorch.py
	@$(GATE) "test build" $(CARGO) test --workspace --locked --no-run --quiet
	@ops/test.py

audit:
	@ops/setup/setup.sh --deny
	@$(GATE) "advisories" $(DENY) --workspace --log-level warn check advisories || \
	  { echo 'If the advisory database could not be fetched, there is no network here; nothing was found or ruled out.' >&2; exit 1; }

bench-prune: setup
	@$(GATE) "bench-prune" $(CARGO) bench --locked -p evoring-kernels --bench prune

completions: setup
	@$(CARGO) build --release --locked --quiet --bin evoring
	@mkdir -p $(TARGET)/completions
	@$(TARGET)/release/evoring completions bash > $(TARGET)/completions/evoring.bash
	@$(TARGET)/release/evoring completions zsh > $(TARGET)/completions/_evoring
	@$(TARGET)/release/evoring completions fish > $(TARGET)/completions/evoring.fish
	@ls $(TARGET)/completions/*
