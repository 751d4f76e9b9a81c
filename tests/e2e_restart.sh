#!/bin/bash
# The real daemon over AF_XDP: answers, killed and restarted under a client, and its exit codes.
# PLX_BIN names the binaries' folder, PLX_TEST_MODEL the model.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/lib/e2e.sh

chat="What is 2+2?"
chat_answer="The answer to this classic math problem is 4."
answers() { local want=$1; shift; same "$(ask --quiet "$@")" "$want"; }

# ---- exit codes that need no namespace: each says what is wrong, and ends at once ----
"$bin/plx-key" new --id 1 --tenant local --file "$tmp/keys" --client "$tmp/client.key" >/dev/null
board af_xdp
polluxd() { "$bin/polluxd" --file-prefix "$id" "$@"; }
check usage_exits_2 exits 2 polluxd --no-such-option
sed 's/lcore: 0, port/lcore: 999, port/' "$tmp/board.yml" >"$tmp/bad.yml"
bad_board() { exits 3 polluxd --board "$tmp/bad.yml" --model "$model" --keys "$tmp/keys" 2>&1 | tee /dev/stderr | grep -q 'bad.yml:[0-9]*:.*999'; }
check bad_board_exits_3_with_its_line bad_board
check no_keys_exits_4 exits 4 polluxd --board "$tmp/board.yml" --model "$model" --keys "$tmp/none"
head -c 100000 "$model" >"$tmp/cut.gguf"
check cut_model_exits_5 exits 5 polluxd --board "$tmp/board.yml" --model "$tmp/cut.gguf" --keys "$tmp/keys"
check check_finds_nothing_wrong exits 0 polluxd --check --board "$tmp/board.yml" --model "$model" --keys "$tmp/keys"
check no_port_exits_7 exits 7 polluxd --board "$tmp/board.yml" --model "$model" --keys "$tmp/keys"

# ---- AF_XDP ----
e2e_net
check starts start || { report; exit 1; }
check af_xdp_greedy_is_literal answers "$chat_answer" --max-new 30 "$chat"
echo "$chat_answer" >"$tmp/alone"
swarm() { in_cli "$bin/swarm" "$host" 7709 "$tmp/client.key" 8 2 30 "$tmp/alone" "$chat"; }
check af_xdp_eight_clients swarm
check pings ask --ping 200
cache_is_written() { for _ in $(seq 200); do [ -f "$model.plx" ] && return 0; sleep 0.1; done; ls -la "$tmp/model"; grep cache "$tmp/log"; return 1; }
check weights_cache_is_written cache_is_written

# ---- killed under two clients: one may ask anew, one may not ----
killed() {
	local a b ra rb
	nsenter --net="/run/netns/$cli" "$bin/plx-ask" --host $host --key "$tmp/client.key" --timeout 30000 --quiet \
		--raw --ignore-eos --max-new 3000 "$chat" >"$tmp/a" 2>"$tmp/a.err" & a=$!
	nsenter --net="/run/netns/$cli" "$bin/plx-ask" --host $host --key "$tmp/client.key" --timeout 30000 --json --retry \
		--raw --ignore-eos --max-new 300 "$chat" >"$tmp/b" 2>"$tmp/b.err" & b=$!
	sleep 0.6
	stop KILL
	start || return 1
	wait $a; ra=$?
	wait $b; rb=$?
	echo "without --retry: exit $ra, $(cat "$tmp/a.err"); with: exit $rb, $(cat "$tmp/b.err")"
	[ $ra = 7 ] && [ $rb = 0 ] && grep -q 'restarted\|nothing came' "$tmp/a.err" &&
		same "$(sed 's/.*"text":"\(.*\)","ids.*/\1/' "$tmp/b")" \
			"$(ask --json --raw --ignore-eos --max-new 300 "$chat" 2>/dev/null | sed 's/.*"text":"\(.*\)","ids.*/\1/')"
}
check sigkill_under_clients killed
from_cache() { grep 'loaded in' "$tmp/log"; grep -q 'weights read from their cache' "$tmp/log" && ! ls "$tmp/model" | grep tmp; }
check weights_came_from_the_cache from_cache
stops() { stop TERM; local rc=$?; echo "exit $rc"; [ $rc = 0 ]; }
check sigterm_exits_0 stops
nothing_left() { ! ls "/var/run/dpdk/$id" 2>/dev/null | grep -q socket; }
check no_socket_is_left nothing_left
report
