#!/bin/bash
# The real daemon with the real model, over AF_PACKET: answers, many clients, bad networks, refusals,
# keys, drain. PLX_BIN names the binaries' folder, PLX_TEST_MODEL the model.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/lib/e2e.sh

octave="one two three four five six seven eight"
count="$octave $octave $octave $octave one two"
count_answer=" three four five six seven eight one two"
chat="What is 2+2?"
chat_answer="The answer to this classic math problem is 4."
prompts=("$chat" "Name three colors." "Say hello.")
# "What is the capital of France?" in the chat template, by the public tokenizer.
france="What is the capital of France?"
france_ids="1 9690 198 2683 359 253 5356 5646 11173 3365 3511 308 34519 28 7018 411 407 19712 8182 2 198 1 4093 198 1780 314 260 3575 282 4649 47 2 198 1 520 9531 198"

e2e_net
"$bin/plx-key" new --id 1 --tenant local --file "$tmp/keys" --client "$tmp/client.key" >/dev/null
"$bin/plx-key" new --id 2 --tenant other --file "$tmp/keys" --client "$tmp/client2.key" >/dev/null
board af_packet
check starts start --log-level debug || { report; exit 1; }

# ---- answers ----
answers() { local want=$1; shift; same "$(ask --quiet "$@")" "$want"; }
json_ids() { ask --json "$@" 2>/dev/null | sed 's/.*"ids":\[\([0-9,]*\)\].*/\1/; s/,/ /g'; }
check greedy_text_is_literal answers "$count_answer" --raw --max-new 8 "$count"
check greedy_chat_is_literal answers "$chat_answer" --max-new 30 "$chat"
at=fd77::2 check ipv6_gives_the_same answers "$chat_answer" --max-new 30 "$chat"
check stop_string_ends_it answers " three four " --raw --max-new 8 --stop five "$count"
check ids_are_as_good_as_text answers "$(json_ids --max-new 8 "$france")" --ids --max-new 8 "$france_ids"
seeded() { ask --quiet --temperature 1 --seed 7 --max-new 12 "$chat"; }
check seed_repeats same "$(seeded)" "$(seeded)"
piped() { same "$(echo "$chat" | ask --quiet --max-new 30)" "$chat_answer"; }
check prompt_from_a_pipe piped
samples() { same "$(ask --quiet --n 2 --max-new 30 "$chat")" "--- answer 1 of 2 ---
$chat_answer
--- answer 2 of 2 ---
$chat_answer"; }
check two_samples samples
figures() { ask --max-new 4 "$chat" 2>&1 | grep -E 'time to first token|tokens/s|prefill|decode' | wc -l | grep -qx 5; }
check figures_follow figures
check pings ask --ping 200
models() { ask --models | grep -q 'vocabulary 49152, width 576, chat yes'; }
check models_are_listed models

# ---- many at once: the texts of one alone, then of 8 clients in one batch ----
for p in "${prompts[@]}"; do ask --quiet --max-new 12 "$p" | sed -z 's/\n$//; s/\n/\\n/g; s/$/\n/'; done >"$tmp/alone"
swarm() { in_cli "$bin/swarm" "${at:-$host}" "${port:-7709}" "$tmp/client.key" 8 2 12 "$tmp/alone" "${prompts[@]}"; }
check eight_clients_same_text swarm
through() { # through RELAYARGS...: the same behind a relay that did what it was told
	relay_up "$@" || return 1
	at=127.0.0.1 port=7700 swarm; local rc=$?
	relay_down
	return $rc
}
check loss_duplication_reordering through --loss 0.1 --dup 0.1 --reorder 0.1 --seed 1
check tampered_replayed_truncated through --corrupt 0.2 --truncate 0.2 --replay 0.3 --spare --seed 2

# ---- the address changes under way ----
moves() {
	relay_up || return 1
	at=127.0.0.1 ask --port 7700 --quiet --max-new 40 --raw --ignore-eos "$count" >"$tmp/moved" &
	local p=$! rc
	sleep 0.5; kill -USR1 "$relay"
	wait $p; rc=$?
	relay_down
	same "$(cat "$tmp/moved")" "$(ask --quiet --max-new 40 --raw --ignore-eos "$count")" && [ $rc = 0 ]
}
check address_change moves

# ---- refusals and limits ----
check deadline_cuts exits 8 ask --deadline 400 --max-new 4000 --ignore-eos --raw "$count"
long() { yes "all work and no play" | head -4000 | exits 6 ask --raw --quiet; }
check prompt_over_the_limit long
# 100 KB in 90 fragments, 10 % of them lost, doubled and late: whole at the other end all the same.
fragments() {
	relay_up --loss 0.1 --dup 0.1 --reorder 0.1 --seed 5 || return 1
	yes "all work and no play" | head -5000 | at=127.0.0.1 exits 6 ask --port 7700 --raw --quiet; local rc=$?
	relay_down
	return $rc
}
check fragments_over_a_bad_network fragments
says() { local want=$1; shift; "$@" 2>&1 | tee /dev/stderr | grep -q "$want"; }
check refusal_is_explained says 'rejected (TOO_LARGE)' bash -c "$(declare -f ask in_cli); bin=$bin cli=$cli host=$host tmp=$tmp; yes 'all work and no play' | head -4000 | ask --raw --quiet"
check no_such_model exits 6 ask --model 99 "$chat"

# ---- keys ----
"$bin/plx-key" new --id 1 --file "$tmp/wrong" --client "$tmp/wrong.key" >/dev/null
"$bin/plx-key" new --id 77 --file "$tmp/wrong" --client "$tmp/unknown.key" >/dev/null
key=$tmp/wrong.key check wrong_key_gets_silence exits 3 ask --timeout 1000 "$chat"
key=$tmp/unknown.key check unknown_key_says_so says 'key id 77' ask --timeout 1000 "$chat"
chmod 644 "$tmp/wrong.key"
key=$tmp/wrong.key check key_file_others_can_read exits 4 ask "$chat"

# ---- Ctrl-C, over a bad network: cancelled, and the appliance is idle again ----
idle() { local i; for i in $(seq 30); do ask --ping 1 | grep -q ' 0 sequences running' && return 0; sleep 0.1; done; ask --ping 1; return 1; }
interrupt() {
	relay_up --loss 0.1 --reorder 0.1 --seed 3 || return 1
	nsenter --net="/run/netns/$cli" "$bin/plx-ask" --host 127.0.0.1 --port 7700 --key "$tmp/client.key" \
		--raw --ignore-eos --max-new 2000 "$count" >"$tmp/int" &
	local p=$! rc
	sleep 1; kill -INT $p; wait $p; rc=$?
	relay_down
	[ $rc = 130 ] && [ -s "$tmp/int" ] && idle
}
check ctrl_c_cancels interrupt

# ---- CANCEL beside and before its REQ: all end once, and the appliance is idle again ----
overtake() {
	relay_up --loss 0.3 --reorder 0.3 --seed 4 || return 1
	in_cli "$bin/swarm" 127.0.0.1 7700 "$tmp/client.key" 4 10 2000 cancel "$chat"; local rc=$?
	relay_down
	[ $rc = 0 ] && idle
}
check cancel_overtakes overtake

# ---- a key is removed while its session runs ----
revoke() {
	nsenter --net="/run/netns/$cli" "$bin/plx-ask" --host $host --key "$tmp/client2.key" \
		--raw --ignore-eos --max-new 2000 "$count" >"$tmp/rev" &
	local p=$! rc
	sleep 0.7
	"$bin/plx-key" remove --id 2 --file "$tmp/keys" && kill -HUP "$daemon"
	wait $p; rc=$?
	echo "exit $rc"
	[ $rc = 4 ] && answers "$chat_answer" --max-new 30 "$chat" && idle
}
check hup_closes_removed_keys revoke
key=$tmp/client2.key check removed_key_gets_silence exits 3 ask --timeout 1000 "$chat"

# ---- drain: what runs finishes, what is new is refused, then exit 0 ----
drain() {
	local t0=$EPOCHREALTIME n p rc new d
	ask --quiet --raw --ignore-eos --max-new 60 "$count" >/dev/null
	n=$((60 * 2500 / $(e2e_ms "$t0") + 20)) # tokens of about two and a half seconds here
	nsenter --net="/run/netns/$cli" "$bin/plx-ask" --host $host --key "$tmp/client.key" --json \
		--raw --ignore-eos --max-new $n "$count" >"$tmp/last" 2>/dev/null & p=$!
	sleep 0.5; kill -TERM "$daemon"; sleep 0.2
	ask --timeout 1000 "$chat" >"$tmp/new" 2>&1; new=$?
	wait $p; rc=$?
	wait "$daemon"; d=$?
	daemon=""
	echo "running: exit $rc; new: exit $new, $(cat "$tmp/new"); polluxd: exit $d"
	grep -q 'draining: 1 requests' "$tmp/log" && grep -q 'rejected (DRAINING)' "$tmp/new" && [ $rc = 0 ] && [ $d = 0 ] &&
		same "$(sed 's/.*"ids":\[\([0-9,]*\)\].*/\1/' "$tmp/last" | tr , '\n' | wc -l)" "$n"
}
check sigterm_drains drain
private() { ! grep -iE '2\+2|three|colors|capital|work and no play|math' "$tmp/log"; }
check no_text_in_the_log private
report
