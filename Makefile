# `make demo` and `make test` are the two commands of the README. They need Python >= 3.11, make and a package index, no more:
# the environment is made in .venv on the first call, and made anew only when pyproject.toml or constraints.txt change.

# the first of these that is new enough makes the environment; PYTHON=/path/to/python3 names one
PYTHONS := $(if $(PYTHON),"$(PYTHON)",python3 python3.14 python3.13 python3.12 python3.11)
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
PIP := PYTHONUNBUFFERED=1 $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt
# pip's progress, large packages only: a silent download of gigabytes looks like a hang. Its errors are not filtered.
LARGE := sed -n -e 's/^ *Downloading \([^ ]*\)-[0-9].* (\([0-9.]* [MG]B\)).*/  downloading \1, \2/p' -e 's/^Installing collected packages.*/  unpacking/p'

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test test-interop lint clean clean-all
.SUFFIXES:

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: install ## train on the embedded images, compare, and open the report: about 4 minutes (ARGS="--help" for its options)
	$(BIN)/python -m aib demo $(ARGS)

test: lint ## style, types and tests: under 5 minutes on two cores (ARGS="tests/test_anchors.py" for some of them)
	$(BIN)/python -m pytest $(or $(ARGS),-n 2 --dist loadfile)

test-interop: install-dev ## the adapters against pytorch-grad-cam and quantus themselves
	$(PIP) -e '.[dev,interop]' | $(LARGE)
	$(BIN)/python -m pytest tests/test_adapters.py

lint: install-dev ## style and types only
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

install: $(VENV)/.installed ## make the environment and install aib into it
install-dev: $(VENV)/.installed-dev ## the same, with what the tests need

clean: ## remove caches and build products; runs/ and data/ stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-all: clean ## remove the environment too
	rm -rf $(VENV)

# pip is the last thing that venv makes: an environment left half-made is made again
$(BIN)/pip:
	@for python in $(PYTHONS); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "making $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv "$(VENV)" && exit 0; \
	    echo "$$python cannot make an environment (Debian and Ubuntu keep that apart: apt install python3-venv)" >&2; exit 1; \
	  fi; \
	  tried="$$tried, $$python$$("$$python" --version 2>/dev/null | sed -n '1s/.*/ (&)/p')"; \
	done; \
	echo "aib needs Python 3.11 or newer; tried $${tried#, }. Name one: make PYTHON=/path/to/python3" >&2; exit 1

# .failed carries pip's failure past the filter, which a plain sh would forget
define install_it
	@echo "installing $(1) into $(VENV), the first time 2 minutes or more; on Linux torch takes 3 GB to download and 6 GB of disk"
	@rm -f $(VENV)/.failed
	@{ $(PIP) -e '$(2)' || touch $(VENV)/.failed; } | $(LARGE)
	@test ! -e $(VENV)/.failed
	@touch $(3)
endef

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	$(call install_it,aib,.,$@)

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(call install_it,aib and its test tools,.[dev],$@ $(VENV)/.installed)
