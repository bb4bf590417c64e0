# One command to learn (make lab), one to test (make test). README.md has the same without make.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
SETTINGS := .venv/share/jupyter/lab/settings
OLDEST := .venv/oldest
ALLOW_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

# On Linux, threads that wait for each other give way sooner: PyTorch on two cores keeps 0.93 of its
# speed when it has them to itself, and runs twice as fast when something else computes too.
export GOMP_SPINCOUNT ?= 1500

.PHONY: setup lab fresh test test-oldest test-browser refresh lint
.DEFAULT_GOAL := lab

# JupyterLab's question about news is answered in the environment, not in anybody's home.
setup: $(INSTALLED)

$(INSTALLED): requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --requirement requirements.txt
	mkdir -p $(SETTINGS)
	echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}' \
		> $(SETTINGS)/overrides.json
	touch $@

# Copies the chapters into work/, never over a file that is there, and opens the welcome page;
# without a browser, the address is printed. LAB="--port 9999" adds options.
lab: $(INSTALLED)
	$(BIN)/python notebooks/lab.py
	$(BIN)/jupyter lab $(ALLOW_ROOT) --LabApp.default_url=/lab/tree/work/00_welcome.ipynb $(LAB)

# CHAPTER=03 begins that chapter anew; the old copy is set aside.
fresh: $(INSTALLED)
	$(BIN)/python notebooks/lab.py --fresh $(CHAPTER)

# TEST="-k attention -x" adds options of pytest.
test: $(INSTALLED)
	$(BIN)/python -m pytest $(TEST)

$(OLDEST)/installed: pyproject.toml $(INSTALLED)
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(OLDEST)
	$(BIN)/uv pip install --quiet --python $(OLDEST) --resolution lowest-direct \
		--editable ".[course,test]"
	touch $@

# Everything but the notebooks at the lower ends of pyproject.toml's ranges, PyTorch's included
# (several GB). TEST="tests/test_gpt2.py" runs less.
test-oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python -m pytest $(or $(TEST),gptlib tests)

# Needs Chromium or Chrome; CHROME=/path/to/it names one that is not found.
# KEEP_PICTURES=1 renews the pictures of the README.
test-browser: $(INSTALLED)
	$(BIN)/python -m pytest tests/browser $(TEST)

# BOOKS="notebooks/03_attention.ipynb" refreshes one notebook.
refresh: $(INSTALLED)
	$(BIN)/ruff format --quiet $(or $(BOOKS),notebooks)
	$(BIN)/python tests/refresh_notebooks.py $(BOOKS)

# CHECK=--check only reports what the formatter would change.
lint: $(INSTALLED)
	$(BIN)/ruff format $(CHECK) .
	$(BIN)/ruff check .
	$(BIN)/mypy
