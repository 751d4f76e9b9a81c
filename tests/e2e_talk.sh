#!/bin/bash
# Long interactions with the real daemon and model: three turns of a conversation, each of which sends
# and computes only what is new, with the text of the conversation sent whole; an answer that goes on
# after the daemon was killed. PLX_BIN names the binaries' folder, PLX_TEST_MODEL the model.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/lib/e2e.sh

turns="Say hello.
What is the capital of France?
And of Italy?"
count="one two three four five six seven eight one two three four"

e2e_net
"$bin/plx-key" new --id 1 --tenant local --file "$tmp/keys" --client "$tmp/client.key" >/dev/null
board af_packet
# Whole conversations first: an appliance that keeps nothing.
printf 'limits: {kept_tokens: 0}\n' >>"$tmp/board.yml"
check starts start || { report; exit 1; }
talk() { echo "$turns" | ask --chat --json --max-new 40 2>/dev/null; }
texts() { sed 's/.*"text":"\(.*\)","ids.*/\1/'; }
field() { sed "s/.*\"$1\":\([0-9]*\).*/\1/"; }
talk >"$tmp/whole"
# One of them ends by itself, one is cut: what goes on differs from what was made by an end of turn.
three_answers() {
	cat "$tmp/whole"
	same "$(texts <"$tmp/whole" | grep -c .)" 3 && grep -q '"end of text"' "$tmp/whole" && grep -q '"length"' "$tmp/whole"
}
check three_answers three_answers
stop TERM
board af_packet
printf 'limits: {request_bytes: 2048}\n' >>"$tmp/board.yml"
check starts_again start --log-level debug || { report; exit 1; }

talk >"$tmp/talk"
same_text() { same "$(texts <"$tmp/talk")" "$(texts <"$tmp/whole")"; }
check same_text_as_the_whole_conversation same_text
# cached_tokens: every full block (32) of what ran before, prompt and answer.
only_new() {
	local p c n before=0 line
	while read -r line; do
		p=$(field prompt_tokens <<<"$line") c=$(field cached_tokens <<<"$line")
		n=$(sed 's/.*"ids":\[\([0-9,]*\)\].*/\1/' <<<"$line" | tr , '\n' | wc -l)
		echo "$p tokens, $c cached, $n made; $before before"
		[ "$before" = 0 ] || [ "$c" = $(((before - 1) / 32 * 32)) ] || return 1
		before=$((p + n))
	done <"$tmp/talk"
}
check only_new_tokens_run only_new
# A conversation that no request here could hold whole.
longer() {
	local i
	for i in 1 2 3; do echo "Turn $i: $(yes 'all work and no play' | head -40 | tr '\n' ' ')"; done |
		ask --chat --json --max-new 4 2>&1 | tee "$tmp/longer"
	same "$(grep -c '"finish"' "$tmp/longer")" 3
}
check longer_than_a_request longer
said() { printf '%s\n' "$turns" | ask --chat --max-new 40 2>&1 | tee /dev/stderr | grep -Eq '^\[[0-9]+ tokens before the answer, (32|64|96|128|160) of them cached'; }
check chat_tells_what_was_cached said
many() { # more conversations than a session may keep: each goes on all the same
	local i
	for i in 1 2 3 4 5 6; do printf 'Say %s.\n/reset\nSay it again, %s.\nAnd again.\n' $i $i; done | ask --chat --quiet --max-new 6
}
check reset_and_begin_anew many

# Killed under an answer, which goes on behind what came when the daemon is there again.
resumed() {
	local p rc
	nsenter --net="/run/netns/$cli" "$bin/plx-ask" --host $host --key "$tmp/client.key" --timeout 30000 --retry --quiet \
		--raw --ignore-eos --temperature 1 --seed 5 --max-new 250 "$count" >"$tmp/resumed" 2>"$tmp/err" & p=$!
	for _ in $(seq 200); do [ -s "$tmp/resumed" ] && break; sleep 0.02; done
	stop KILL
	start --log-level debug || return 1
	wait $p; rc=$?
	echo "exit $rc, $(cat "$tmp/err")"
	[ $rc = 0 ] && grep -q 'restarted\|nothing came' "$tmp/err" && ! grep -q anew "$tmp/err" &&
		same "$(cat "$tmp/resumed")" "$(ask --quiet --raw --ignore-eos --temperature 1 --seed 5 --max-new 250 "$count")"
}
check answer_outlives_the_daemon resumed
private() { ! grep -iE 'capital|france|italy|no play' "$tmp/log"; }
check no_text_in_the_log private
report
