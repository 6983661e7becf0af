# make demo | examples | test | compat | bench | lint | format | wheel | clean
# Everything is installed into $(VENV); nothing else is touched.
# make gpu | gpu-sanitize use $(GPU_PYTHON) as it is, with its torch, and install nothing.
# A machine that already has torch (and must keep it) needs no make: pip install --no-build-isolation --no-deps -e .
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	"$$p" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo "$$p" && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PINS := pyproject.toml requirements-dev.txt requirements-compat.txt
NATIVE := setup.py $(shell find csrc -type f)

GPU_PYTHON ?= python3
PARTS ?= build test bench
OUT ?= build/gpu/out

EXAMPLES := $(filter-out examples/common.py,$(wildcard examples/*.py))

.PHONY: demo examples test compat compat-packages bench gpu gpu-sanitize lint format wheel clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed-demo
	$(BIN)/python -m contrastile demo

# each at small size, one after the other; stops where one does not reach its margins
examples: $(VENV)/.installed-examples
	@for example in $(EXAMPLES); do echo "== $$example"; $(BIN)/python $$example || exit 1; done

test: $(VENV)/.installed-dev $(VENV)/.installed-peers lint
	$(BIN)/python -m pytest --benchmark-disable -n auto --dist loadfile

# every drop-in against its package, the large ones (150 MB) included; once they are there, make test runs all of it
compat: compat-packages
	$(BIN)/python -m pytest tests/compat -n auto --dist loadfile

compat-packages: $(VENV)/.installed-peers $(VENV)/.installed-compat

bench: $(VENV)/.installed-dev
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-sort=name --benchmark-group-by=group \
		--benchmark-columns=min,median,stddev,rounds

# LIMITS="--limit test=400": seconds of a part
gpu:
	$(GPU_PYTHON) bench/gpu/run.py --out "$(OUT)" $(LIMITS) $(PARTS)

gpu-sanitize:
	$(GPU_PYTHON) bench/gpu/run.py --out "$(OUT)" $(LIMITS) build sanitize

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

wheel: $(VENV)/.created
	rm -rf build/lib* build/bdist*
	$(PIP) wheel --no-deps -w dist .

# the environment stays; the next make reinstalls the package into it
clean:
	rm -rf build dist python/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	rm -f python/contrastile/*.so $(VENV)/.installed-*
	find python triton_kernels tests bench -name __pycache__ -prune -exec rm -rf {} +

# where the native CPU module cannot be built, the demo runs without it, but development stops
$(VENV)/.installed-dev: export CONTRASTILE_CPU = 1

# editable: Python files are used in place; a change below csrc or to the pins reinstalls (unchanged objects are kept)
$(VENV)/.installed-%: $(VENV)/.created $(PINS) $(NATIVE)
	$(PIP) install -q --no-build-isolation -c requirements-dev.txt -c requirements-compat.txt -e '.[$*]'
	touch $@

$(VENV)/.installed-compat: $(VENV)/.installed-dev requirements-compat.txt
	$(PIP) install -q -c requirements-dev.txt -r requirements-compat.txt
	touch $@

# the packages tests/peers and tests/compat compare with, without their own dependencies (2 MB)
$(VENV)/.installed-peers: $(VENV)/.installed-dev requirements-peers.txt
	$(PIP) install -q --no-deps -r requirements-peers.txt
	touch $@

# the build requirements come first, because editable installs build in this environment
$(VENV)/.created: requirements-dev.txt
	$(if $(PYTHON),,$(error no Python >= 3.10 with venv and ensurepip found; set PYTHON))
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c requirements-dev.txt setuptools pybind11
	touch $@
