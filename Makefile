# make demo | examples | test | test-skipped | test-all | fuzz | sanitize | arm | compat | compat-peers | docs | figures | bench | report | lint | format |
#   wheel | wheels | wheel-check | clean
# Everything is installed into $(VENV); nothing else is touched.
# make gpu-first | gpu | gpu-sanitize use $(GPU_PYTHON) as it is, with its torch, and install nothing.
# A machine that already has torch (and must keep it) needs no make: pip install --no-build-isolation --no-deps -e .
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	"$$p" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo "$$p" && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PINS := pyproject.toml requirements-dev.txt requirements-compat.txt
NATIVE := setup.py $(shell find csrc -type f)
CXX_FILES := $(shell find csrc -type f ! -name '*.map')

GPU_PYTHON ?= python3
PARTS ?= build test bench tune
OUT ?= build/gpu/out

EXAMPLES := $(filter-out examples/common.py,$(wildcard examples/*.py))
CUDA ?= 0
WHEELS := dist/$(if $(filter 1,$(CUDA)),cuda,cpu)

.PHONY: demo examples test test-skipped test-all fuzz compat compat-packages compat-peers docs docs-serve figures bench \
	report gpu gpu-first gpu-sanitize sanitize sanitize-memory sanitize-host sanitize-threads arm lint format wheel wheels \
	wheel-check clean $(EXAMPLES:%=run-%)
.DELETE_ON_ERROR:

demo: $(VENV)/.installed-demo
	$(BIN)/python -m contrastile demo

# each at small size; stops where one does not reach its margins
examples: $(EXAMPLES:%=run-%)

$(EXAMPLES:%=run-%): run-%: $(VENV)/.installed-examples
	@echo "== $*"; $(BIN)/python $*

# in the order of tests/conftest.py, long files first; reordered by their number of tests, these would come last
PYTEST = $(BIN)/python -m pytest --benchmark-disable -n auto --dist loadfile --no-loadscope-reorder

# every rule once; tests of packages that are not there are skipped
test: $(VENV)/.installed-dev $(VENV)/.installed-peers lint
	$(PYTEST)

# what make test skipped for packages that make compat-packages, docs or examples have brought since
test-skipped: $(VENV)/.installed-peers
	$(PYTEST) --skipped-before -rs

# every combination and every drop-in
test-all: compat-packages $(VENV)/.installed-docs lint
	$(PYTEST) --run-slow

# random calls of every loss against float64, the smallest that is wrong printed; 100,000 take half an hour of processor time
CASES ?= 100000
SEED ?= 0
fuzz: $(VENV)/.installed-dev
	PYTHONPATH=tests $(BIN)/python -m support.fuzz --cases $(CASES) --seed $(SEED)

# csrc with the sanitizers of addresses, of undefined behaviour and of threads, at small size; needs g++ on Linux
sanitize: sanitize-memory sanitize-host sanitize-threads

sanitize-memory sanitize-host sanitize-threads: sanitize-%: $(VENV)/.installed-dev
	$(BIN)/python tests/native/sanitize.py build/sanitize/$* $*

# the kernels of 64-bit ARM under an emulator; needs g++-aarch64-linux-gnu and qemu-user
arm: $(VENV)/.installed-dev
	$(BIN)/python tests/native/arm.py build/arm

# every drop-in against its package, the large ones (150 MB) included; once they are there, make test runs all of it
compat: compat-packages
	$(BIN)/python -m pytest tests/compat -n auto --dist loadfile

# the packages' own tests with the drop-ins in place. PEERS: a folder of checkouts of their repositories, or one of them
compat-peers: compat-packages
	PYTHONPATH=tests $(BIN)/python -m borrowed.check $(if $(PEERS),"$(PEERS)",$(error PEERS=folder of checkouts, see docs/dropins/README.md))

compat-packages: $(VENV)/.installed-peers $(VENV)/.installed-compat

# build/site; a warning is an error (with --quiet it would not be)
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-serve: $(VENV)/.installed-docs
	$(BIN)/python -m mkdocs serve

# docs/figures/*.svg anew
figures: $(VENV)/.installed-docs
	$(BIN)/python docs/figures/draw.py

# BENCH="--loss clip --peer open_clip --minutes 5" and other options: bench/conftest.py; a file that is there is added to.
# At most an hour, on one core; "--part 1/2" and "--part 2/2" side by side share it between two.
BENCH ?= --minutes 60
RESULTS ?= build/bench/cpu.jsonl
bench: $(VENV)/.installed-dev $(VENV)/.installed-peers
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-columns=median,rounds -p no:cacheprovider \
		--out "$(RESULTS)" $(BENCH)

# docs/benchmarks.md from bench/results
report: $(VENV)/.installed-dev
	$(BIN)/python bench/report.py

# the first five minutes on a GPU; DRY=1: all of it without one. STAGES="levers small": some; LIMITS="--seconds 500"
gpu-first:
	PYTHONPATH="bench/gpu$${PYTHONPATH:+:$$PYTHONPATH}" $(GPU_PYTHON) -m first --out "$(if $(DRY),build/gpu/dry,$(OUT))" $(if $(DRY),--dry) \
		$(LIMITS) $(STAGES)

# LIMITS="--limit test=400": seconds of a part
gpu:
	$(GPU_PYTHON) bench/gpu/run.py --out "$(OUT)" $(LIMITS) $(PARTS)

gpu-sanitize:
	$(GPU_PYTHON) bench/gpu/run.py --out "$(OUT)" $(LIMITS) build sanitize

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/mypy
	$(BIN)/python packaging/generate_modules.py --check
	$(BIN)/python docs/tools/papers_page.py --check

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CXX_FILES)

# The source distribution and the wheel built from it alone, checked, in dist/cpu or, with CUDA=1 (needs nvcc), in
# dist/cuda. Linux. See packaging/README.md.
wheel: export CONTRASTILE_CPU = 1
wheel: export CONTRASTILE_CUDA = $(CUDA)
wheel: export CONTRASTILE_CUDA_ARCHS = $(if $(filter 1,$(CUDA)),80;86;89;90;100;120)
wheel: export CONTRASTILE_OBJECTS = $(CURDIR)/build/wheel/objects
wheel: export PATH := $(abspath $(BIN)):$(PATH)
wheel: $(VENV)/.installed-packaging
	rm -rf build/wheel $(WHEELS)
	python -m build -o build/wheel .
	auditwheel repair --exclude libgomp.so.1 -w build/wheel/repaired build/wheel/*.whl
	python packaging/check_wheel.py build/wheel/repaired/*.whl --objects build/wheel/objects --archs "$$CONTRASTILE_CUDA_ARCHS"
	twine check --strict build/wheel/*.tar.gz build/wheel/repaired/*.whl
	mkdir -p $(WHEELS)
	cp build/wheel/*.tar.gz build/wheel/repaired/*.whl $(WHEELS)

# installs what make wheel left, in every way a user does, in an environment with torch alone
wheel-check: $(VENV)/.created
	$(BIN)/python packaging/check_install.py $(WHEELS)

# the same for several Pythons, in dist/cpu, without torch; their kernels are compiled once
PYTHONS ?= $(shell for v in 10 11 12 13 14; do command -v python3.$$v; done)
wheels:
	$(firstword $(PYTHONS)) packaging/wheels.py dist/cpu $(PYTHONS)

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

# pages are read from the source: nothing is compiled for them
$(VENV)/.installed-docs: export CONTRASTILE_CPU = 0
$(VENV)/.installed-docs: export CONTRASTILE_CUDA = 0
$(VENV)/.installed-docs: $(VENV)/.created requirements-docs.txt $(PINS)
	$(PIP) install -q --no-build-isolation -c requirements-dev.txt -c requirements-docs.txt -e '.[docs]'
	touch $@

$(VENV)/.installed-compat: $(VENV)/.installed-dev requirements-compat.txt
	$(PIP) install -q -c requirements-dev.txt -r requirements-compat.txt
	touch $@

$(VENV)/.installed-packaging: $(VENV)/.created packaging/requirements.txt
	$(PIP) install -q -r packaging/requirements.txt
	touch $@

# the packages tests/peers and tests/compat compare with, without their own dependencies (6 MB)
$(VENV)/.installed-peers: $(VENV)/.installed-dev requirements-peers.txt
	$(PIP) install -q --no-deps -r requirements-peers.txt
	touch $@

# the build requirements come first, because editable installs build in this environment; and torch, which tells whether
# a CUDA module is of any use
$(VENV)/.created: requirements-dev.txt
	$(if $(PYTHON),,$(error no Python >= 3.10 with venv and ensurepip found; set PYTHON))
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c requirements-dev.txt setuptools pybind11 torch
	touch $@
