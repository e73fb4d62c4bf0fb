# Set-up and everyday commands. `make run` and `make test` create their own virtual environment on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test lint suite slow exhaustive clean

run: $(STAMP)
	$(BIN)/python -m spectral_exp.train +experiment=wave_rgd

test: lint suite

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

suite: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The longer tests: refusals at every system call of a save, whole runs killed at many points.
slow: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'slow and not exhaustive'

# The rest of what they try a sample of; more than an hour.
exhaustive: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m exhaustive

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bpe,fast,zstd,safetensors,s3,sweep,search,paper,dashboard,dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
