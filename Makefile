# `make demo` and `make test` are all a new machine needs; both create .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where torch is pinned: the newest build the project is tested with.
TORCH := torch==2.14.1 torchvision==0.29.1

export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: install oracle reference demo docs browser test lint test-long test-slurm test-faults \
	test-lowest test-package clean

install: $(BIN)/.installed

$(BIN)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) -e '.[dev]'
	touch $@

reference: install
	python -m mobile_sam schema

demo: install
	snakemake --cores all --config run=distill_then_finetune overlay=demo

# The documentation as a site in site/, to be opened from there; a warning is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict
	@echo site/index.html

lint: install
	ruff format --check .
	ruff check .
	mypy
	lint-imports
	snakefmt --check Snakefile workflow

# The original code, to compare with; it is imported in processes of its own only.
oracle: install
	test -d $(VENV)/oracle/lvis || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target $(VENV)/oracle mobilesam-mirror==1.0.0 segment-anything-py==1.0.1 lvis==0.5.3

# For the tests of pages; without a browser they are skipped. Needs a Debian, and to be root.
browser:
	command -v chromium || command -v chromium-browser || command -v google-chrome || \
		{ apt-get update -qq && apt-get install -qq --no-install-recommends chromium; }

# Tests of pages come last, one by one: a browser needs the machine for itself to be in time.
test: lint oracle
	pytest
	pytest -m browser -n 0

test-long: install
	pytest -m long

# A real SLURM, started and stopped by the tests. Needs a Debian, and to be root.
test-slurm: install
	PATH=$$PATH:/usr/sbin; command -v slurmctld && command -v munged || \
		{ apt-get update -qq && apt-get install -qq --no-install-recommends slurm-wlm munge; }
	pytest -m slurm -n 0 tests/slurm

# The lowest versions that the bounds allow, but for torch; without the extras: that for SLURM and
# that of the app ask for higher ones.
LOWEST := $(VENV)/lowest
OF_EXTRAS := test_cluster.py app docs inference/onnx packaging
test-lowest: oracle
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	python -m tests.lowest > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH) -e . \
		pytest pytest-xdist hypothesis scikit-image playwright shtab -c $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pytest $(addprefix --ignore tests/,$(OF_EXTRAS))

# The wheel in an environment of its own; the images, where Docker runs.
test-package: install
	pytest -m package -n 0 tests/packaging

# Kills, full disks, too little memory. Disks are mounted, which takes root; else these are skipped.
test-faults: install
	pytest -m faults -n 0 tests/faults

clean:
	rm -rf $(VENV) .snakemake
