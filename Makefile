# One command to learn (make lab), one to test (make test). README.md has the same without make.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
ALLOW_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

# On Linux, threads that wait for each other give way sooner: PyTorch on two cores keeps 0.93 of its
# speed when it has them to itself, and runs twice as fast when something else computes too.
export GOMP_SPINCOUNT ?= 1500

.PHONY: setup lab test test-browser refresh lint
.DEFAULT_GOAL := lab

setup: $(INSTALLED)

$(INSTALLED): requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --requirement requirements.txt
	touch $@

# Opens the welcome page; without a browser, the address is printed. LAB="--port 9999" adds options.
lab: $(INSTALLED)
	$(BIN)/jupyter lab $(ALLOW_ROOT) --LabApp.default_url=/lab/tree/notebooks/00_welcome.ipynb $(LAB)

# TEST="-k attention -x" adds options of pytest.
test: $(INSTALLED)
	$(BIN)/python -m pytest $(TEST)

# Needs Chromium or Chrome; CHROME=/path/to/it names one that is not found. A test that fails is
# tried once more, and both tries are told. KEEP_PICTURES=1 renews the pictures of the README.
test-browser: $(INSTALLED)
	$(BIN)/python -m pytest tests/browser --reruns 1 -rR $(TEST)

# BOOKS="notebooks/03_attention.ipynb" refreshes one notebook.
refresh: $(INSTALLED)
	$(BIN)/ruff format --quiet $(or $(BOOKS),notebooks)
	$(BIN)/python tests/refresh_notebooks.py $(BOOKS)

# CHECK=--check only reports what the formatter would change.
lint: $(INSTALLED)
	$(BIN)/ruff format $(CHECK) .
	$(BIN)/ruff check .
	$(BIN)/mypy
