# Two commands: `make demo` needs the base install only, `make test` everything. Each makes its own environment from the
# locked, hashed lists in requirements/, so that a clone installs the same bytes for ever. `make lock` renews them.
PYTHON ?= python3
DEMO := .venv-demo
DEV := .venv
NEWEST := .venv-newest

.PHONY: demo test check docs coverage newest lock format bench results clean

demo: $(DEMO)/installed
	@$(DEMO)/bin/flexiast demo

test: $(DEV)/installed
	$(MAKE) check PYTHON=$(DEV)/bin/python

# What a change must pass, with whatever environment $(PYTHON) belongs to.
check:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(dir $(PYTHON))lint-imports
	$(MAKE) docs
	$(PYTHON) -m pytest

# The site, in build/docs: a broken link or reference fails, and so does a long line. Prints how the pages read.
docs: $(DEV)/installed
	$(DEV)/bin/python scripts/docs_words.py docs
	$(DEV)/bin/python -m sphinx -q -b html -W -n --keep-going docs build/docs
	@echo "The site is in build/docs/index.html"

# Not part of `check`: measuring coverage more than doubles the suite's time.
coverage: $(DEV)/installed
	$(DEV)/bin/python -m pytest --cov --cov-report=term

# The suite on the newest of everything, torch included: not a gate, but what it finds goes into the changelog.
newest:
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/pip install --upgrade --upgrade-strategy eager --editable '.[dev]'
	$(NEWEST)/bin/pip install --upgrade torch torchaudio  # says that pyproject.toml names an older pair; that is the point
	$(NEWEST)/bin/python -m pytest

LOCK = $(DEV)/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command 'make lock' --group pyproject.toml:build pyproject.toml

lock: $(DEV)/installed
	$(LOCK) $(LOCK_FLAGS) --output-file requirements/base.txt
	$(LOCK) $(LOCK_FLAGS) --extra dev --output-file requirements/dev.txt

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
	rm -rf $(DEMO) $(DEV) $(NEWEST) build dist

# Hashes are checked, and flexiast itself is built by the locked hatchling: nothing unpinned is ever downloaded.
$(DEMO)/installed: requirements/base.txt pyproject.toml
	@echo 'Installing the base (about 50 MB to download, 200 MB on disk) into $(DEMO) ...'
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/base.txt
	$(DEMO)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV)/installed: requirements/dev.txt pyproject.toml
	@echo 'Installing torch and the tools (about 2.7 GB to download, 4.7 GB on disk; minutes) into $(DEV) ...'
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/pip install --disable-pip-version-check --require-hashes --requirement requirements/dev.txt
	$(DEV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
