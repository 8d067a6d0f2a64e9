# Each command sets itself up on a fresh machine: a virtual environment in .venv with the tested set of constraints.txt.
# A second call installs nothing.
#
#   make demo        the packaged ablation plan on this machine; the report is in runs/demo
#   make test        style, import rules, types, quick tests
#   make test-slow   the long tests
#   make test-peers  the tests that compare with megatron-core, which is installed into .venv-megatron
#   make mutants     whether tests fail where the package is changed, one operator at a time; hours, goes on where it stopped
#   make bench-peers what our benchmarks are compared with, in .venv-peers; then: .venv/bin/python benchmarks/NAME.py
#
# Variables of the environment:
#   PYTHON=/path/to/python3.11    which Python (3.11 or newer) makes .venv
#   CHUNKWISE_TORCH_INDEX=URL     also look for torch in this package index: the CPU-only one that PyTorch keeps avoids the
#                                 CUDA build (6 GB on Linux)
#   CHUNKWISE_DATA=DIR            folder of real text for the tests that are marked "data"
#   CHUNKWISE_STORE=DIR           where artefacts are kept; default .chunkwise

SHELL := /bin/bash
bin := .venv/bin
# Two test processes share the cores, so each computes with one thread.
pytest := OMP_NUM_THREADS=1 $(bin)/python -m pytest -n 2 --dist loadfile

.PHONY: demo test test-slow test-peers setup bench-peers mutants
demo:
	@scripts/setup.sh base
	$(bin)/chunkwise ablate instructretro --profile laptop --out runs/demo

test:
	@scripts/setup.sh dev
	$(bin)/ruff check .
	$(bin)/lint-imports
	$(bin)/mypy
	$(pytest) -m "not slow and not gpu"

test-slow:
	@scripts/setup.sh dev
	$(pytest) -m "slow and not gpu"

setup:
	@scripts/setup.sh dev

mutants:
	@scripts/setup.sh dev
	OMP_NUM_THREADS=1 $(bin)/python scripts/mutants.py

test-peers: .venv-megatron/installed
	@scripts/setup.sh dev
	$(pytest) -m peer

.venv-megatron/installed: tests/peers/requirements.txt
	@scripts/setup.sh base
	$(bin)/python -m venv --clear .venv-megatron
	$(addprefix PIP_EXTRA_INDEX_URL=,$(CHUNKWISE_TORCH_INDEX)) .venv-megatron/bin/python -m pip install --quiet -r $<
	.venv-megatron/bin/python -m pip install --quiet --no-deps megatron-core==0.15.3
	@touch $@

bench-peers: .venv-peers/installed
.venv-peers/installed: benchmarks/peers/requirements.txt
	@scripts/setup.sh base
	$(bin)/python -m venv --clear .venv-peers
	$(addprefix PIP_EXTRA_INDEX_URL=,$(CHUNKWISE_TORCH_INDEX)) .venv-peers/bin/python -m pip install --quiet -r $<
	@touch $@
