#!/usr/bin/env bash
# The onset on one GPU: bash experiments/onset_gpu.sh PACK OUT [SECONDS]
#
# PACK is what `onset.py --pack` wrote for the corpora of onset_gpu.txt, under 60 MB. A small model leaves a GPU waiting
# for its launches, so 16 runs go on beside each other. What is done in time stands in OUT/runs.json; the runs come in
# the order of onset_gpu.txt, and about nine minutes of an H200 do all of them.
set -eu
pack=$1 out=$2 seconds=${3:-560}
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$out"
timeout -s INT -k 15 "$seconds" python3 experiments/onset.py --packed "$pack" --work "$out/../onset_work" --out "$out" \
    --runs experiments/onset_gpu.txt --workers 16
