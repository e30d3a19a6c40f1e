# Every command a user or CI needs. Each sets up what it uses: `make help`.

VENV := .venv
BIN := $(VENV)/bin

# Variables a caller may give (make demo DATA=... PYTHON=... ARGS=...).
DATA ?=
PYTHON ?=
ARGS ?=
IMAGE ?= tfx-mobile
BASE ?=
CONTAINER_TOOL ?= docker

# exported, because tools/setup.sh reads it; an empty PYTHON is the same as none
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup ready demo test lint type bench wheel image clean

help: ## Show this text
	@echo 'make TARGET [VARIABLE=value]'
	@echo
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12
	@echo
	@echo 'Variables'
	@echo '  DATA=dir        demo: a folder of your own taxi trips instead of the embedded ones'
	@echo '  PYTHON=python   setup: the interpreter to use; without it one is searched for (3.10 first)'
	@echo '  ARGS="..."      demo, test, lint, type, bench: more arguments, such as ARGS="-k quantizer" for test'
	@echo '  IMAGE=name:tag, BASE=image, CONTAINER_TOOL=podman    image: its name, what it is built on, and with'

setup: ## Make .venv and install everything from uv.lock
	@sh tools/setup.sh

# The same, silent when there is nothing to do: what every other target starts with.
ready:
	@sh tools/setup.sh --quiet

demo: ready ## Run the taxi-fare pipeline from data to signed delivery
	$(BIN)/python -m taxi_fare $(if $(DATA),--data '$(DATA)') $(ARGS)

test: ready ## Run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: ready ## Check style and formatting
	$(BIN)/ruff check $(ARGS)
	$(BIN)/ruff format --check $(ARGS)

type: ready ## Check types
	$(BIN)/mypy $(ARGS)

bench: ready ## Measure every speed and size the README claims
	$(BIN)/python benchmarks/run.py $(ARGS)

wheel: ready ## Build the wheel into dist/
	$(BIN)/uv build --wheel --quiet --python $(BIN)/python --out-dir dist
	@ls dist/*.whl

image: ready ## Build the container image of the tasks (kubeflow/README.md)
	rm -rf build/image
	mkdir -p build/image
	$(BIN)/uv export --frozen --no-dev --extra kubeflow --no-emit-project --quiet --output-file build/image/requirements.txt
	$(BIN)/uv build --wheel --quiet --python $(BIN)/python --out-dir build/image
	$(CONTAINER_TOOL) build --file kubeflow/Dockerfile --tag '$(IMAGE)' $(if $(BASE),--build-arg 'BASE=$(BASE)') $(ARGS) .

clean: ## Remove .venv, dist, workspace and caches
	rm -rf $(VENV) dist build workspace .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
