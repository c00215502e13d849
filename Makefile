# Tasks for contributors. None but `live` needs root; none but `live` and `deb` installs anything outside .cache/.
# Another interpreter, for example that of a venv: make unit PYTHON=python3

PYTHON ?= /usr/bin/python3
UNIT = tests/core tests/properties tests/settings tests/history tests/actions tests/doctor tests/cli tests/daemon \
    tests/test_architecture.py --ignore=tests/actions/test_events.py --ignore=tests/cli/test_events_command.py
T ?= $(UNIT)
SIDE_BY_SIDE = $(shell $(PYTHON) -c 'import xdist' 2>/dev/null && echo --numprocesses=auto)

.PHONY: help unit lint completions docs live deb

help:
	@echo "make unit    run the quick tests; one of them: make unit T=tests/core/test_policy.py"
	@echo "make lint    run ruff, mypy, import-linter, codespell, shellcheck, validate-pyproject and helm"
	@echo "make completions    generate share/completions after a change of the command line; run make lint once before"
	@echo "make docs    build the documentation and check its generated parts"
	@echo "make live    run the tests on the real kernel; needs root, and lowers nf_conntrack_max temporarily"
	@echo "make deb     build the Debian package, a wheel and an sdist into dist/; needs root to install build tools"

unit:
	$(PYTHON) -m pytest -q --hypothesis-profile=quick $(SIDE_BY_SIDE) $(T)

lint:
	PYTHON=$(PYTHON) scripts/lint

completions:
	PYTHON=.cache/linters/bin/python scripts/completions

docs:
	scripts/docs

live:
	scripts/test --live tests/live

deb:
	scripts/package
