# `make demo` and `make test` are a user's; `make check` is everything. Each target sets up what it
# needs, in a virtual environment beside this file; CMakePresets.json says how the C++ is built.

PYTHON ?= python3
# NIXL's wheel, cu12 or cu13, and the wheels that the same binary is tested with beside that one.
NIXL ?= cu12
NIXL_VERSION ?= 1.5.1
NIXL_OTHERS ?= nixl-cu12==1.0.1 nixl-cu12==1.4.0 nixl-cu13==1.5.1
PRESETS := dev asan tsan aarch64 clang-14 release
# How many tests run at once, for they often wait; those of C++ wait more. Options for pytest:
# PYTEST_ARGS="-k loops".
JOBS ?= $(shell expr $$(nproc) + 1)
# Extras that are installed with the package. Targets add those that they need.
EXTRAS ?= demo
STAMPS := build/stamps
$(shell mkdir -p $(STAMPS) build/docs)
# One at a time changes the environment.
PIP := flock $(STAMPS) pip install -q
# What is never imported need not be compiled; what is, once.
export PIP_COMPILE := 0
unexport PYTHONDONTWRITEBYTECODE
PYTEST := pytest -n $(JOBS) --durations=20 $(PYTEST_ARGS)
# What PYTEST_ARGS choose may be all in one run.
SOME := $(if $(PYTEST_ARGS),|| test $$? = 5)
PACKAGE_SOURCES := CMakeLists.txt pyproject.toml $(shell find cmake cpp python -type f -not -name '*.pyc')

export PATH := $(CURDIR)/.venv/bin:$(PATH)
# UCX takes every network interface that it finds; nothing here leaves this machine.
export UCX_NET_DEVICES := lo
# UCX 1.23 burns 50 ms eight times when it is loaded, to be sure that no thread is in what it patches.
export UCX_MEM_BISTRO_GRACE_DURATION := 1ms
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc)
export CTEST_PARALLEL_LEVEL := $(shell expr $$(nproc) \* 2)
export NIXL_CONNECT_TEST_NIXL_DIR := $(CURDIR)/build/nixl
export NIXL_CONNECT_TEST_DYNAMO_DIR := $(CURDIR)/build/dynamo
export NIXL_CONNECT_TEST_CPP_EXAMPLES := $(CURDIR)/build/dev/docs/examples/cpp
export CMAKE_CXX_COMPILER_LAUNCHER ?= $(shell command -v ccache)
export CCACHE_BASEDIR := $(CURDIR)

.PHONY: demo example-pipeline test check setup clean docs docs-cpp lint format stubs wheel sdist \
  fuzz soak bench bench-cpp bench-gpu $(PRESETS:%=configure-%) $(PRESETS:%=build-%) \
  check-tests check-rest \
  $(addprefix test-,cpp python stand-in rdma sanitizers compilers package site)
demo: $(STAMPS)/package
	python docs/examples/encode_prefill.py
example-pipeline: $(STAMPS)/package
	python docs/examples/pipeline/main.py
test: test-cpp test-python
# What comes from elsewhere and what is built, at once; then the tests, and beside them the rest, for
# which they leave time.
check:
	$(MAKE) -j3 --output-sync=target EXTRAS=demo,test,examples,lint,docs,site setup \
	  $(patsubst %,build-%,$(filter-out release,$(PRESETS)))
	$(MAKE) -j2 check-tests check-rest
check-tests:
	MAKEFLAGS= $(MAKE) test test-stand-in test-sanitizers test-compilers test-rdma
# What the tests have built, these do not build beside them.
check-rest:
	MAKEFLAGS= nice $(MAKE) -o build-dev -o configure-asan lint test-site test-package
setup: $(addprefix $(STAMPS)/,apt-test apt-package apt-docs apt-site aarch64 mermaid test-tools lint-tools \
  docs-tools site-tools)
clean:
	rm -rf build .venv dist

# What comes from Debian and from package indexes.
$(STAMPS)/apt-%: tools/apt
	tools/apt $*
	@touch $@
$(STAMPS)/aarch64: tools/aarch64-sysroot $(STAMPS)/apt-aarch64
	tools/aarch64-sysroot build/aarch64-sysroot
	@touch $@
$(STAMPS)/venv:
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip scikit-build-core nanobind cmake ninja
	@touch $@
$(STAMPS)/package: $(STAMPS)/venv $(STAMPS)/apt-build $(PACKAGE_SOURCES)
	CXX=$${CXX:-c++} $(PIP) --no-build-isolation -C build-dir=build/python \
	  -C cmake.define.NIXL_CONNECT_WERROR=ON nixl-$(NIXL)==$(NIXL_VERSION) ".[$(EXTRAS)]"
	@touch $@
$(STAMPS)/%-tools: pyproject.toml | $(STAMPS)/package
	$(PIP) "nixl-connect[$*]"
	@touch $@
$(STAMPS)/test-tools: pyproject.toml tools/test-packages tools/dynamo | $(STAMPS)/package
	flock $(STAMPS) tools/test-packages $(NIXL) $(NIXL_VERSION) $(NIXL_OTHERS)
	@touch $@

$(STAMPS)/mermaid: tools/mermaid | $(STAMPS)/venv
	flock $(STAMPS) tools/mermaid build/docs/mermaid
	@touch $@

# The C++ builds: `make build-dev` and so on, one for each preset; what others wait for goes first.
$(PRESETS:%=configure-%) configure-fuzz: configure-%: $(STAMPS)/venv $(STAMPS)/apt-build
	cmake --preset $* >/dev/null
