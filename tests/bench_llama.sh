#!/bin/bash
# The CPU device beside llama.cpp on the same file, machine and threads, run in turn.
#   LLAMA_BENCH=/path/to/llama-bench  an existing build (native); without it this is skipped
#   PLX_TEST_MODEL, PLX_BIN           model file, and where bench_device is; RUNS (5), THREADS ("1 2")
# Prints medians, ranges and the ratio of medians.
set -u
cd "$(dirname "$0")/.." || exit 1
bin=${PLX_BIN:-build/release}
model=${PLX_TEST_MODEL:-models/SmolLM2-135M-Instruct.Q4_1.gguf}
[ -n "${LLAMA_BENCH:-}" ] || { echo "bench_llama: SKIPPED, set LLAMA_BENCH to a built llama-bench"; exit 0; }
[ -x "$LLAMA_BENCH" ] || { echo "bench_llama: $LLAMA_BENCH is not there"; exit 1; }
[ -r "$model" ] || { echo "bench_llama: SKIPPED, no model"; exit 0; }
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT

theirs() { # threads: tokens/s of prompt and of generation, from its CSV
	"$LLAMA_BENCH" -m "$model" -p 512 -n 128 -t "$1" -r 1 -o csv 2>/dev/null | python3 -c '
import csv, sys
for r in csv.DictReader(sys.stdin):
    print("prefill" if int(r["n_prompt"]) else "decode", r["avg_ts"])'
}
ours() {
	"$bin/bench_device" "$model" auto "$1" | sed -nE 's/^bench_device: (prefill|decode) [0-9]+, .*: ([0-9.]+) tokens.*/\1 \2/p'
}
stats() { # file, kind: median min max
	awk -v k="$2" '$1 == k {print $2}' "$1" | sort -g | awk '{v[NR] = $1} END {print (NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2), v[1], v[NR]}'
}
for t in ${THREADS:-1 2}; do
	[ "$t" -le "$(nproc)" ] || continue
	: >"$tmp/ours"; : >"$tmp/theirs"
	for _ in $(seq "${RUNS:-5}"); do ours "$t" >>"$tmp/ours"; theirs "$t" >>"$tmp/theirs"; done
	for kind in prefill decode; do
		read -r m lo hi <<<"$(stats "$tmp/ours" $kind)"
		read -r lm llo lhi <<<"$(stats "$tmp/theirs" $kind)"
		[ -n "$m" ] && [ -n "$lm" ] || { echo "bench_llama: $kind, $t threads: no figures"; exit 1; }
		awk -v k=$kind -v t="$t" -v m="$m" -v lo="$lo" -v hi="$hi" -v lm="$lm" -v llo="$llo" -v lhi="$lhi" 'BEGIN {
			printf "bench_llama: %s, %d thread%s: pollux %.1f (%.1f to %.1f) tokens/s, llama.cpp %.1f (%.1f to %.1f), ratio %.2f\n", k, t, (t > 1 ? "s" : ""), m, lo, hi, lm, llo, lhi, m / lm}'
	done
done
