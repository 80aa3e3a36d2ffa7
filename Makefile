# Each target is one line of real work; the environment is .venv. `touch` keeps .venv newer than what it was built from.
PYTHON ?= python3.11
RUN := .venv/bin/
# Tests start hundreds of processes: the second of each finds its modules compiled.
unexport PYTHONDONTWRITEBYTECODE

.venv: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv && $(RUN)pip install -q -c constraints.txt -e '.[examples,dev]' && touch .venv

demo: .venv
	$(RUN)python -m examples.flights

test: check
	$(RUN)pytest -q -n 2 --dist worksteal -m 'slow and not ray' && $(RUN)pytest -q -n 2 --dist worksteal -m 'ray and not soak and not alone' && $(RUN)pytest -q -m 'alone and not soak'

check: .venv
	$(RUN)ruff check . && $(RUN)ruff format --check . && $(RUN)mypy && $(RUN)lint-imports && $(RUN)pytest -q -n 2 --dist worksteal --ignore=tests/ray --durations=3 --durations-min=1 -m 'not ray and not slow'

soak: .venv
	$(RUN)pytest -q -m soak

ray: .venv
	$(RUN)pytest -q -n 2 --dist worksteal -m 'ray and not alone' && $(RUN)pytest -q -m alone

bench: .venv
	for name in $$(ls benchmarks/*.py | xargs -n1 basename | sed 's/\.py//' | grep -v '^_'); do $(RUN)python -m benchmarks.$$name || exit 1; done

docs: .venv
	$(RUN)pytest -q tests/test_docs.py

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: demo test check soak ray bench docs clean
