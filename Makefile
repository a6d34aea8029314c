# The one entry point of a developer and of CI. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCKS := requirements.txt requirements-dev.txt requirements-node.txt

# A shell expression: the first interpreter that is Python 3.11 or newer.
FIND_PYTHON = for p in $(PYTHON) python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; \
	done || true
# True when node >= 20 is on PATH.
HAS_NODE = node -e 'process.exitCode = parseInt(process.versions.node) >= 20 ? 0 : 1' 2>/dev/null

say = printf '\033[1m==> %s\033[0m\n' "$(1)"
fail = { printf '\033[31m==> %s\033[0m\n' "$(1)" >&2; exit 1; }

.PHONY: help install check audit licences sbom format test demo run soak bench-restore bench-status bench-snapshot bench-events fuzz lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | \
		while IFS=$$'\t' read -r name text; do printf '  make %-15s %s\n' "$$name" "$$text"; done

install: $(STAMP) ## make .venv with everything pinned in requirements*.txt

$(STAMP): $(LOCKS)
	@python=$$($(FIND_PYTHON)); \
	[ -n "$$python" ] || $(call fail,No Python 3.11 or newer found. Install one or run: make install PYTHON=/path/to/python3.11); \
	$(call say,1/4 virtual environment in $(VENV) ($$("$$python" --version))); \
	"$$python" -m venv $(VENV) || $(call fail,Could not make $(VENV). On Debian and Ubuntu: apt install python3-venv. Then run make install again.)
	@$(call say,2/4 Python packages (about a minute the first time)); \
	$(BIN)/python -m pip install --require-hashes -r requirements.txt -r requirements-dev.txt \
		|| $(call fail,Packages could not be installed. Look at the last lines above: behind a proxy set HTTPS_PROXY or the index that pip uses. Then run make install again.)
	@if $(HAS_NODE); then $(call say,3/4 node $$(node --version) is on PATH); else \
	$(call say,3/4 no node >= 20 on PATH: taking it from PyPI); \
	$(BIN)/python -m pip install --require-hashes -r requirements-node.txt \
		|| $(call fail,Node could not be installed. Put node >= 20 on PATH or mend the network. Then run make install again.); fi
	@$(call say,4/4 making this checkout importable); \
	echo "$(CURDIR)" > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/crm_whatsapp.pth"; \
	touch $@; $(call say,installed)

check: install ## lint, format, types, layers, and known holes where they can be asked for
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/audit.py --where-reachable --proof-seconds 7

audit: install ## known holes in what is locked; fails when nobody can be asked
	@exec $(BIN)/python scripts/audit.py $(ARGS)

licences: install ## whether docs/licences.md is true; ARGS=--write makes it so
	@exec $(BIN)/python scripts/licences.py $(ARGS)

sbom: install ## everything that is locked, as CycloneDX, in build/
	@exec $(BIN)/python scripts/sbom.py $(ARGS)

format: install ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: install ## all tests but the soak: many at once, then those that need the machine alone
	$(BIN)/python scripts/run_tests.py $(ARGS)

soak: install ## the long test
	$(BIN)/python -m pytest -m soak $(ARGS)

demo: install ## the whole product on this machine, with a phone to play with
	@exec $(BIN)/python scripts/demo.py $(ARGS)

run: install ## the service alone, with the settings of the environment
	@exec $(BIN)/python scripts/run.py $(ARGS)

bench-restore: install ## how long 100 and 300 sessions take to come back, and their memory
	@exec $(BIN)/python scripts/bench_restore.py $(ARGS)

bench-status: install ## latency and throughput of the status poll
	@exec $(BIN)/python scripts/bench_status.py $(ARGS)

bench-snapshot: install ## what snapshots cost: CPU, bytes, time at a restore, idle writes
	@exec $(BIN)/python scripts/bench_snapshot.py $(ARGS)

bench-events: install ## how soon rows, streams and webhooks hear; database calls of an idle hour
	@exec $(BIN)/python scripts/bench_events.py $(ARGS)

access-matrix: install ## who may call what: every route, tried with every kind of credential
	@exec env PYTHONPATH=. $(BIN)/python scripts/access_matrix.py $(ARGS)

fuzz: install ## 10,000 requests made from the OpenAPI document, and whether the answers are as it says
	@exec $(BIN)/python scripts/fuzz_api.py $(ARGS)

lock: install ## compile requirements*.in to pinned, hashed requirements*.txt
	@for name in requirements requirements-dev requirements-node; do \
		$(call say,$$name.txt); \
		$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
			--no-header --no-emit-index-url --output-file "$$name.txt" "$$name.in"; \
	done

clean: ## remove .venv, caches and installed node packages
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find scripts tests crm_whatsapp -name __pycache__ -type d -prune -exec rm -rf {} +
	find scripts tests -name node_modules -type d -prune -exec rm -rf {} +
