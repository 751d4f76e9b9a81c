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
	for f in code summary sampled stop samples; do [ -s "$1/$f" ] || return 1; done
}
run() { # run NAME LIMIT: a daemon of its own
	board af_packet
	printf 'limits:\n  draft_tokens: %s\n' "$2" >>"$tmp/board.yml"
	mkdir "$tmp/$1"
	check "$1_starts" start || return 1
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
for f in code summary sampled stop samples; do check "same_$f" cmp "$tmp/plain/$f" "$tmp/drafts/$f"; done
report
