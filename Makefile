# Everything sets itself up: virtual environment, dependencies, build, model. The second run does only what is new.
#   make demo    live captions of real speech over a real NATS server, on this machine
#   make bench   the real-time factor of this machine
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
SOURCES = pyproject.toml CMakeLists.txt $(wildcard csrc/*) $(wildcard vendor/whisper.cpp/*.* vendor/whisper.cpp/patches/*) \
          $(shell find src -type f -not -name '*.pyc')

.PHONY: demo test bench lint asan tsan clean
.DELETE_ON_ERROR:

demo: .make/demo
	$(BIN)/transcriber models pull base
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo.sh

test: .make/dev
	$(BIN)/transcriber models pull base
	$(BIN)/python -m pytest

bench: .make/dev
	$(BIN)/transcriber models pull base
	$(BIN)/python -m pytest bench/bench_rtf.py

lint: .make/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

asan tsan:
	$(MAKE) -C tests/c $@

clean:
	rm -rf .make build dist $(VENV) vendor/whisper.cpp/tree

# --- set-up --------------------------------------------------------------------------------------------------------------

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "transcriber needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

# The build tools are installed once and not per build, so that the compiler's results stay valid from one build to the next.
# setuptools and wheel are for nkeys, a dependency that comes as source only.
.make/tools: pyproject.toml | $(BIN)/python
	@echo "==> build tools"
	$(BIN)/pip install -q --upgrade "pip>=24.1" scikit-build-core cython cython-cmake cmake ninja setuptools wheel
	@mkdir -p .make && touch $@

.make/demo: EXTRAS = embedded
.make/dev: EXTRAS = test,bench
.make/demo .make/dev: $(SOURCES) | .make/tools
	@echo "==> dependencies and build (whisper.cpp compiles for some minutes the first time)"
	$(BIN)/pip install -q --no-build-isolation --config-settings=cmake.define.TRANSCRIBER_WERROR=ON ".[$(EXTRAS)]"
	@touch $@
