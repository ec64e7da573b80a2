# Two commands do everything: `make demo` and `make test`. Each sets up what it needs in a
# virtual environment beside this file. NIXL=cu13 chooses the other variant of NIXL's wheel.

PYTHON ?= python3
NIXL ?= cu12
NIXL_VERSION ?= 1.5.1
# Wheels of NIXL that the same binary is tested with, beside that one.
NIXL_OTHERS ?= nixl-cu12==1.0.1 nixl-cu12==1.4.0 nixl-cu13==1.5.1

BUILD := build
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
STAMPS := $(BUILD)/stamps

CPP_SOURCES := $(wildcard CMakeLists.txt cpp/*/*.* cpp/*/*/*.*)
PACKAGE_SOURCES := $(CPP_SOURCES) pyproject.toml $(wildcard python/CMakeLists.txt python/*/*.*)

# UCX takes every network interface that it finds; nothing here leaves this machine.
export UCX_NET_DEVICES := lo
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: docs demo example-pipeline test build-cpp test-cpp test-package test-compilers test-sanitizers test-python docs-cpp lint format stubs clean

demo: $(STAMPS)/package
	$(BIN)/python docs/examples/encode_prefill.py

example-pipeline: $(STAMPS)/package
	$(BIN)/python docs/examples/pipeline/main.py

test: test-cpp test-package test-compilers test-sanitizers test-python docs

