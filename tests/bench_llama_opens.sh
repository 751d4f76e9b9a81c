#!/bin/bash
# Whether llama.cpp opens what plx-model writes: a model quantised to each format that the CPU device reads, and each
# folder of tests/golden/hf converted. A line a file: what it went on with from a prompt, or how it failed.
#
#   LLAMA_SIMPLE=/path/to/llama-simple PLX_TEST_MODEL=model.gguf [PLX_BIN=build/release] tests/bench_llama_opens.sh
#
# llama-simple is an example program of llama.cpp (https://github.com/ggml-org/llama.cpp). The folders hold tiny random
# models: that they open, with the vocabulary that they have, and say anything is all that can be asked of them. Exit
# code 1 where a file was not opened.
set -u
cd "$(dirname "$0")/.." || exit 1
bin=$(realpath "${PLX_BIN:-build/release}")
model=${PLX_TEST_MODEL:-models/SmolLM2-135M-Instruct.Q4_1.gguf}
[ -n "${LLAMA_SIMPLE:-}" ] || { echo "bench_llama_opens: SKIPPED, LLAMA_SIMPLE names no llama-simple"; exit 0; }
[ -x "$LLAMA_SIMPLE" ] || { echo "bench_llama_opens: $LLAMA_SIMPLE can't be run"; exit 1; }
[ -f "$model" ] || { echo "bench_llama_opens: SKIPPED, no model"; exit 0; }
tmp=$(mktemp -d /tmp/plx-llama.XXXXXX)
trap 'rm -rf "$tmp"' EXIT
failed=0

# opens NAME FILE PROMPT: 12 tokens from there.
opens() {
	local said rc
	said=$("$LLAMA_SIMPLE" -m "$2" -n 12 -ngl 0 "$3" 2>"$tmp/err" </dev/null); rc=$?
	said=$(tr '\n' ' ' <<<"$said" | tr -cd '[:print:]')
	if [ $rc = 0 ] && [ "${#said}" -gt "${#3}" ]; then
		echo "bench_llama_opens: $1: $(stat -c %s "$2") bytes, open: ${said:0:100}"
	else
		echo "bench_llama_opens: $1: FAILED with $rc: $(grep -iE 'error|fail' "$tmp/err" | head -1)"
		failed=1
	fi
	rm -f "$2"
}

for t in F32 F16 BF16 Q8_0 Q6_K Q5_K Q5_1 Q5_0 Q4_K Q4_1 Q4_0; do
	"$bin/plx-model" quantise "$model" -o "$tmp/m.gguf" -t $t --quiet || exit 1
	opens $t "$tmp/m.gguf" "The capital of France is"
done
for folder in tests/golden/hf/*/; do
	for t in "" "-t Q8_0"; do
		# shellcheck disable=SC2086
		"$bin/plx-model" convert "$folder" -o "$tmp/m.gguf" --quiet $t || exit 1
		opens "$(basename "$folder"), converted${t:+ with $t}" "$tmp/m.gguf" "the quick"
	done
done
exit $failed
