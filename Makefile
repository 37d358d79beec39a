# make run    environment, then the whole workflow on config.yaml
# make env    the environment only, in .venv
# make test   the environment with the test tools, then the tests that land with a change: at most
#             12 minutes on two cores, TEST_PROCESSES files at a time
# make test-all  all tests: those marked `long`, and `demo`, which runs the whole demo, as well
# make docs   the documentation, in build/site
# make kills  kill workflow runs at KILLS random moments, resume them, and compare the results
# make fuzz   the fuzz tests with many new examples (FUZZ_EXAMPLES=10000 per test)
# make audit  look up the locked packages in databases of known vulnerabilities
# make lock   resolve requirements.lock and requirements-test.lock again
#
# TORCH chooses the build of torch. The default is what the package index offers for this machine;
# for another CUDA version, or without CUDA, give a build and its index, for example
#   make run TORCH="torch==2.13.0+cu130 --extra-index-url https://download.pytorch.org/whl/cu130"
# (To change it later, run make clean-env first.)

PYTHON ?= python3
TORCH ?= torch==2.13.0
CORES ?= all
SNAKEMAKE_ARGS ?=
TEST_PROCESSES ?= 2
KILLS ?= 200
FUZZ_EXAMPLES ?= 2000
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Snakemake needs a folder for its cache, and a name for the user, which containers may lack
ifeq ($(or $(XDG_CACHE_HOME),$(shell test -d "$$HOME" && test -w "$$HOME" && echo yes)),)
export XDG_CACHE_HOME := $(CURDIR)/$(VENV)/cache
endif
export USER ?= user

.PHONY: run env test test-all docs kills fuzz audit lock clean-env

run: env
	PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --cores $(CORES) $(SNAKEMAKE_ARGS)

env: $(VENV)/.installed

PYTEST = PATH="$(CURDIR)/$(BIN):$$PATH" python -m pytest -n $(TEST_PROCESSES) --dist loadfile \
	  --no-loadscope-reorder

test: $(VENV)/.installed-test
	$(PYTEST) -m "not long and not demo" $(PYTEST_ARGS)

test-all: $(VENV)/.installed-test
	$(PYTEST) $(PYTEST_ARGS)

docs: $(VENV)/.installed-test
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m mkdocs build --strict

kills: $(VENV)/.installed-test
	PATH="$(CURDIR)/$(BIN):$$PATH" KILLS=$(KILLS) python -m pytest -s tests/faults/test_kills.py

fuzz: $(VENV)/.installed-test
	PATH="$(CURDIR)/$(BIN):$$PATH" HYPOTHESIS_PROFILE=long FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) \
	  python -m pytest tests/faults -k fuzz --show-capture=no --hypothesis-show-statistics $(PYTEST_ARGS)

# --strict: a package that no database knows is a failure
audit: $(VENV)/.installed
	$(PIP) install pip-audit
	$(BIN)/python -m pip_audit --strict --disable-pip --no-deps -r requirements.lock
	$(BIN)/python -m pip_audit --strict --disable-pip --no-deps -r requirements-test.lock

# torch first and by itself: the other packages use whichever build is installed
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; name one with PYTHON=")'
	@echo "Installing into $(VENV): 2 GB of disk, several more if torch includes CUDA; takes a minute or two"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH)
	$(PIP) install -r requirements.lock
	$(PIP) install --no-deps -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.lock
	$(PIP) install -r requirements-test.lock
	touch $@

# plain version lists, so that the files name no package index; TORCH selects torch, and with it the
# dependencies of its CUDA builds
UNLOCKED := grep -viE '^(torch=|triton|nvidia-|cuda-)'
FREEZE := .venv-lock/bin/pip freeze --exclude-editable | $(UNLOCKED)

lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet $(TORCH)
	.venv-lock/bin/pip install --quiet -e ".[workflow]"
	$(FREEZE) > requirements.lock
	.venv-lock/bin/pip install --quiet -e ".[workflow,s3,onnx,test,docs]"
	$(FREEZE) | grep -vxFf requirements.lock > requirements-test.lock
	rm -rf .venv-lock

clean-env:
	rm -rf $(VENV)
