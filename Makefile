# The commands of this repository. Each installs what it lacks, says so, and may be repeated.
export PATH := $(HOME)/.cargo/bin:/usr/local/go/bin:$(PATH):/usr/sbin:/sbin
.DEFAULT_GOAL := help
.PHONY: help demo test lint fmt bench sanity test-guest torture fuzz

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

demo: ## Watch one volume live: create, mount, write, snapshot, clone, grow, delete (root)
	@tests/install.sh build test
	@tests/demo.sh

test: ## Run everything: lint, unit and real-mount tests, csi-sanity (root; minutes)
	@tests/install.sh build test lint sanity
	@tests/all.sh

lint: ## Check format, clippy, docs, licences, bans and sources
	@tests/install.sh build lint
	@tests/lint.sh

fmt: ## Format the code
	@tests/install.sh build fmt
	@cargo fmt

bench: ## Measure, print one table and write JSON to bench-results/ (root)
	@tests/install.sh build test bench
	@tests/bench.sh $(ARGS)

sanity: ## Run csi-sanity over every pool kind (root)
	@tests/install.sh build test sanity
	@tests/no-leaks.sh tests/sanity.sh

MINUTES ?= 5
PARTS ?= random exhaustive syscalls races mutants clean
ARGS ?=
torture: ## Kill it, cut its power, break its calls: MINUTES=5 for each part; PARTS='random', ARGS='--seed 2' (root)
	@tests/install.sh build test torture
	@tests/torture.sh $(PARTS) --minutes $(MINUTES) $(ARGS)

fuzz: ## Fuzz every target for MINUTES=5 altogether; ARGS=operations for one (root: in a mount namespace)
	@tests/install.sh build
	@tests/fuzz.sh $(MINUTES) $(ARGS)

test-guest: ## Run what this kernel lacks under a stock Debian kernel in qemu (minutes)
	@tests/install.sh build test guest sanity
	@tests/guest/test.sh
