# Every target sets up what it needs: `make run` and `make test` work on a fresh clone.

PYTHON ?= python3.11
VENV ?= .venv
# Options of `untaint run`, or of pytest for the test targets: make run ARGS="--attack blended"
ARGS ?=
# Another index for pip, searched besides the usual one: for PyTorch built for CPUs only, or for another CUDA.
TORCH_INDEX_URL ?=
REGISTRY ?= untaint
TAG ?= dev
# What a cluster grants each stage: cpu, gpu, eks-irsa, or a YAML file like those in k8s/profiles.
PROFILE ?= cpu

BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
PIP_EXTRA := $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test test-slow check format docs golden compile check-k8s submit run-local run-local-down bench bench-train store lock clean

help: ## Show these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make the virtual environment from requirements.lock (PYTHON=, VENV=, TORCH_INDEX_URL=)

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "untaint needs Python 3.11 or 3.12: '$(PYTHON)' is not on the PATH. Install it, or name yours: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_EXTRA) -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(STAMP) ## Run the whole pipeline on this machine (ARGS="--attack blended")
	@$(BIN)/untaint run $(ARGS)

test: $(STAMP) ## Run the tests (ARGS="-k storage")
	$(BIN)/python -m pytest --numprocesses 2 $(ARGS)

test-slow: $(STAMP) ## Run the tests that train for minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

check: $(STAMP) ## Lint, check formatting, types, layers, manifests, and that generated READMEs are in step
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pipelines.dag.docs --check
	@$(MAKE) --no-print-directory check-k8s

format: $(STAMP) ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## Write components/*/README.md from the components' signatures
	$(BIN)/python -m pipelines.dag.docs

golden: $(STAMP) ## Write the expected compiled pipelines anew; look at the diff before committing
	UPDATE_GOLDEN=1 $(BIN)/python -m pytest -q tests/pipelines/dag/test_pipeline_golden.py tests/pipelines/dag/test_profiles.py

compile: $(STAMP) ## Compile the pipeline for a cluster to build/training.yaml (REGISTRY=, TAG=, PROFILE=)
	@mkdir -p build
	@$(BIN)/untaint compile --registry "$(REGISTRY)" --tag "$(TAG)" --profile "$(PROFILE)" --output build/training.yaml $(ARGS)

# A matrix of benchmarks/matrices, and which of its cells: FILTER=attack=badnets,wanet,seed=40,method=untaint
MATRIX ?= quick
FILTER ?=

bench: $(STAMP) ## Measure attacks x seeds x methods; goes on where it stopped (MATRIX=, FILTER=, ARGS="--jobs 2 --list")
	@$(BIN)/python -m benchmarks.bench $(MATRIX) $(if $(FILTER),--only $(FILTER)) --render $(ARGS)

bench-train: $(STAMP) ## Measure the speed of training; of all models for docs/models.md (ARGS="--models convnet")
	$(BIN)/python -m benchmarks.train_speed $(ARGS)

store: $(STAMP) ## Run the embedded object store until Ctrl-C
	@$(BIN)/untaint store start $(ARGS)

# The CUDA libraries are left out: torch asks for its own exactly, and the builds of torch for CPUs for none.
lock: $(STAMP) ## Resolve requirements.lock anew from pyproject.toml (ARGS=--upgrade)
	cp requirements.lock $(VENV)/lock.draft
	$(BIN)/pip-compile --quiet --extra local --extra onnx --extra dev --strip-extras --allow-unsafe --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host $(ARGS) \
	  --output-file $(VENV)/lock.draft pyproject.toml
	{ sed -n '/^#/p;/^#/!q' requirements.lock; \
	  grep -E '^[a-zA-Z0-9]' $(VENV)/lock.draft | grep -vE '^(nvidia-|cuda-|triton==|pip==)'; } > $(VENV)/lock.new
	mv $(VENV)/lock.new requirements.lock
	rm $(VENV)/lock.draft

CHECKS ?= .venv-checks

# Part of `make check`; without kubectl and kustomize it says itself that the manifests were not checked.
check-k8s: $(STAMP) $(CHECKS)/.set-up ## Check manifests and Dockerfile without a cluster (ARGS="--overlay DIR --profile gpu")
	$(BIN)/python -m k8s.checks --tools $(CHECKS)/bin $(ARGS)

$(CHECKS)/.set-up: k8s/checks/requirements.lock
	test -x $(CHECKS)/bin/python || $(PYTHON) -m venv $(CHECKS)
	$(CHECKS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

submit: $(STAMP) ## Run the pipeline on a Kubeflow Pipelines server (REGISTRY=, TAG=, PROFILE=, ARGS="--store s3://…")
	@$(BIN)/untaint submit --registry "$(REGISTRY)" --tag "$(TAG)" --profile "$(PROFILE)" $(ARGS)

run-local: $(STAMP) ## Run the pipeline on Kubernetes on this machine: kind, Kubeflow Pipelines, the six images
	@$(BIN)/untaint run-local $(ARGS)

run-local-down: $(STAMP) ## Delete the cluster of run-local
	@$(BIN)/untaint run-local-down $(ARGS)

# --- images: docs/containers.md ---
# PyTorch for CPUs, which ingest and evaluate take, comes from an index of its own: pytorch.org, "Get started".
TORCH_CPU_INDEX_URL ?=
IMAGE_OPTIONS := --registry "$(REGISTRY)"
IMAGE_SOURCES := $(if $(TORCH_INDEX_URL),--torch-index-url "$(TORCH_INDEX_URL)") \
  $(if $(TORCH_CPU_INDEX_URL),--torch-cpu-index-url "$(TORCH_CPU_INDEX_URL)")
.PHONY: images run-docker test-docker

images: $(STAMP) ## Build the six images, tagged by their content (REGISTRY=, TORCH_CPU_INDEX_URL=, ARGS="--stage split")
	@$(BIN)/untaint images build $(IMAGE_OPTIONS) $(IMAGE_SOURCES) $(ARGS)

run-docker: $(STAMP) ## Run the whole pipeline on this machine in the six images (ARGS= as for run)
	@$(BIN)/untaint run-docker $(IMAGE_OPTIONS) $(ARGS)

test-docker: $(STAMP) ## Build the images and run the Docker tests; starts an engine where that is possible
	.ci/docker $(ARGS)

clean: ## Delete caches and build results; neither .venv nor .untaint
	rm -rf build dist ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
