# Everything a checkout needs, with nothing but Python 3.10 or newer and make. 'make help' lists it.

VENV   ?= .venv
OUT    ?= demo
PYTHON ?=

BIN       := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEV       := $(VENV)/.installed-dev
CHECKS    := lint format types imports files

export PIP_DISABLE_PIP_VERSION_CHECK = 1

# In a checkout that was moved, or whose Python is gone, installing is due again. Tools are started as modules,
# because their scripts hold the old place.
ifneq ($(wildcard $(INSTALLED) $(DEV)),)
ifneq ($(shell $(BIN)/python -c 'import ganvas; print(*ganvas.__path__)' 2>/dev/null),$(CURDIR)/src/ganvas)
$(shell rm -f $(INSTALLED) $(DEV))
endif
endif

.PHONY: demo test check clean help $(CHECKS)
.DEFAULT_GOAL := help

demo: $(INSTALLED)  ## train a small model on the emoji set, and show what it generates
	@$(BIN)/ganvas demo --out $(OUT)

test: $(DEV)  ## run the tests
	@$(BIN)/python -m pytest -q

check: $(DEV)  ## lint, formatting, types, layering, files; says all that is wrong, not only the first
	@$(MAKE) --keep-going --no-print-directory $(CHECKS)

clean:  ## remove the virtual environment, caches and built packages
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Removed $(VENV), caches and built packages."

help:  ## this list
	@awk -F':.*  ## ' '/^[a-z]+:.*  ## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "Options: PYTHON=python3.12 (which Python), VENV=.venv (where), OUT=demo (where the demo writes)."

# One line a check, its output only where it fails.
define run-check
@if out=$$($(2) 2>&1); then echo "ok      $(1)"; else echo "FAILED  $(1)"; echo "$$out"; exit 1; fi
endef

lint: $(DEV)
	$(call run-check,ruff check,$(BIN)/python -m ruff check)
format: $(DEV)
	$(call run-check,ruff format --check,$(BIN)/python -m ruff format --check)
types: $(DEV)
	$(call run-check,mypy,$(BIN)/python -m mypy)
imports: $(DEV)
	$(call run-check,lint-imports,$(BIN)/python -c 'from importlinter.cli import lint_imports_command as run; run()')
files: $(DEV)
	$(call run-check,tools/check_files.py,$(BIN)/python tools/check_files.py)

$(INSTALLED): pyproject.toml
	@sh tools/make_venv.sh "$(VENV)" "$(PYTHON)"
	@echo "Installing Ganvas into $(VENV) (PyTorch is large: a few minutes the first time)."
	@$(BIN)/python -m pip install --quiet --editable . || { echo "make: the installation failed, see above"; exit 1; }
	@touch $@

$(DEV): $(INSTALLED)
	@echo "Installing the development tools into $(VENV)."
	@$(BIN)/python -m pip install --quiet --editable '.[dev]' || { echo "make: the installation failed, see above"; exit 1; }
	@touch $@
