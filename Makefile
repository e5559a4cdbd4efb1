# Three commands do all the set-up on a fresh machine: `make demo`, `make studio` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

.PHONY: demo studio test test-browser test-all lint types doctest clean

demo: .venv/installed
	rm -rf $(DEMO)
	$(BIN)/chainrule guide "a bird on a blue background" --model sprites --loss classifier=penguin --budget 300 --seed 0-3 --output $(DEMO)
	@echo "The picture is $(CURDIR)/$(DEMO)/contact-sheet.png"

studio: .venv/installed-studio
	$(BIN)/chainrule studio --folder runs

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --durations 30

test-browser: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser tests/studio tests/study

test-all: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m ""

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

doctest: .venv/installed-dev
	$(BIN)/python -m pytest --doctest-modules src --ignore=src/chainrule/__main__.py

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[lora,ode]"
	touch $@

.venv/installed-studio: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[studio]"
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv $(DEMO) .pytest_cache .mypy_cache .ruff_cache
