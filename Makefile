# `make demo` and `make test` are all a new machine needs; both create .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where torch is pinned: the newest build the project is tested with.
TORCH := torch==2.14.1 torchvision==0.29.1

export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: install oracle reference rule-graph demo docs browser test lint test-long test-fuzz test-slurm test-faults \
	test-lowest test-newest test-package test-gpu lock clean

install: $(BIN)/.installed

$(BIN)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) -e '.[dev]'
	touch $@

reference: install
	python -m mobile_sam schema

rule-graph: install
	python docs/building/rule_graph.py docs/images/rules.svg

demo: install
	snakemake --cores all --config run=distill_then_finetune overlay=demo

# The documentation as a site in site/, to be opened from there; a warning is an error.
docs: install
	python docs/building/pages.py build/docs
	zensical build --strict
	@echo site/index.html

lint: install
	ruff format --check .
	ruff check .
	mypy
	lint-imports
	codespell
	snakefmt --check Snakefile workflow

# The original code, to compare with; it is imported in processes of its own only.
oracle: install
	test -d $(VENV)/oracle/lvis || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target $(VENV)/oracle mobilesam-mirror==1.0.0 segment-anything-py==1.0.1 lvis==0.5.3

# For the tests of pages; without a browser they are skipped. Needs a Debian, and to be root.
browser:
	command -v chromium || command -v chromium-browser || command -v google-chrome || \
		{ apt-get update -qq && apt-get install -qq --no-install-recommends chromium; }

# The share of the package's lines that ran, in percent, stands after the tests; without those that
# ran in other processes. Tests of pages come last, one by one: a browser needs the machine for itself to be in time.
test: lint oracle
	pytest --durations=10 --cov --cov-report=
	coverage report --format=total
	pytest -m browser -n 0 --durations=10

test-long: install
	pytest -m long

# Mutated annotations and masks, 50,000 of them with another seed each time; some ten minutes.
test-fuzz: install
	MOBILE_SAM_FUZZ_EXAMPLES=50000 pytest -n 2 --dist load tests/data/test_fuzz.py

# A real SLURM, started and stopped by the tests. Needs a Debian, and to be root. REPEAT=10: ten times
# in a row, to the first failure.
REPEAT ?= 1
test-slurm: install
	PATH=$$PATH:/usr/sbin; command -v slurmctld && command -v munged || \
		{ apt-get update -qq && apt-get install -qq --no-install-recommends slurm-wlm munge; }
	for run in $$(seq $(REPEAT)); do pytest -m slurm -n 0 tests/slurm || exit 1; done

# The lowest versions that the bounds allow, but for torch; without the extras: that for SLURM and
# that of the app ask for higher ones. What they warn of is known: newer versions are there.
LOWEST := $(VENV)/lowest
OF_EXTRAS := pipeline/test_resources.py app docs export packaging
test-lowest: oracle
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	python -m tests.lowest > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH) -e . \
		pytest pytest-xdist pytest-timeout hypothesis hotcoco scikit-image playwright shtab -c $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pytest -W default $(addprefix --ignore tests/,$(OF_EXTRAS))

# The same tests with the newest Python that the dependencies support, in an environment of its own.
NEWEST_PYTHON ?= python3.13
NEWEST := $(VENV)/newest
$(NEWEST)/.installed: pyproject.toml
	test -x $(NEWEST)/bin/python || $(NEWEST_PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH) -e '.[dev]'
	touch $@
test-newest: oracle $(NEWEST)/.installed
	PATH=$(CURDIR)/$(NEWEST)/bin:$$PATH $(NEWEST)/bin/python -m pytest

# The versions that the tests were run with, as constraints for pip (docs/versioning.md).
lock: install $(NEWEST)/.installed
	for python in $(BIN)/python $(NEWEST)/bin/python; do $$python requirements/lock.py $(TORCH) || exit 1; done

# The wheel in an environment of its own; the images, where Docker runs.
test-package: install
	pytest -m package -n 0 tests/packaging

# Kills, full disks, too little memory. Disks are mounted, which takes root; else these are skipped.
test-faults: install
	pytest -m faults -n 0 tests/faults

# What one GPU does, in at most eight minutes; without one, tiny sizes on the CPU.
test-gpu: install
	python benchmarks/gpu.py

clean:
	rm -rf $(VENV) .snakemake
