#!/bin/bash
# The real daemon with KV in q8 and in q4: answers, the same to eight clients at once and from the prefix cache,
# a kind of arithmetic of its own, and a type that is none.
# PLX_BIN names the binaries' folder, PLX_TEST_MODEL the model.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/lib/e2e.sh

chat="What is 2+2?"
story="Tell a story of a lighthouse keeper who finds a letter in a bottle, a storm that comes, and the ship that answers."
"$bin/plx-key" new --id 1 --tenant local --file "$tmp/keys" --client "$tmp/client.key" >/dev/null
e2e_net
swarm() { in_cli "$bin/swarm" "$host" 7709 "$tmp/client.key" 8 2 12 "$tmp/alone" "$chat" "$story"; }
cached() { ask --json --max-new 12 "$story" 2>/dev/null | grep -o '"cached_tokens":[0-9]*' | cut -d: -f2; }
kind() { ask --json --max-new 1 "$chat" 2>/dev/null | grep -o '"numeric_kind":[0-9]*'; }
named() { grep "arithmetic .*-$1;" "$tmp/log"; }
again() { [ "$(cached)" -ge 32 ]; }
counts() { ask --quiet --max-new 30 "$chat" | tee /dev/stderr | grep -q 4; }
kinds=""
board af_packet
for t in q8 q4; do
	sed -i '/^kv_type:/d' "$tmp/board.yml"
	echo "kv_type: $t" >>"$tmp/board.yml"
	check "${t}_starts" start || { report; exit 1; }
	check "${t}_has_a_name" named "kv${t#q}-1"
	check "${t}_answers" counts
	for p in "$chat" "$story"; do ask --quiet --max-new 12 "$p" | sed -z 's/\n$//; s/\n/\\n/g; s/$/\n/'; done >"$tmp/alone"
	check "${t}_comes_from_the_cache" again
	check "${t}_eight_clients_same_text" swarm
	kinds="$kinds $(kind)"
	check "${t}_ends" stop TERM
done
two_kinds() { echo "$kinds"; [ "$(tr ' ' '\n' <<<"$kinds" | grep -c numeric)" = 2 ] && [ "$(tr ' ' '\n' <<<"$kinds" | grep numeric | sort -u | wc -l)" = 2 ]; }
check kinds_differ two_kinds
sed -i 's/^kv_type:.*/kv_type: q5/' "$tmp/board.yml"
bad() { exits 3 "$bin/polluxd" --file-prefix "$id" --board "$tmp/board.yml" --model "$model" --keys "$tmp/keys" 2>&1 | tee /dev/stderr | grep -q 'board.yml:[0-9]*:.*q5'; }
check unknown_type_exits_3 bad
report
