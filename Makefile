# Each target makes .venv and installs what it needs; on a fresh machine too.
PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: demo test test-slow bench docs check clean

demo: .venv/core  ## the main job end to end, on data that comes with the install
	$(RUN) -m vitral demo

test: .venv/dev  ## the whole test suite, one process per core
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2

test-slow: .venv/dev  ## the tests that are marked slow: repeated starts, soaks
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 -m slow

bench: .venv/dev  ## speed and memory of vitral and of other libraries, about ten minutes
	$(RUN) -m benchmarks.peers --out bench --page docs/benchmarks.md

docs: .venv/dev  ## the table of floors and the drawing of the rooms
	$(RUN) tests/tools/docs.py

check: .venv/dev  ## format, lint, types
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

.venv/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/dev: .venv/core
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
