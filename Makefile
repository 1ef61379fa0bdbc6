# Two commands matter: `make demo` and `make test`. Both prepare .venv by themselves.
# Paths are relative, so that any folder works, spaces in its path included.
PYTHON ?= python3
PY := .venv/bin/python
STAMP := .venv/.installed

.PHONY: demo test check setup links format clean

demo: $(STAMP)
	@$(PY) -m flowscout demo

# A file of tests stays with one process: what its fixtures have fitted is fitted once.
test: check
	$(PY) -m pytest -n auto --maxprocesses 8 --dist loadfile

check: $(STAMP) links
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/unit/test_imports.py

setup: $(STAMP) links

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Flowscout needs Python 3.11 or newer, and $(PYTHON) is {v[0]}.{v[1]}. Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@echo "Preparing .venv (once; a few minutes on a slow line) ..."
	@$(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $(STAMP)

# Type checkers, and machines where nothing can be installed, see the installed layout through links.
links:
	@mkdir -p .dev/flowscout
	@for entry in src/flowscout/*; do ln -sfn "../../$$entry" ".dev/flowscout/$${entry##*/}"; done
	@for room in loop surrogates db flows; do ln -sfn "../../$$room" ".dev/flowscout/$$room"; done

format: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	rm -rf .venv .dev build dist flowscout.egg-info src/flowscout.egg-info
