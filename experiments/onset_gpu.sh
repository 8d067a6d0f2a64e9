#!/usr/bin/env bash
# The onset on one GPU: bash experiments/onset_gpu.sh PACK OUT [SECONDS]
#
# PACK is what `onset.py --pack FILE --runs experiments/onset_gpu.txt` wrote, about 40 MB. A small model leaves a GPU
# waiting for its launches, so 16 runs go on beside each other; one of 134M takes most of it. What is done in time stands
# in OUT/runs.json, and the runs come in the order of onset_gpu.txt: an H200 ended a third of them in nine minutes.
set -u
pack=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
seconds=${3:-560}
cd "$(dirname "$0")/.." || exit 1
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
timeout -s INT -k 15 "$seconds" python3 experiments/onset.py --packed "$pack" --work "$out-work" --out "$out" \
    --runs experiments/onset_gpu.txt --workers 16
python3 experiments/onset.py --out "$out" --render