$(PRESETS:%=build-%) build-fuzz: build-%: configure-%
	MAKEFLAGS= nice cmake --build --preset $*
# The module has the same core, which the compiler's cache then has.
build-dev: | $(STAMPS)/package
configure-dev configure-release configure-tsan configure-asan: $(STAMPS)/apt-test
configure-asan configure-aarch64: $(STAMPS)/apt-clang-16
configure-aarch64: $(STAMPS)/aarch64
configure-fuzz configure-clang-14: configure-%: $(STAMPS)/apt-%
# On real NIXL.
WITH_NIXL = NIXL_CONNECT_NIXL_LIBRARY=$$(python -c "from nixl_connect import _library; print(_library.nixl_library_candidates()[0])")
test-cpp: build-dev $(STAMPS)/package
	$(WITH_NIXL) ctest --preset dev
	@tools/slowest-tests build/dev
test-python: build-dev $(STAMPS)/test-tools
	$(PYTEST) -m "not alone" $(SOME)
	$(PYTEST) -n 0 -m alone $(SOME)
# A process has one CUDA driver; these have the stand-in: with one for NIXL, and with NIXL itself.
test-stand-in: build-dev $(STAMPS)/test-tools
	$(PYTEST) tests/stand_in
	FAKE_CUDA_LIVE=1 LD_LIBRARY_PATH=$(CURDIR)/build/dev/tests/fake_cuda $(PYTEST) -m gpus $(SOME)
# What moves data, over RDMA verbs, in an emulated machine.
test-rdma: build-dev $(STAMPS)/test-tools
	$(WITH_NIXL) tools/test-rdma
# The core on the stand-in for NIXL, once for each sanitizer.
test-sanitizers: build-tsan build-asan
	ctest --preset tsan
	ctest --preset asan
	@tools/slowest-tests build/tsan build/asan
# Whatever else Debian compiles with, and newer Pythons; the same tests on AArch64, with QEMU.
test-compilers: build-clang-14 build-aarch64 $(STAMPS)/apt-clang-16 $(STAMPS)/venv
	tools/stable-abi
	for clang in clang++-14 clang++-16; do $$clang -std=c++20 -Wall -Wextra -Wconversion \
	  -Wshadow -Werror -fsyntax-only -Icpp/include tests/package/main.cpp || exit 1; done
	ctest --preset aarch64
# The installed C++ library, as other projects use it.
test-package: build-dev $(STAMPS)/package $(STAMPS)/apt-package
	MAKEFLAGS= $(WITH_NIXL) tests/package/run build/dev build/package

# The documentation, into build/docs/site; the C++ library's reference, into build/docs/cpp.
docs: $(STAMPS)/docs-tools $(STAMPS)/mermaid docs-cpp
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
docs-cpp: $(STAMPS)/apt-docs
	doxygen docs/Doxyfile
# The pages in a browser; SCREENSHOTS=1 puts what it shows into build/docs/screenshots.
test-site: docs $(STAMPS)/apt-site $(STAMPS)/site-tools
	pytest tests/site
lint: $(STAMPS)/lint-tools $(STAMPS)/test-tools configure-asan
	pre-commit run --all-files
format: $(STAMPS)/lint-tools
	ruff format . && ruff check --fix . && clang-format -i $$(git ls-files '*.h' '*.cpp')
# The typed interface of the compiled module, checked in and compared by a test.
stubs: $(STAMPS)/package
	python -m nanobind.stubgen -q -P -m nixl_connect._core -o python/nixl_connect/_core.pyi
# What is released, for this machine's own Python and glibc; wheels.yml makes what is published.
wheel sdist: $(STAMPS)/release-tools
	tools/release $@
# The coverage-guided fuzzer; what it finds new is added to the corpus.
SECONDS ?= 60
fuzz: build-fuzz
	tools/fuzz build/fuzz $(SECONDS)
# A million small operations and thousands of large ones; a few minutes.
soak: $(STAMPS)/test-tools
	python tests/python/soak.py --operations 1000000 --plot build/soak-small.svg
	python tests/python/soak.py --operations 5000 --size 16777216 --in-flight 4 --plot build/soak-large.svg

# Everything side by side, in about a quarter of an hour: figures as JSON and plots into
# BENCH_OUTPUT. A library that cannot be installed here is skipped, with a reason.
BENCH_OUTPUT ?= docs/bench
BENCH_ROUNDS ?= 5
SIDE_BY_SIDE = python bench/python/side_by_side.py --rounds $(BENCH_ROUNDS) --output $(BENCH_OUTPUT)
bench: bench-cpp
	-$(PIP) "nixl-connect[bench]"
	$(SIDE_BY_SIDE) --scale 0.5
	python bench/python/manners.py --output $(BENCH_OUTPUT)
# What each step costs, in C++, and whole operations beside NIXL's C interface.
bench-cpp: build-release $(STAMPS)/test-tools
	$(WITH_NIXL) build/release/bench/cpp/steps
# Memory on a GPU, or from one to another: make bench-gpu DEVICE=cuda:0 MOVER_DEVICE=cuda:1
DEVICE ?= cuda:0
MOVER_DEVICE ?= $(DEVICE)
bench-gpu: $(STAMPS)/test-tools
	-$(PIP) "nixl-connect[bench]"
	$(SIDE_BY_SIDE) --device $(DEVICE) --mover-device $(MOVER_DEVICE)
	python bench/python/manners.py --only stall --device $(DEVICE)
