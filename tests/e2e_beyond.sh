#!/bin/bash
# Texts longer than the context, with the real daemon and model and contexts of 256 tokens: an answer
# and a conversation go on where the request allows it, with the same text each time; without it they
# end, or are refused with the reason. PLX_BIN names the binaries' folder, PLX_TEST_MODEL the model.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/lib/e2e.sh

count="one two three four five six seven eight nine ten eleven twelve"
long=$(for i in 1 2 3 4 5 6 7 8; do echo "Part $i. The fox went to the river and looked at the water for a while, then it went home over the hill. "; done)
longer=$(echo "$long"; echo "$long")

e2e_net
"$bin/plx-key" new --id 1 --tenant local --file "$tmp/keys" --client "$tmp/client.key" >/dev/null
board af_packet
printf 'limits: {context_tokens: 256, prompt_tokens: 700}\n' >>"$tmp/board.yml"
check starts start || { report; exit 1; }
field() { sed "s/.*\"$1\":\"\?\([a-z0-9_ ]*\).*/\1/"; }
raw() { ask --raw --json --ignore-eos --temperature 1 --seed 7 "$@"; }

models() { ask --models | tee /dev/stderr | grep -q '\b256\b'; }
check models_tell_the_context models
ends() {
	raw --max-new 330 "$count" >"$tmp/ends" || return 1
	cut -c 1-200 "$tmp/ends"
	same "$(field finish <"$tmp/ends")" "context full"
}
check without_leave_it_ends ends
goes_on() {
	raw --max-new 330 --beyond-context "$count" >"$tmp/on" || return 1
	same "$(field finish <"$tmp/on")" length || return 1
	# 256 positions, 64 leave at a time: before tokens 256 and 320 of 342 or so.
	same "$(field left_tokens <"$tmp/on")" 128
}
check with_leave_it_goes_on goes_on
ids() { sed 's/.*"ids":\[\([0-9,]*\)\].*/\1/' "$1"; }
same_start() { local n; n=$(ids "$tmp/ends" | tr -d '\n' | wc -c); same "$(ids "$tmp/on" | head -c "$n")" "$(ids "$tmp/ends")"; }
check the_same_as_far_as_both_go same_start
again() { raw --max-new 330 --beyond-context "$count" >"$tmp/again" && same "$(ids "$tmp/again")" "$(ids "$tmp/on")"; }
check the_same_again again
company() { # beside others, in whatever steps
	local i pids=""
	for i in 1 2; do raw --max-new 330 --beyond-context "$count" >"$tmp/c$i" & pids="$pids $!"; done
	raw --max-new 40 --beyond-context "$long" >/dev/null || return 1
	for i in $pids; do wait "$i" || return 1; done
	for i in 1 2; do same "$(ids "$tmp/c$i")" "$(ids "$tmp/on")" || return 1; done
}
check the_same_in_company company
refused() { # 6: the same will be refused again
	exits 6 ask --raw --quiet --max-new 8 "$longer" 2>&1 | tee "$tmp/no"
	grep -q 'exit 6' "$tmp/no" && grep -q 'longer than the context' "$tmp/no"
}
check long_prompts_are_refused_without_leave refused
accepted() {
	raw --max-new 20 --beyond-context "$longer" | tee "$tmp/long" | cut -c 1-200
	[ "$(field left_tokens <"$tmp/long")" -ge 256 ]
}
check long_prompts_run_with_leave accepted
too_long() { exits 6 ask --raw --quiet --max-new 8 --beyond-context "$longer $longer $longer"; }
check prompts_have_a_limit_all_the_same too_long
talk() {
	printf '%s\n' "Tell me about rivers." "And about hills?" "And foxes?" "And the sea?" "And birds?" |
		ask --chat --json --ignore-eos --beyond-context --max-new 80 >"$tmp/talk" || return 1
	field left_tokens <"$tmp/talk"
	same "$(grep -c '"finish":"length"' "$tmp/talk")" 5 && [ "$(tail -1 "$tmp/talk" | field left_tokens)" -ge 128 ]
}
check a_conversation_outgrows_the_context talk
report
