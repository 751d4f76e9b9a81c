#!/bin/bash
# What plx-tune finds on the real model in a stated time, beside presets picked by hand: its table,
# one verdict a preset, and the board for a budget.
#
#   PLX_TEST_MODEL=model.gguf [PLX_BIN=build/release] [TUNE_TIME=5m] [TUNE_REFERENCE=bf16.gguf]
#   [TUNE_WORK=folder] [TUNE_OPTIONS="..."] tests/bench_tune.sh
#
# TUNE_WORK keeps journal and pictures, so that the same command goes on; without it all is removed.
# The reference is the model in BF16 where none is given: then accuracy is held against the model's
# own weights. One thread and its CPU time, which a busy machine disturbs less.
set -u
cd "$(dirname "$0")/.." || exit 1
bin=$(realpath "${PLX_BIN:-build/release}")
model=${PLX_TEST_MODEL:-models/SmolLM2-135M-Instruct.Q4_1.gguf}
[ -f "$model" ] || { echo "bench_tune: SKIPPED, no model"; exit 0; }
tmp=$(mktemp -d /tmp/plx-tune.XXXXXX)
trap 'rm -rf "$tmp"' EXIT
work=${TUNE_WORK:-$tmp/work} reference=${TUNE_REFERENCE:-$tmp/bf16.gguf}
[ -f "$reference" ] || "$bin/plx-model" quantise "$model" -o "$reference" -t BF16 -q || exit 1
t0=$EPOCHREALTIME
# shellcheck disable=SC2086
"$bin/plx-tune" "$model" --reference "$reference" --text tests/golden/perplexity.txt --work "$work" \
	--time "${TUNE_TIME:-5m}" --tokens 512 --prompt 64 --answer 16 --cpu-time --interval 20 --quiet \
	--board board/devbox/board.yml --budget "perplexity 3 %" --budget "p99 inter-token 30 ms" \
	-o "$tmp/board.yml" ${TUNE_OPTIONS:-} || exit $?
t1=$EPOCHREALTIME
echo "bench_tune: $(((${t1/./} - ${t0/./}) / 1000000)) s in all"
