# Development tasks; `make help` lists them.

PYTHON ?= python3
VENV ?= .venv
NVCC ?= $(firstword $(wildcard /usr/local/cuda/bin/nvcc))
SAMPLE := edgepose/samples/astronaut
SOURCE ?= $(SAMPLE).jpg
OUT ?= out
# Of TensorRT pip has the libraries of 8.6.0 alone, for Python 3.10; pycuda is built with this CUDA.
PYTHON310 ?= python3.10
TRT_VENV ?= .venv-trt
CUDA_HOME ?= /usr/local/cuda
# The CPU build by its full name, so that a build with CUDA of several gigabytes never comes unasked.
TORCH ?= torch==2.13.0+cpu
FRAMES ?= 100000
# Arguments for pytest, for instance PYTEST="-k kernels".
PYTEST ?=
# A choice may leave a part without tests.
NONE = $(if $(PYTEST),|| [ $$? = 5 ])
# Parts of the suite at a time; their output then comes when a part is done.
JOBS ?= 1

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CPP := $(shell find csrc tests/emulation -name '*.[ch]pp' -o -name '*.cu' -o -name '*.h')
CMAKE_INPUTS := CMakeLists.txt $(shell find csrc -name '*.cmake')
BUILD_INPUTS := pyproject.toml setup.py $(CMAKE_INPUTS) $(shell find csrc -type f)
# The emulated CUDA module, which has the sanitizers, and what a process needs to load it.
EMULATION := build/emulation
SANITIZED = LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
  ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=print_stacktrace=1

# The packaged photo shows half of a person; its box says where the whole one would be.
BOXES := $(if $(filter $(SAMPLE).jpg,$(SOURCE)),--boxes $(SAMPLE).json)

.PHONY: help demo test test-runtime test-emulated test-training test-slow test-matrix test-tensorrt smoke lint cuda gpu bench bench-training soak docs docs-serve readme clean
.DELETE_ON_ERROR:

help:  ## list the tasks
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.demo  ## poses on the packaged photo, or on SOURCE=my.jpg; the picture goes to out/
	@$(BIN)/edgepose predict "$(SOURCE)" $(BOXES) --output "$(OUT)/"

# Three processes, JOBS of them at a time. The CUDA kernels and all that runs on them, emulated under the sanitizers,
# with the threads of a block in another order than they come in. Training: PyTorch's threads next to those of the
# runtimes have crashed it once.
test: $(VENV)/.test $(VENV)/.browser $(EMULATION)/.built  ## the whole suite; JOBS=2 runs its parts side by side
	@$(MAKE) --no-print-directory -j$(JOBS) $(if $(filter-out 1,$(JOBS)),--output-sync=target) \
	  test-runtime test-emulated test-training

test-runtime:
	$(BIN)/python -m pytest -m "not slow" --ignore tests/training --ignore tests/gpu $(PYTEST) $(NONE)

test-emulated:
	$(SANITIZED) EDGEPOSE_EMULATION=$(EMULATION) EMULATION_ORDER=reverse \
	  $(BIN)/python -m pytest -m "not slow" tests/kernels tests/gpu $(PYTEST) $(NONE)

test-training:
	$(BIN)/python -m pytest -m "not slow" tests/training $(PYTEST) $(NONE)

test-slow: $(VENV)/.test  ## the exhaustive checks
	$(BIN)/python -m pytest -m slow --timeout 3600 $(PYTEST)

test-matrix: $(VENV)/.test  ## installs in clean environments: Python, numpy, OpenCV, with and without a compiler
	$(BIN)/python tests/packaging/matrix.py

test-tensorrt: $(TRT_VENV)/.ready  ## TensorRT's own package without a GPU (x86; downloads some 2 GB, needs PYTHON310)
	env STUB="$(abspath $(TRT_VENV))/stub" PYTHONPATH=. $(TRT_VENV)/bin/python -m pytest -c /dev/null \
	  --rootdir . -p no:cacheprovider tests/tensorrt_real $(PYTEST)

smoke: $(VENV)/.test  ## a fresh clone's demo, and the wheel in a clean environment
	$(BIN)/python tests/packaging/smoke.py

lint: $(VENV)/.test  ## ruff, mypy, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)

cuda: $(VENV)/.test  ## compile the CUDA kernels for all architectures, warnings as errors; needs nvcc, no GPU
	$(BIN)/cmake -S . -B build/cuda -G Ninja -DPython_EXECUTABLE=$(abspath $(BIN))/python \
	  -DEDGEPOSE_CUDA=ON -DEDGEPOSE_DEV=ON $(if $(NVCC),-DCMAKE_CUDA_COMPILER=$(NVCC))
	$(BIN)/cmake --build build/cuda --target _cuda

gpu: $(VENV)/.test  ## on an NVIDIA GPU: build the kernels for it, test them, and once more under compute-sanitizer
	EDGEPOSE_CUDA=on CMAKE_ARGS=-DEDGEPOSE_CUDA_ARCHITECTURES=native $(PIP) install --quiet --editable .
	$(BIN)/python -m pytest tests/kernels -k cuda $(PYTEST)
	for tool in memcheck racecheck initcheck synccheck; do \
	  compute-sanitizer --tool $$tool --error-exitcode 1 $(BIN)/python tests/kernels/every_kernel.py || exit 1; \
	done

