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
.PHONY: help setup demo test verify simulate plants soak fuzz audit completions
.PHONY: bench-prune bench-raft bench-failover bench-restart bench-raft-programs

# Simulations: how many seeds, from which on, and how long each lasts.
SEEDS ?= 10000
START ?= 1
MINUTES ?= 10
SIMULATE := $(TARGET)/release/evoring-simulate
PLANTS := $(TARGET)/plants
# Programs of the benchmarks beside etcd, a package of its own.
BENCH_RAFT := $(TARGET)/bench-raft-build

help:
	@echo 'make demo         set-up and the main job on this machine (examples/prune-fashion.toml)'
	@echo 'make test         set-up and the tests; ends with "N passed, 0 failed"'
	@echo 'make verify       what CI runs: format, lints, docs, licences, arrows, simulations, planted bugs, tests'
	@echo 'make setup        only fetch what building needs (into $(CACHE))'
	@echo 'make simulate     simulated groups under faults: SEEDS=10000 START=1 MINUTES=10'
	@echo 'make plants       whether the simulator finds bugs that were planted (a build of its own)'
	@echo 'make soak         100,000 seeds, and longer ones; for a night'
	@echo 'make fuzz         one fuzz target: TARGET_NAME=worker_report FUZZ_SECONDS=120 (needs nightly and cargo-fuzz)'
	@echo 'make bench-prune  how much faster an evaluation is than the full masked net'
	@echo 'make bench-raft   durable commands a second, beside etcd (fetches the Debian package)'
	@echo 'make bench-failover, make bench-restart   the leader is killed; all coordinators are'
	@echo 'make audit        known vulnerabilities in dependencies (needs a network)'
	@echo 'make completions  shell completions, into $(TARGET)/completions'

setup:
	@ops/setup/setup.sh

demo: setup
	@$(GATE) "release build" $(CARGO) build --release --locked --workspace --bins
	@$(GATE) "job examples/prune-fashion.toml" $(TARGET)/release/evoring run examples/prune-fashion.toml

# The simulator of the tests' build is slower, but building an optimized one takes four minutes more.
test: setup
	@$(GATE) "test build" $(CARGO) test --workspace --locked --no-run
	@$(TARGET)/debug/evoring-simulate --seeds 200 --start $(START) --minutes $(MINUTES)
	@ops/test.py

simulate: setup
	@$(GATE) "simulator" $(CARGO) build --release --locked --quiet -p evoring-tests --bin evoring-simulate
	@$(SIMULATE) --seeds $(SEEDS) --start $(START) --minutes $(MINUTES)

# Never in a normal build: the planted bugs are behind a flag of the compiler.
plants: setup
	@RUSTFLAGS='--cfg evoring_plants' CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 $(GATE) "simulator with planted bugs" $(CARGO) build --release --locked --quiet -p evoring-tests --bin evoring-simulate --target-dir $(PLANTS)
	@$(PLANTS)/release/evoring-simulate --plants

soak: setup
	@$(MAKE) --no-print-directory simulate SEEDS=100000 START=1000000
	@$(MAKE) --no-print-directory simulate SEEDS=200 START=5000000 MINUTES=600

TARGET_NAME ?= worker_report
FUZZ_SECONDS ?= 120
# The targets' crate reaches libtorch through that of the tests, and cargo-fuzz sets no search path.
fuzz: setup
	@cd fuzz && LD_LIBRARY_PATH="$(CURDIR)/.libtorch/lib" cargo +nightly fuzz run $(TARGET_NAME) -- -max_total_time=$(FUZZ_SECONDS)

# The cheap gates come first; the tests last, so that their count is the last line. A test that cannot
# run is a failure, unless EVORING_MUST_RUN is empty.
verify: setup
	@$(GATE) "format" $(CARGO) fmt --all --check
	@$(GATE) "tidy checks can fail" $(TIDY)/selftest.py
	@$(GATE) "sources (sizes, paths, ignored tests)" $(TIDY)/sources.py
	@$(GATE) "arrows between rooms" $(TIDY)/arrows.py
	@$(GATE) "clippy" $(CARGO) clippy --workspace --all-targets --locked --quiet -- -D warnings
	@$(GATE) "jobs and kernels without the transport" $(CARGO) check --locked --quiet -p evoring-jobs -p evoring-kernels
	@RUSTDOCFLAGS="-D warnings" $(GATE) "rustdoc" $(CARGO) doc --workspace --no-deps --document-private-items --locked --quiet
	@$(GATE) "cargo-deny and PyTorch are there" ops/setup/setup.sh --deny --pytorch
	@$(GATE) "crates are here" $(CARGO) fetch --locked --quiet
	@$(GATE) "lock file of the benchmarks" $(CARGO) fetch --locked --quiet --manifest-path ops/bench/raft/Cargo.toml
	@$(GATE) "lock file of the fuzz targets" $(CARGO) fetch --locked --quiet --manifest-path fuzz/Cargo.toml
	@$(GATE) "bans, licences, sources" $(DENY) --offline --workspace --log-level warn check --hide-inclusion-graph bans licenses sources
	@$(GATE) "build" $(CARGO) build --workspace --locked --quiet
	@$(GATE) "libtorch only in the executor" $(TIDY)/libtorch.py
	@$(GATE) "test build" $(CARGO) test --workspace --locked --no-run --quiet
	@$(MAKE) --no-print-directory simulate SEEDS=1000
	@$(MAKE) --no-print-directory plants
	@EVORING_MUST_RUN=$${EVORING_MUST_RUN-1} ops/test.py

audit:
	@ops/setup/setup.sh --deny
	@$(GATE) "advisories" $(DENY) --workspace --log-level warn check advisories || \
	  { echo 'If the advisory database could not be fetched, there is no network here; nothing was found or ruled out.' >&2; exit 1; }

bench-prune: setup
	@$(GATE) "bench-prune" $(CARGO) bench --locked -p evoring-kernels --bench prune

bench-raft-programs: setup
	@$(GATE) "release build" $(CARGO) build --release --locked -p evoring -p evoring-coordinator
	@$(GATE) "benchmark build" $(CARGO) build --release --locked --manifest-path ops/bench/raft/Cargo.toml --target-dir $(BENCH_RAFT)

BENCH_RAFT_ARGUMENTS := --evoring $(TARGET)/release/evoring --dir $(TARGET)/bench-raft

bench-raft bench-failover: bench-raft-programs
	@etcd=$$(ops/bench/raft/etcd.sh) && $(GATE) "$@" $(BENCH_RAFT)/release/evoring-bench-raft $(subst bench-,,$(@:bench-raft=commands)) --etcd "$$etcd" $(BENCH_RAFT_ARGUMENTS)

bench-restart: bench-raft-programs
	@$(GATE) "$@" $(BENCH_RAFT)/release/evoring-bench-raft restart $(BENCH_RAFT_ARGUMENTS)

completions: setup
	@$(CARGO) build --release --locked --quiet --bin evoring
	@mkdir -p $(TARGET)/completions
	@$(TARGET)/release/evoring completions bash > $(TARGET)/completions/evoring.bash
	@$(TARGET)/release/evoring completions zsh > $(TARGET)/completions/_evoring
	@$(TARGET)/release/evoring completions fish > $(TARGET)/completions/evoring.fish
	@ls $(TARGET)/completions/*
