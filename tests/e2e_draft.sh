#!/bin/bash
# Drafts in the real daemon with the real model: the same ids with and without, greedy and sampled,
# with stop strings and several samples, and fewer steps. PLX_BIN and PLX_TEST_MODEL as for e2e_serve.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/lib/e2e.sh

# The first prompt of a file.
prompt() { sed '/^=====$/,$d' "tests/spec/$1.txt"; }
ids() { ask --json "$@" 2>/dev/null | sed 's/.*"ids":\[\([0-9,]*\)\].*/\1/'; }
answers() { # answers DIR: what is asked of both daemons
	ids --max-new 96 "$(prompt code)" >"$1/code"
	ids --max-new 96 "$(prompt summary)" >"$1/summary"
	ids --max-new 64 --temperature 1 --seed 3 "$(prompt summary)" >"$1/sampled"
	ask --quiet --max-new 96 --stop "None:" "$(prompt code)" >"$1/stop"
	ask --quiet --max-new 48 --n 2 --temperature 0.5 --seed 5 "$(prompt code)" >"$1/samples"
	ids --raw --max-new 48 "The" >"$1/raw" # nothing to catch up with: whoever drafts is asked
	for f in code summary sampled stop samples raw; do [ -s "$1/$f" ] || return 1; done
}
# drafter HOW: a second device on lcore 1, which drafts.
drafter() {
	sed -i -e "/^devices:/a\  - {name: draft0, kind: cpu, role: draft, $1, n_kv_blocks: 64}" \
		-e '/kind: worker/a\  - {kind: accel, lcore: 0, device: draft0}\n  - {kind: worker, lcore: 1, device: draft0}' "$tmp/board.yml"
}
run() { # run NAME LIMIT [DRAFTER]: a daemon of its own
	board af_packet
	printf 'limits:\n  draft_tokens: %s\n' "$2" >>"$tmp/board.yml"
	[ -z "${3:-}" ] || drafter "$3"
	mkdir "$tmp/$1"
	check "$1_starts" start --log-level debug || return 1
	check "$1_answers" answers "$tmp/$1"
	local t0=$EPOCHREALTIME
	ids --max-new 128 "$(prompt talk | sed '1,/^-----$/d; /^-----$/,$d')" >/dev/null
	echo "$1: $(e2e_ms "$t0") ms for 128 tokens"
	check "$1_stops" stop TERM
}

e2e_net
"$bin/plx-key" new --id 1 --tenant local --file "$tmp/keys" --client "$tmp/client.key" >/dev/null
run plain 0
run drafts 8192
run whole 0 "model: $(realpath "$model")"
# As large as the model it does not pay, and is asked only if the account has what catching up takes.
check whole_there grep -q 'drafts by: ' "$tmp/log"
run layers 0 'skip_layers: 12-17'
check layers_asked grep -Eq 'batch.*DRAFT_(LAYERS|PROBES): [1-9]' "$tmp/log"
for r in drafts whole layers; do
	for f in code summary sampled stop samples raw; do check "same_${r}_$f" cmp "$tmp/plain/$f" "$tmp/$r/$f"; done
done
# What can't draft is refused by name.
board af_packet
sed 's/<gh_stars>/<gh_starz>/' "$model" >"$tmp/other.gguf"
drafter "model: $tmp/other.gguf"
refused() { ! start >/dev/null && grep -q "other.gguf can't draft for this model: id [0-9]* is another token" "$tmp/log"; }
check other_vocabulary refused
report