bench: $(VENV)/.test  ## measure, and write docs/performance.md
	$(BIN)/python benchmarks/report.py

bench-training: $(VENV)/.test  ## time the training loop and distillation; sizes by SIZES="--input 256 --batch 64"
	PYTHONPATH=. $(BIN)/python benchmarks/training_loop.py $(SIZES)
	PYTHONPATH=. $(BIN)/python benchmarks/training_loop.py --distillation --batch 8 --steps 2 $(SIZES)

soak: $(VENV)/.test  ## memory over FRAMES=100000 frames of two sources; fails where it grows
	PYTHONPATH=. $(BIN)/python benchmarks/memory.py --frames $(FRAMES)

# Without a browser's requests to anywhere: no fonts, scripts or pictures from other sites.
docs: $(VENV)/.docs  ## build the documentation into build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

docs-serve: $(VENV)/.docs  ## show the documentation at http://127.0.0.1:8000, built anew with each change
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

readme: $(VENV)/.test  ## bring the README's figures and all pictures up to date with the packaged models
	$(BIN)/python docs/update_readme.py
	$(BIN)/python docs/make_pictures.py

clean:  ## remove environments, builds and outputs
	rm -rf $(VENV) $(TRT_VENV) $(OUT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f edgepose/kernels/*.so edgepose/kernels/*_skipped.txt
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Light: numpy, OpenCV, ONNX Runtime and the native kernels.
$(VENV)/.demo: $(VENV)/.venv $(BUILD_INPUTS)
	$(PIP) install --quiet --editable ".[cpu]"
	@touch $@

$(VENV)/.docs: $(VENV)/.venv $(BUILD_INPUTS)
	$(PIP) install --quiet --editable ".[cpu,docs]"
	@touch $@ $(VENV)/.demo

$(VENV)/.test: $(VENV)/.torch $(BUILD_INPUTS)
	$(PIP) install --quiet --editable ".[dev,numba$(if $(shell cat $(VENV)/.torch),,,training)]"
	@touch $@ $(VENV)/.demo $(VENV)/.docs

# Chromium, for the tests of the live page alone. Where there is none they are skipped, but not in CI.
$(VENV)/.browser: $(VENV)/.venv
	@found() { command -v chromium && command -v chromedriver; } > /dev/null; \
	if ! found && [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  echo "apt-get install chromium chromium-driver"; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium chromium-driver; \
	fi; \
	if found; then touch $@; else \
	  echo "the live page is not tested in a browser: chromium and chromium-driver are not installed"; \
	fi

# The kernels' CUDA sources for the CPU, to be tested without a GPU.
$(EMULATION)/.built: $(VENV)/.test $(CMAKE_INPUTS) $(CPP)
	$(BIN)/cmake -S . -B $(@D) -G Ninja -DPython_EXECUTABLE=$(abspath $(BIN))/python \
	  -DEDGEPOSE_EMULATION=ON -DEDGEPOSE_SANITIZE=ON -DEDGEPOSE_DEV=ON > /dev/null
	$(BIN)/cmake --build $(@D) --target _cuda_emulated
	@touch $@

# Built on a driver without devices, which it is then loaded with too.
$(TRT_VENV)/.ready: tests/tensorrt_real/make_stub.py
	$(PYTHON310) -m venv $(TRT_VENV)
	$(TRT_VENV)/bin/python -m pip --disable-pip-version-check install --quiet \
	  tensorrt==8.6.0 "numpy<2" "nvidia-cudnn-cu12<9" nvidia-curand "pytest>=8"
	curand="$$(dirname "$$(find "$(abspath $(TRT_VENV))/lib" -name curand.h)")" && \
	$(PYTHON310) tests/tensorrt_real/make_stub.py $(TRT_VENV)/stub "$(CUDA_HOME)" "$$curand/../lib" && \
	env CUDA_ROOT="$(CUDA_HOME)" CPLUS_INCLUDE_PATH="$(CUDA_HOME)/include:$$curand" \
	  LIBRARY_PATH="$(abspath $(TRT_VENV))/stub" \
	  $(TRT_VENV)/bin/python -m pip --disable-pip-version-check install --quiet pycuda
	@touch $@

# PyTorch, for the training tests alone. Where there is none for this Python they are skipped, but not in CI.
$(VENV)/.torch: $(VENV)/.venv
	@echo "$(PIP) install $(TORCH)"
	@if $(PIP) install --quiet $(TORCH); then \
	  touch $@; \
	elif [ "$(CI)" = true ]; then \
	  echo "$(TORCH) is not to be had for this Python; the training tests need it" >&2; exit 1; \
	else \
	  echo "$(TORCH) is not to be had for this Python, so the training tests are skipped; name another"; \
	  echo "build: make test TORCH='torch==2.13.0'"; \
	  echo missing > $@; \
	fi
