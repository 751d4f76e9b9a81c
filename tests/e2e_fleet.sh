#!/bin/bash
# Two CPU devices with the real model: mixed, split into prompts and answers, and one of them frozen in
# the middle of its answers. The texts are those of one device. PLX_BIN names the binaries' folder,
# PLX_TEST_MODEL the model.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/lib/e2e.sh

prompts=("What is 2+2?" "Name three colors." "Say hello.")
count="one two three four five six seven eight one two three four five six seven eight one two"

e2e_net
"$bin/plx-key" new --id 1 --tenant local --file "$tmp/keys" --client "$tmp/client.key" >/dev/null
# pair SED...: the board with two devices, changed.
pair() { sed "s/kind: auto/kind: af_packet/; ${1:-}" board/pair/board.yml >"$tmp/board.yml"; }
# served NAME: what a counter of the batcher stood at when the daemon ended.
served() { sed -n "s/.*batch $1: \([0-9]*\) .*/\1/p" "$tmp/log"; }
long() { ask --quiet --raw --ignore-eos --max-new "${1:-60}" "$count"; }

# ---- one device: the texts ----
board af_packet
check starts start || { report; exit 1; }
for p in "${prompts[@]}"; do ask --quiet --max-new 12 "$p" | sed -z 's/\n$//; s/\n/\\n/g; s/$/\n/'; done >"$tmp/alone"
long 160 >"$tmp/long"
long 600 >"$tmp/longer"
texts() { same "$(grep -c . "$tmp/alone")" 3 && [ "$(wc -w <"$tmp/long")" -gt 40 ]; }
check one_device_texts texts
stop TERM

swarm() { in_cli "$bin/swarm" "$host" 7709 "$tmp/client.key" 8 2 12 "$tmp/alone" "${prompts[@]}"; }
same_long() { same "$(long 160)" "$(cat "$tmp/long")"; }

# ---- two that share ----
pair
check two_start start --log-level debug || { report; exit 1; }
check two_give_the_same_text swarm
check two_give_the_same_long_text same_long
check two_stop stop TERM
share() { # both had steps
	local n; n=$(grep -c 'accel\(\.1\)\? DEV_STEPS: [1-9]' "$tmp/log")
	grep DEV_STEPS "$tmp/log"
	[ "$n" = 2 ]
}
check both_ran share

# ---- prompts here, answers there ----
pair 's/\(cpu0.*\)role: mixed/\1role: prefill/; s/\(cpu1.*\)role: mixed/\1role: decode/'
check split_starts start --log-level debug || { report; exit 1; }
check split_gives_the_same_text swarm
check split_gives_the_same_long_text same_long
split_samples() { same "$(ask --quiet --n 2 --max-new 12 "${prompts[2]}" | grep -v '^---' | sort -u | grep -c .)" "$(head -3 "$tmp/alone" | tail -1 | sed 's/\\n/\n/g' | grep -c .)"; }
check split_gives_samples split_samples
check split_stops stop TERM
# Sixteen of the swarm, one long, one of two samples: all handed over, with their blocks.
handed() { grep FLEET_ "$tmp/log"; [ "$(served FLEET_HANDED)" = 18 ] && [ "$(served FLEET_IMPORTED)" = 18 ]; }
check all_were_handed_over handed

# ---- one freezes ----
pair
# Without drafts, which would be through the text before anything can freeze.
printf 'timers: {stall_ms: 300}\nlimits: {draft_tokens: 0}\n' >>"$tmp/board.yml"
check starts_again start --log-level debug || { report; exit 1; }
thread_of() { local t; for t in /proc/"$daemon"/task/*; do case $(cat "$t/comm") in *worker-"$1") basename "$t";; esac; done; }
frozen() {
	local p i tid pids=""
	for i in 1 2 3 4; do long 600 >"$tmp/long.$i" 2>"$tmp/err.$i" & pids="$pids $!"; done
	sleep 0.5
	tid=$(thread_of 1); echo "thread $tid"
	[ -n "$tid" ] || return 1
	"$bin/overseer" freeze "$tid" 6000 & p=$!
	for i in $pids; do wait "$i" || { cat "$tmp"/err.*; return 1; }; done
	wait $p
	for i in 1 2 3 4; do same "$(cat "$tmp/long.$i")" "$(cat "$tmp/longer")" || return 1; done
}
check frozen_device_loses_nothing frozen
check it_serves_on same_long
check frozen_stops stop TERM
rescued() { grep -E 'FLEET_|DEV_' "$tmp/log"; [ "$(served FLEET_STALLED)" -ge 1 ] && [ "$(served FLEET_RESCUED)" -ge 1 ] && [ "$(served FLEET_RETURNED)" -ge 1 ]; }
check requests_were_rescued rescued
report