# The environment. torch first: it keeps pip from choosing another one for a later package.
$(STAMPS)/venv:
	@mkdir -p $(STAMPS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q torch==2.13.0
	$(BIN)/python -m pip install -q nixl-$(NIXL)==$(NIXL_VERSION) scikit-build-core nanobind cmake ninja
	@touch $@

# A compiler and zlib's header, from Debian's packages where they are missing and may be had.
$(STAMPS)/toolchain:
	@mkdir -p $(STAMPS)
	@command -v c++ >/dev/null && test -e /usr/include/zlib.h || $(MAKE) --no-print-directory apt PACKAGES="g++ zlib1g-dev"
	@touch $@

$(STAMPS)/googletest:
	@mkdir -p $(STAMPS)
	@test -e /usr/include/gmock/gmock.h && test -e /usr/include/benchmark/benchmark.h || \
	  $(MAKE) --no-print-directory apt PACKAGES="libgtest-dev libgmock-dev libbenchmark-dev"
	# The loops that examples and benchmarks use.
	@test -e /usr/include/asio.hpp && test -e /usr/include/uv.h || \
	  $(MAKE) --no-print-directory apt PACKAGES="libasio-dev libuv1-dev"
	# With libefa here, bare NIXL crashes when a process exits; one test shows that we don't.
	@command -v ip >/dev/null || $(MAKE) --no-print-directory apt PACKAGES=iproute2 || true
	@ldconfig -p | grep -q libefa || $(MAKE) --no-print-directory apt PACKAGES=ibverbs-providers || true
	@touch $@

.PHONY: apt
apt:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends $(PACKAGES) >/dev/null; \
	else \
	  echo "Missing: $(PACKAGES). Install them with: sudo apt-get install $(PACKAGES)" >&2; exit 1; \
	fi

$(STAMPS)/package: $(STAMPS)/venv $(STAMPS)/toolchain $(PACKAGE_SOURCES)
	$(BIN)/python -m pip install -q --no-build-isolation -C build-dir=$(BUILD)/python ".[demo]"
	@touch $@

$(STAMPS)/test-tools: $(STAMPS)/package
	$(BIN)/python -m pip install -q --no-build-isolation -C build-dir=$(BUILD)/python ".[test,examples]"
	# Where Ray has no wheel its example is skipped.
	-$(BIN)/python -m pip install -q --only-binary ray ray
	# NIXL's Python package for the incumbent; its own requirements would bring all variants.
	$(BIN)/python -m pip install -q --no-deps nixl==$(NIXL_VERSION)
	for wheel in $(NIXL_OTHERS); do \
	  $(BIN)/python -m pip install -q --no-deps --upgrade --target $(BUILD)/nixl/$$wheel $$wheel || exit 1; \
	done
	@touch $@

build-cpp: $(STAMPS)/package $(STAMPS)/googletest
	$(BIN)/cmake -S . -B $(BUILD)/cpp -G Ninja -DCMAKE_MAKE_PROGRAM=$(BIN)/ninja \
	  -DNIXL_CONNECT_BUILD_TESTS=ON -DNIXL_CONNECT_BUILD_BENCHMARKS=ON \
	  -DNIXL_CONNECT_BUILD_EXAMPLES=ON -DNIXL_CONNECT_WERROR=ON >/dev/null
	$(BIN)/cmake --build $(BUILD)/cpp

test-cpp: build-cpp
	NIXL_CONNECT_NIXL_LIBRARY=$$($(BIN)/python -c "from nixl_connect import _library; print(_library.nixl_library_candidates()[0])") \
	  $(BIN)/ctest --test-dir $(BUILD)/cpp --output-on-failure --no-tests=error

# The installed C++ library, as other projects use it.
test-package: build-cpp
	@command -v pkg-config >/dev/null || $(MAKE) --no-print-directory apt PACKAGES=pkg-config
	NIXL_CONNECT_NIXL_LIBRARY=$$($(BIN)/python -c "from nixl_connect import _library; print(_library.nixl_library_candidates()[0])") \
	  PATH="$(BIN):$$PATH" tests/package/run $(BUILD)/cpp $(BUILD)/package

# Whatever else Debian compiles with, and AArch64, which needs Debian's arm64 packages of what the
# library and its tests link; they are unpacked, not installed.
CLANGS ?= clang++-14 clang++-16
AARCH64 := $(CURDIR)/$(BUILD)/aarch64
$(STAMPS)/aarch64: $(STAMPS)/toolchain
	@command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null || \
	  $(MAKE) --no-print-directory apt PACKAGES="g++-aarch64-linux-gnu qemu-user"
	@mkdir -p $(AARCH64)/debs $(AARCH64)/root $(AARCH64)/lists/partial
	@cd $(AARCH64)/debs && apt="apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::lists=$(AARCH64)/lists -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=" && \
	  $$apt update && $$apt download zlib1g zlib1g-dev libgtest-dev libgmock-dev
	@for deb in $(AARCH64)/debs/*.deb; do dpkg-deb -x $$deb $(AARCH64)/root || exit 1; done
	@cp -a $(AARCH64)/root/lib $(AARCH64)/root/usr/ 2>/dev/null || true
	@ln -sf libz.so.1 $(AARCH64)/root/usr/lib/aarch64-linux-gnu/libz.so
	@touch $@

test-compilers: $(STAMPS)/venv $(STAMPS)/aarch64
	@(for clang in $(CLANGS); do command -v $$clang || exit 1; done) >/dev/null || \
	  $(MAKE) --no-print-directory apt PACKAGES="$(CLANGS:clang++%=clang%)"
	for clang in $(CLANGS); do \
	  $(BIN)/cmake -S . -B $(BUILD)/$$clang -G Ninja -DCMAKE_MAKE_PROGRAM=$(BIN)/ninja \
	    -DCMAKE_CXX_COMPILER=$$clang -DCMAKE_BUILD_TYPE=Debug -DNIXL_CONNECT_WERROR=ON >/dev/null && \
	  $(BIN)/cmake --build $(BUILD)/$$clang --target nixl_connect_shared && \
	  $$clang -std=c++20 -Wall -Wextra -Wconversion -Wshadow -Werror -fsyntax-only \
	    -Icpp/include tests/package/main.cpp || exit 1; \
	done
	$(BIN)/cmake -S . -B $(AARCH64)/build -G Ninja -DCMAKE_MAKE_PROGRAM=$(BIN)/ninja \
	  -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake -DCMAKE_FIND_ROOT_PATH=$(AARCH64)/root \
	  -DCMAKE_BUILD_TYPE=Debug -DNIXL_CONNECT_BUILD_TESTS=ON -DNIXL_CONNECT_WERROR=ON >/dev/null
	$(BIN)/cmake --build $(AARCH64)/build --target nixl_connect_shared nixl_connect_fault_tests
	# Without the test that must go on within a millisecond, and without the fuzzer's corpus.
	qemu-aarch64 -L /usr/aarch64-linux-gnu $(AARCH64)/build/tests/cpp/nixl_connect_fault_tests \
	  --gtest_brief=1 --gtest_filter=-Faults.SlowRegistrationHoldsUpNobodyButTheEngine:Corpus.*

# The core against the stand-in for NIXL's library, once for each sanitizer.
test-sanitizers: $(STAMPS)/package $(STAMPS)/googletest
	for sanitizers in thread address+undefined; do \
	  $(BIN)/cmake -S . -B $(BUILD)/$$sanitizers -G Ninja -DCMAKE_MAKE_PROGRAM=$(BIN)/ninja \
	    -DCMAKE_BUILD_TYPE=RelWithDebInfo -DNIXL_CONNECT_BUILD_TESTS=ON \
	    -DNIXL_CONNECT_SANITIZE=$$(echo $$sanitizers | tr + ,) >/dev/null && \
	  $(BIN)/cmake --build $(BUILD)/$$sanitizers --target nixl_connect_fault_tests && \
	  export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 && \
	  $(BUILD)/$$sanitizers/tests/cpp/nixl_connect_fault_tests && \
	  NIXL_CONNECT_TEST_NOTHING_INLINE=1 \
	    $(BUILD)/$$sanitizers/tests/cpp/nixl_connect_fault_tests || exit 1; \
	done

test-python: $(STAMPS)/test-tools build-cpp
	NIXL_CONNECT_TEST_NIXL_DIR=$(CURDIR)/$(BUILD)/nixl \
	  NIXL_CONNECT_TEST_CPP_EXAMPLES=$(CURDIR)/$(BUILD)/cpp/docs/examples/cpp \
	  $(BIN)/python -m pytest $(PYTEST_ARGS)
	# A process has one CUDA driver; these have the stand-in: with one for NIXL, and with NIXL itself.
	NIXL_CONNECT_TEST_FAKES=$(CURDIR)/$(BUILD)/cpp/tests $(BIN)/python -m pytest tests/stand_in
	FAKE_CUDA_LIVE=1 LD_LIBRARY_PATH=$(CURDIR)/$(BUILD)/cpp/tests/fake_cuda \
	  NIXL_CONNECT_TEST_NIXL_DIR=$(CURDIR)/$(BUILD)/nixl \
	  $(BIN)/python -m pytest -m gpus $(PYTEST_ARGS)

# The documentation, into $(BUILD)/docs/site; a warning is an error.
docs: $(STAMPS)/docs-tools docs-cpp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(STAMPS)/docs-tools: $(STAMPS)/package
	$(BIN)/python -m pip install -q --no-build-isolation -C build-dir=$(BUILD)/python ".[docs]"
	@touch $@

# The C++ library's reference, into $(BUILD)/docs/cpp.
docs-cpp:
	@command -v doxygen >/dev/null || $(MAKE) --no-print-directory apt PACKAGES=doxygen
	@mkdir -p $(BUILD)/docs
	doxygen docs/Doxyfile

$(STAMPS)/lint-tools: $(STAMPS)/test-tools
	$(BIN)/python -m pip install -q --no-build-isolation -C build-dir=$(BUILD)/python ".[lint]"
	@touch $@

lint: $(STAMPS)/lint-tools $(STAMPS)/googletest
	$(BIN)/cmake -S . -B $(BUILD)/cpp -G Ninja -DCMAKE_MAKE_PROGRAM=$(BIN)/ninja \
	  -DNIXL_CONNECT_BUILD_TESTS=ON -DNIXL_CONNECT_BUILD_BENCHMARKS=ON \
	  -DNIXL_CONNECT_BUILD_EXAMPLES=ON -DNIXL_CONNECT_WERROR=ON >/dev/null
	PATH="$(BIN):$$PATH" $(BIN)/pre-commit run --all-files

format: $(STAMPS)/lint-tools
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $$(git ls-files '*.h' '*.cpp')

# The typed interface of the compiled module, checked in and compared by a test.
stubs: $(STAMPS)/package
	$(BIN)/python -m nanobind.stubgen -q -P -m nixl_connect._core -o python/nixl_connect/_core.pyi

# What is released, for this machine's own Python and glibc: .github/workflows/wheels.yml builds
# the wheels that are published.
.PHONY: wheel sdist
$(STAMPS)/release-tools: $(STAMPS)/package
	$(BIN)/python -m pip install -q --no-build-isolation -C build-dir=$(BUILD)/python ".[release]"
	@touch $@

wheel: $(STAMPS)/release-tools
	rm -f dist/*.whl
	$(BIN)/python -m build --no-isolation --wheel -C build-dir=$(BUILD)/python
	$(BIN)/auditwheel show dist/*.whl
	case $$(echo dist/*.whl) in *-abi3-*) $(BIN)/abi3audit --strict --verbose dist/*.whl;; esac
	$(BIN)/twine check --strict dist/*.whl

# Built again from its own files alone, without a network where that may be arranged.
sdist: $(STAMPS)/release-tools
	rm -rf dist/*.tar.gz $(BUILD)/sdist
	mkdir -p $(BUILD)/sdist
	$(BIN)/python -m build --no-isolation --sdist
	$(BIN)/twine check --strict dist/*.tar.gz
	tar -xzf dist/*.tar.gz -C $(BUILD)/sdist --strip-components=1
	cd $(BUILD)/sdist && $$(unshare -rn true 2>/dev/null && echo unshare -rn) \
	  $(BIN)/python -m pip wheel -q --no-build-isolation --no-deps --no-index -w made .

clean:
	rm -rf $(BUILD) $(VENV) dist

# The coverage-guided fuzzer, for SECONDS; what it finds new is added to the corpus.
SECONDS ?= 60
.PHONY: fuzz
fuzz: $(STAMPS)/venv $(STAMPS)/toolchain
	@command -v clang++ >/dev/null || $(MAKE) --no-print-directory apt PACKAGES="clang libclang-rt-14-dev"
	$(BIN)/cmake -S . -B $(BUILD)/fuzz -G Ninja -DCMAKE_MAKE_PROGRAM=$(BIN)/ninja \
	  -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DNIXL_CONNECT_BUILD_FUZZERS=ON -DNIXL_CONNECT_SANITIZE=address,undefined >/dev/null
	$(BIN)/cmake --build $(BUILD)/fuzz --target metadata_fuzzer
	mkdir -p $(BUILD)/fuzz/found
	$(BUILD)/fuzz/metadata_fuzzer -max_total_time=$(SECONDS) -max_len=4096 -print_final_stats=1 \
	  $(BUILD)/fuzz/found tests/fuzz/corpus
	$(BUILD)/fuzz/metadata_fuzzer -merge=1 tests/fuzz/corpus $(BUILD)/fuzz/found

# A million small operations and thousands of large ones; a few minutes.
.PHONY: soak
soak: $(STAMPS)/test-tools
	$(BIN)/python -m pip install -q matplotlib
	$(BIN)/python tests/python/soak.py --operations 1000000 --plot $(BUILD)/soak-small.svg
	$(BIN)/python tests/python/soak.py --operations 5000 --size 16777216 --in-flight 4 \
	  --plot $(BUILD)/soak-large.svg

# Everything side by side, in about a quarter of an hour: figures as JSON and plots into BENCH_OUTPUT.
# A library that cannot be installed here is skipped, with a reason.
BENCH_OUTPUT ?= docs/bench
BENCH_ROUNDS ?= 5
.PHONY: bench bench-cpp bench-gpu
bench: bench-cpp
	-$(BIN)/python -m pip install -q --no-build-isolation -C build-dir=$(BUILD)/python ".[bench]"
	$(BIN)/python bench/python/side_by_side.py --rounds $(BENCH_ROUNDS) --scale 0.5 --output $(BENCH_OUTPUT)
	$(BIN)/python bench/python/manners.py --output $(BENCH_OUTPUT)

# The same of memory on a GPU, or from one to another: make bench-gpu DEVICE=cuda:0 MOVER_DEVICE=cuda:1
DEVICE ?= cuda:0
MOVER_DEVICE ?= $(DEVICE)
bench-gpu: $(STAMPS)/test-tools
	-$(BIN)/python -m pip install -q --no-build-isolation -C build-dir=$(BUILD)/python ".[bench]"
	$(BIN)/python bench/python/side_by_side.py --rounds $(BENCH_ROUNDS) --output $(BENCH_OUTPUT) \
	  --device $(DEVICE) --mover-device $(MOVER_DEVICE)
	$(BIN)/python bench/python/manners.py --only stall --device $(DEVICE)

# What each step costs, in C++, and whole operations beside NIXL's C interface.
bench-cpp: $(STAMPS)/test-tools $(STAMPS)/googletest
	$(BIN)/cmake -S . -B $(BUILD)/cpp -G Ninja -DCMAKE_MAKE_PROGRAM=$(BIN)/ninja \
	  -DNIXL_CONNECT_BUILD_TESTS=ON -DNIXL_CONNECT_BUILD_BENCHMARKS=ON >/dev/null
	$(BIN)/cmake --build $(BUILD)/cpp --target whole_operation steps
	NIXL_CONNECT_NIXL_LIBRARY=$$($(BIN)/python -c "from nixl_connect import _library; print(_library.nixl_library_candidates()[0])") \
	  $(BUILD)/cpp/bench/cpp/steps
