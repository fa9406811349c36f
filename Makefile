# The commands of this repository. Each installs what it lacks, says so, and may be repeated.
export PATH := $(HOME)/.cargo/bin:/usr/local/go/bin:$(PATH):/usr/sbin:/sbin
.DEFAULT_GOAL := help
.PHONY: help demo test lint fmt bench bench-cluster sanity test-guest test-cluster test-transfer torture fuzz image chart chart-test monitoring-test cluster-up cluster-down demo-kubernetes test-kubernetes bench-kubernetes smoke-kubernetes e2e

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

demo: ## Watch one volume live: create, mount, write, snapshot, clone, grow, delete (root)
	@tests/install.sh build test
	@tests/demo.sh

test: ## Run everything: lint, unit and real-mount tests, csi-sanity (root; minutes)
	@tests/install.sh build test lint sanity chart monitoring
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

bench-cluster: ## Measure a controller, the way through it and 1,000 nodes behind it, and a volume's way between nodes (root for that)
	@tests/install.sh build test bench-cluster
	@tests/no-leaks.sh tests/bench-cluster.sh $(ARGS)

sanity: ## Run csi-sanity over every pool kind (root)
	@tests/install.sh build test sanity
	@tests/no-leaks.sh tests/sanity.sh

MINUTES ?= 5
PARTS ?= random exhaustive syscalls races mutants clean
ARGS ?=
torture: ## Kill it, cut its power, break its calls: MINUTES=5 for each part; PARTS='random', ARGS='--seed 2' (root)
	@tests/install.sh build test torture
	@tests/torture.sh $(PARTS) --minutes $(MINUTES) $(ARGS)

test-cluster: PARTS = scenes random sanity mutants
test-cluster: MINUTES = 2
test-cluster: ## Break 3 nodes and 2 controllers, and the ways between them: MINUTES=2 of random faults; PARTS='random', ARGS='--seed 2' (root)
	@tests/install.sh build test torture cluster sanity
	@tests/no-leaks.sh tests/cluster.sh $(PARTS) --minutes $(MINUTES) $(ARGS)
	@tests/no-leaks.sh cargo test --locked --quiet --test process -- credentials:: tokens:: transfer::

test-transfer: ## Kill either node, or cut its power, at every durable step of a volume's way to another; minutes (root)
	@tests/install.sh build test
	@tests/no-leaks.sh cargo test --locked --features torture --test process -- at_any_step_of_a_transfer

fuzz: ## Fuzz every target for MINUTES=5 altogether; ARGS=operations for one (root: in a mount namespace)
	@tests/install.sh build
	@tests/fuzz.sh $(MINUTES) $(ARGS)

chart-test: ## Check the Helm chart: lint, schema, renders, rights, certificates, flags
	@tests/install.sh build chart
	@tests/chart.sh

monitoring-test: ## Check metrics and alerts with promtool
	@tests/install.sh build monitoring
	@tests/monitoring.sh

chart: ## Write the chart's renders anew: deploy/rockpool.yaml, and those that the tests keep
	@tests/install.sh build chart
	@tests/chart.sh -update

image: ## Build both container images with buildah, measure and run them (root; minutes the first time)
	@tests/install.sh build image
	@tests/no-leaks.sh tests/image.sh

cluster-up: ## Build and start a Kubernetes of two nodes on this machine: minutes the first time, then seconds (root)
	@tests/install.sh kubernetes
	@tests/kubernetes/up.sh

demo-kubernetes: ## Watch the chart, a StatefulSet, a snapshot, a restore and a growth on that cluster (root, after make image and make cluster-up)
	@tests/install.sh kubernetes
	@tests/kubernetes/demo.sh

test-kubernetes: ## Try what must work on it, scene by scene, with an audit after each, and a part of the upstream suite: SCENES='grows …' (root, after make image)
	@tests/install.sh build test torture kubernetes
	@tests/kubernetes/test.sh $(SCENES)

bench-kubernetes: ## Measure claims and pods on that cluster, API requests and memory: ARGS='-many 100' (root, after make image and make cluster-up)
	@tests/install.sh build kubernetes
	@tests/kubernetes/bench.sh $(ARGS)

smoke-kubernetes: ## The cluster from nothing, the demo on it with a debug build, and all of it gone again (root)
	@tests/install.sh build test kubernetes
	@tests/no-leaks.sh tests/kubernetes/smoke.sh

e2e: ## Run the upstream storage suite on it: FOCUS='snapshottable' (root, after make image and make cluster-up; twenty minutes)
	@tests/install.sh build test torture kubernetes
	@tests/kubernetes/e2e.sh '$(FOCUS)'

cluster-down: ## Stop it, and remove all that it left (root)
	@tests/kubernetes/down.sh

test-guest: ## Run what this kernel lacks under a stock Debian kernel in qemu (minutes)
	@tests/install.sh build test guest sanity
	@tests/guest/test.sh
