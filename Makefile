# Two commands: `make demo` needs the base install only, `make test` everything. Each makes its own environment.
PYTHON ?= python3
DEMO := .venv-demo
DEV := .venv
PIP_FLAGS := --quiet --disable-pip-version-check
# Tests and trainings are small: a second thread costs more than it brings and disturbs whatever else runs.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test format bench results clean

demo: $(DEMO)/installed
	@$(DEMO)/bin/flexiast demo

test: $(DEV)/installed
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/ruff check .
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports
	$(DEV)/bin/python -m pytest --cov --cov-report=term

format: $(DEV)/installed
	$(DEV)/bin/ruff format .
	$(DEV)/bin/ruff check --fix .

bench: $(DEV)/installed
	$(DEV)/bin/python -m benchmarks.frontend
	$(DEV)/bin/python -m benchmarks.engines
	$(DEV)/bin/python -m benchmarks.throughput
	$(DEV)/bin/python -m benchmarks.export
	$(DEV)/bin/python -m benchmarks.startup
	$(DEV)/bin/python -m benchmarks.training
	$(DEV)/bin/python -m benchmarks.governor --quick

results: $(DEV)/installed
	$(DEV)/bin/python -m benchmarks.evidence report

clean:
	rm -rf $(DEMO) $(DEV) build dist

$(DEMO)/installed: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install $(PIP_FLAGS) --editable .
	@touch $@

$(DEV)/installed: pyproject.toml
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/pip install $(PIP_FLAGS) --editable '.[dev]'
	@touch $@
