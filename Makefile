# The commands of this repository; `make` without a target lists them.

# cpu or cuda; by default what is installed, or else cpu.
TORCH ?=
# Lints are errors only with the version of clippy that this was written with, since newer ones have more lints.
LINTS = $(if $(findstring 0.1.95,$(shell PATH="$(PATH)" cargo clippy --version)),-D warnings)
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: help setup setup-test demo test test-slurm chaos test-nccl test-transformers test-dashboards test-gpu bench-venv bench bench-gpu bench-scale

help:
	@echo 'make demo          set up, build, train the demo on this machine and report'
	@echo 'make test          set up, build, check and test everything'
	@echo 'make test-slurm    only the tests on a simulated Slurm cluster, as root'
	@echo 'make chaos         228 faults of all kinds on simulated hosts, as root: half an hour'
	@echo 'make test-nccl     test as much of NCCL as works without a GPU (206 MB to download)'
	@echo 'make test-transformers   load exported models in Python (2.7 GB to download): 5 minutes'
	@echo 'make test-dashboards   copy curves into Weights & Biases and MLflow (1 GB of Python packages)'
	@echo 'make test-gpu      test what needs GPUs: numerics, several ranks, faults'
	@echo 'make bench         compare the speed with plain PyTorch (installs it)'
	@echo 'make bench-gpu     the same on a GPU (2.7 GB more to download)'
	@echo 'make bench-scale   what the launcher costs with up to 1000 ranks, and preparing with 4 million pairs'
	@echo 'make setup         system packages, Rust and libtorch for CPUs; cargo works afterwards'
	@echo 'make setup TORCH=cuda   the same with CUDA and NCCL'

setup:
	@trainer/setup/system.sh
	@python3 trainer/setup/libtorch.py $(TORCH)

setup-test: setup
	@trainer/setup/venv.sh .deps/venv tests/requirements.txt

demo: setup
	cargo build --release
	target/release/tandem launch configs/demo.yaml

test: setup-test
	cargo fmt --check
	cargo clippy --release --all-targets -- $(LINTS)
	cargo doc --quiet --release --no-deps --workspace --document-private-items
	cargo build --release
	cargo test --release
	@$(MAKE) --no-print-directory test-slurm

# Nodes and hosts are simulated on this machine, which needs root.
test-slurm: setup-test
	@if why=$$(tests/slurm/setup.sh); then \
		cargo build --release && cargo test --release --package tandem-tests --test slurm -- \
			--ignored --test-threads=1 --skip much_chaos; \
	else \
		echo "SKIPPED: the tests on a Slurm cluster and on several hosts: $$why"; \
	fi

chaos: setup-test
	@tests/slurm/setup.sh
	cargo build --release
	cargo test --release --package tandem-tests --test slurm -- --ignored --nocapture much_chaos

test-nccl: setup
	@grep '^nvidia-nccl' trainer/setup/libtorch-cuda.txt >.deps/nccl.txt
	@trainer/setup/venv.sh .deps/nccl .deps/nccl.txt
	cargo build --release
	cargo test --release --package tandem-tests -- --ignored real_nccl

# What `tandem export --format transformers` writes, loaded and used by transformers itself.
test-transformers: bench-venv
	cargo build --release
	cargo test --release --package tandem-tests --test tests -- --ignored transformers::

# The recipes of docs/dashboards.md.
test-dashboards: setup-test
	@trainer/setup/venv.sh .deps/dashboards tests/dashboards.txt
	cargo build --release
	cargo test --release --package tandem-tests --test tests -- --ignored dashboards::

# Ranks share a GPU where there are fewer than four, which takes NCCL 2.30 in LD_LIBRARY_PATH.
test-gpu:
	@$(MAKE) --no-print-directory setup-test TORCH=cuda
	cargo build --release
	cargo test --release --package tandem-tests --test tests -- --ignored --test-threads=1 gpu::

bench-venv: setup
	@trainer/setup/venv.sh .deps/bench-venv trainer/bench/requirements.txt

bench: bench-venv
	cargo build --release --package tandem-trainer
	.deps/bench-venv/bin/python trainer/bench/compare.py

bench-gpu: bench-venv
	cargo build --release --package tandem-trainer
	.deps/bench-venv/bin/python trainer/bench/gpu.py

# Ranks that train nothing, and synthetic texts of 2.5 GB in all: docs/scale.md.
bench-scale: setup
	cargo build --release
	cargo build --release --package tandem-launcher --examples
	python3 launcher/bench/scale.py 8 32 128 512 1000
	python3 trainer/bench/data.py 20000 1000000 4000000
