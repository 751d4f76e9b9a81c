#!/bin/bash
# The best of several samples, in the real daemon with the real model: what comes back are the
# likeliest of those that the same request makes without the option, best first. PLX_BIN and
# PLX_TEST_MODEL as for e2e_serve.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/lib/e2e.sh

question="Name an animal and say in one sentence where it lives."
asked() { ask --json --max-new 24 --temperature 1 --seed 7 "$@" "$question" 2>/dev/null; }
# means JSON: the mean log-probability of each sample's tokens, with its ids, best first.
means() {
	grep -o '"ids":\[[0-9,]*\],"logprobs":\[[-0-9.e,]*\]' <<<"$1" | sed 's/"ids":\[\([0-9,]*\)\],"logprobs":\[\(.*\)\]/\1 \2/' |
		awk '{ n = split($2, p, ","); s = 0; for (i = 1; i <= n; i++) s += p[i]; printf "%.9f %s\n", s / n, $1 }' | sort -s -g -r
}
get() { sed "s/.*\"$1\":\\([-0-9.]*\\).*/\\1/"; }
ids() { grep -o '"ids":\[[0-9,]*\]' <<<"$1" | sed 's/"ids":\[\(.*\)\]/\1/'; }
best() { # best K [OPTIONS]: the K best of 4
	local k=$1 all got n; shift
	all=$(asked --n 4 --logprobs 0 "$@"); got=$(asked --n "$k" --best-of 4 "$@")
	n=$(ids "$all" | tr , '\n' | wc -l)
	[ "$(means "$all" | head -"$k" | cut -d' ' -f2)" = "$(ids "$got")" ] && [ "$(ids "$all" | sort -u | wc -l)" -gt 1 ] &&
		[ "$(get made_samples <<<"$got")" = 4 ] && [ "$(get made_tokens <<<"$got")" = "$n" ] || { echo "$all"; echo "$got"; return 1; }
}
mean() { # what DONE says of the best is what its log-probabilities say
	local got; got=$(asked --best-of 4 --logprobs 0)
	awk -v a="$(means "$got" | cut -d' ' -f1)" -v b="$(get mean_logprob <<<"$got")" 'BEGIN { exit !(a - b < 1e-4 && b - a < 1e-4) }' || { echo "$got"; return 1; }
}
streamed() { # text as it comes, and the figures in words
	ask --max-new 24 --temperature 1 --seed 7 --best-of 4 "$question" >"$tmp/out" 2>"$tmp/err" || return 1
	[ -s "$tmp/out" ] && grep -q "best of 4: [0-9]* tokens made in all, mean log-probability -" "$tmp/err"
}
too_many() { ask --best-of 64 --max-new 4 "$question" >/dev/null 2>"$tmp/err"; [ $? = 6 ] && grep -q "option 9" "$tmp/err"; }
too_long() { # 8 samples of 4,096 ids with 8 alternatives are more than limits.best_of_tokens
	ask --best-of 8 --max-new 4096 --logprobs 8 "$question" >/dev/null 2>"$tmp/err"
	[ $? = 6 ] && grep -q "held back" "$tmp/err"
}
fewer() { ask --n 3 --best-of 2 "$question" >/dev/null 2>"$tmp/err"; [ $? = 2 ] && grep -q -- "--best-of 2: give at least as many" "$tmp/err"; }
interrupted() { # cancelled while all are made: the next one runs
	timeout -s INT 0.3 nsenter --net="/run/netns/$cli" "$bin/plx-ask" --host "$host" --key "$tmp/client.key" --max-new 900 --ignore-eos --best-of 4 "$question" >"$tmp/out" 2>/dev/null
	[ ! -s "$tmp/out" ] || [ "$(tr -d '\n' <"$tmp/out" | wc -c)" = 0 ] || return 1
	best 1
}
killed() { # while all are made: asked again, the same answer comes
	local want got
	want=$(asked --best-of 4 --raw --ignore-eos --max-new 120)
	nsenter --net="/run/netns/$cli" "$bin/plx-ask" --host "$host" --key "$tmp/client.key" --timeout 30000 --retry --json --temperature 1 \
		--seed 7 --best-of 4 --raw --ignore-eos --max-new 120 "$question" >"$tmp/out" 2>"$tmp/err" & got=$!
	sleep 0.3
	stop KILL
	start && wait "$got" && [ "$(ids "$want")" = "$(ids "$(cat "$tmp/out")")" ] || { cat "$tmp/out" "$tmp/err"; return 1; }
}

e2e_net
"$bin/plx-key" new --id 1 --tenant local --file "$tmp/keys" --client "$tmp/client.key" >/dev/null
board af_packet
check starts start || { report; exit 1; }
check best_1_of_4 best 1
check best_2_of_4 best 2
check all_4_ranked best 4
check with_a_stop_string best 1 --stop " in"
check done_tells_the_mean mean
check streamed_with_figures streamed
check more_than_samples_are_refused too_many
check more_than_is_held_is_refused too_long
check fewer_than_answers_is_refused fewer
check cancelled_in_the_middle interrupted
check killed_in_the_middle killed
check stops stop TERM
report
