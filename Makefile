# simplicit: `make demo` shows what it does, `make test` checks everything. Both build .venv first.
PYTHON ?= python3
# Tests run in so many processes.
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed
DOCS := .venv/.docs
PEERS := benchmarks/peers/.venv
CENSUS := benchmarks/networks/.venv

.PHONY: demo test test-slow format docs bench peers census-env clean help

help: ## this list
	@awk -F ':.*## ' '/^[a-z.-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv: $(STAMP)

# pip before 25.1 knows no dependency groups. The constraints hold torch at the build that is tested; they go in by
# environment too, so that isolated builds see them.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[report]' --group dev
	touch $@

demo: $(STAMP) ## train, sparsify and measure a network on digits; writes demo/ (half a minute on two cores)
	$(BIN)/simplicit demo --output demo --overwrite

test: $(STAMP) ## lint, types and tests, but those of test-slow
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# mypy keeps one core busy for a minute: it runs beside the tests, and says after them what it found.
	$(BIN)/mypy >.venv/mypy.txt 2>&1 & types=$$!; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile; tests=$$?; \
	wait $$types; types=$$?; cat .venv/mypy.txt; exit $$((tests | types))

test-slow: $(STAMP) ## the tests that take their time: killed workers and runs, clusters, real attacks and data, studies
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --numprocesses $(WORKERS) --dist worksteal

format: $(STAMP) ## put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DOCS) ## the pages in docs/ as a site, build/docs/index.html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

$(DOCS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --group docs
	touch $@

bench: $(STAMP) $(PEERS)/.installed ## all figures of the row solver, peers included (hours; see benchmarks/README.md)
	$(BIN)/python benchmarks/row_solver.py all

peers: $(PEERS)/.installed ## install the solvers that the benchmarks compare with, in an environment of their own

$(PEERS)/.installed: benchmarks/peers/requirements.txt constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r benchmarks/peers/requirements.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps torchidl==0.0.4
	touch $@

census-env: $(CENSUS)/.installed ## install the networks that the census asks, in an environment of their own

# What the packages of networks want beside them is not installed: it is old, and not what is asked.
$(CENSUS)/.installed: benchmarks/networks/requirements.txt benchmarks/networks/wheels.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(CENSUS)
	$(CENSUS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . -r benchmarks/networks/requirements.txt
	$(CENSUS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/networks/wheels.txt
	touch $@

clean: ## remove the environment and what the tools left
	rm -rf .venv build/docs $(PEERS) $(CENSUS) .mypy_cache .ruff_cache .pytest_cache .hypothesis demo
