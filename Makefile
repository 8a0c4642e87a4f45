# Two commands: `make study` (from nothing to a report) and `make test` (tests, lint, types).
# Both make .venv once and do nothing twice.
#
#   TORCH=cpu       torch as constraints.txt pins it (default)
#   TORCH=cu126     the same version, checked to be built for that CUDA; give TORCH_INDEX=URL, the package index that
#                   PyTorch's own install page names for it, where the default one holds another build
#   TORCH=present   use the torch that this Python already has, whatever its version
#   DATA=FOLDER     a prepared data folder (vqseg data --help); without it the phantom is made
#   STORE=FOLDER    where runs and reports go; default vqseg-store
#   WORKERS=N       runs at a time; default 2
SHELL := /bin/bash
PYTHON ?= python3
TORCH ?= cpu
TORCH_INDEX ?=
STORE ?= vqseg-store
DATA ?=
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(TORCH)
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q

.PHONY: study test lint types format clean help

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -11

study: $(READY)
	@$(BIN)/vqseg demo --store $(STORE) --workers $(WORKERS) $(if $(DATA),--data $(DATA))

test: $(READY)
	@echo "== lint"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@echo "== types"
	@$(BIN)/mypy
	@echo "== tests"
	@$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	@$(BIN)/ruff check .

types: $(READY)
	@$(BIN)/mypy

format: $(READY)
	@$(BIN)/ruff check --fix -q .
	@$(BIN)/ruff format -q .

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vqseg needs Python 3.11 or newer; name one: make PYTHON=python3.11")'
	@echo "== making $(VENV) (torch: $(TORCH)); once, a few minutes"
	@$(PYTHON) -m venv --clear $(if $(filter present,$(TORCH)),--system-site-packages) $(VENV)
ifeq ($(TORCH),present)
	@$(BIN)/python -c 'import torch; print("using torch", torch.__version__)' || { echo "TORCH=present: this Python has no torch"; exit 2; }
	@grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
else
	@cp constraints.txt $(VENV)/constraints.txt
	@$(PIP) -c constraints.txt $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX) torch,torch numpy)
	@$(if $(TORCH_INDEX),$(PIP) -c constraints.txt torch numpy)
	@$(BIN)/python -c 'import sys, torch; want, have = "$(TORCH)", "cu" + (torch.version.cuda or "").replace(".", ""); sys.exit(want != "cpu" and want != have and f"TORCH={want}: the index holds a build for {have}; give TORCH_INDEX=URL as PyTorch documents it")'
endif
	@$(PIP) -c $(VENV)/constraints.txt -e '.[dev]'
	@rm -f $(VENV)/.ready-* && touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
