#!/bin/bash
# Compression in the real daemon with the real model: nothing goes without leave, what goes is what
# was allowed, what must stay does, and bad targets are refused by name. PLX_BIN and PLX_TEST_MODEL
# as for e2e_serve.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/lib/e2e.sh

passage=$(sed '/^=====$/,$d' tests/spec/summary.txt)
question="When does the bridge open?"
get() { sed "s/.*\"$1\":\\([0-9.]*\\).*/\\1/"; }
asked() { ask --json --max-new 24 "$@" "$passage
$question" 2>/dev/null; }
within() { # within FIELD JSON LOW HIGH
	awk -v x="$(get "$1" <<<"$2")" -v a="$3" -v b="$4" 'BEGIN { exit !(x >= a && x <= b) }' || { echo "$2"; return 1; }
}
plain() { local j; j=$(asked --beyond-context); ! grep -q pruned <<<"$j" && grep -q '"prompt_tokens"' <<<"$j"; }
ratio() { # ratio R: at most so many went, and more than none
	local j n; j=$(asked --keep-ratio "$1"); n=$(get prompt_tokens <<<"$j")
	within pruned_tokens "$j" 1 "$(awk -v n="$n" -v r="$1" 'BEGIN { print n * (1 - r) }')" && within loss "$j" 0.0001 0.999
}
loss() { local j; j=$(asked --max-loss "$1"); within loss "$j" 0.0001 "$1" && within pruned_tokens "$j" 1 100000; }
kinds() { # what a pruned answer is made by is not only what a plain one is
	local p q; p=$(asked --keep-ratio 0.5 | get numeric_kind); q=$(asked --keep-ratio 0.8 | get numeric_kind)
	[ -n "$p" ] && [ "$p" = "$q" ] && [ "$p" != "$(asked | get numeric_kind)" ]
}
one() { local j; j=$(asked --keep-ratio 1); within pruned_tokens "$j" 0 0 && [ "$(asked | ids_of)" = "$(ids_of <<<"$j")" ]; }
ids_of() { sed 's/.*"ids":\[\([0-9,]*\)\].*/\1/'; }
same() { [ "$(asked --keep-ratio 0.5 | ids_of)" = "$(asked --keep-ratio 0.5 | ids_of)" ]; }
system() { # system messages and short questions are never touched
	local j; j=$(ask --json --max-new 4 --keep-ratio 0.1 --system "$passage" "Is it so?" 2>/dev/null); within pruned_tokens "$j" 0 0
}
kept() { # what --keep and --keep-role name stays; the report is printed even where nothing went
	local j; j=$(asked --keep-ratio 0.3 --keep "$passage"); within pruned_tokens "$j" 0 1 || return 1 # the line end behind it
	j=$(asked --max-loss 0.5 --keep-role user); within pruned_tokens "$j" 0 0 || return 1
	j=$(asked --max-loss 0.5 --keep "${passage:0:200}"); within pruned_tokens "$j" 1 100000 || return 1
	ask --max-new 4 --max-loss 0.5 --keep-role user "$passage
$question" 2>"$tmp/err" >/dev/null && grep -q "compression: 0 prompt tokens removed.*estimated loss 0.000" "$tmp/err"
}
evicted() { # evicted R HOW: at most so much KV went, and more than none
	local j n; j=$(asked --keep-ratio "$1" --compress "$2"); n=$(get prompt_tokens <<<"$j")
	within evicted_tokens "$j" 1 "$(awk -v n="$n" -v r="$1" 'BEGIN { print n * (1 - r) }')" && within loss "$j" 0.0001 0.999
}
late() { local j; j=$(asked --keep-ratio 0.5 --compress late); within evicted_tokens "$j" 0 0 && [ "$(asked | ids_of)" = "$(ids_of <<<"$j")" ]; }
all_kv() { [ "$(asked | ids_of)" = "$(asked --keep-ratio 1 --compress kv | ids_of)" ]; }
same_kv() { [ "$(asked --keep-ratio 0.5 --compress kv | ids_of)" = "$(asked --keep-ratio 0.5 --compress kv | ids_of)" ]; }
refused() { ask --keep-ratio 0.001 --max-new 4 "Hello" >/dev/null 2>"$tmp/err"; [ $? = 6 ] && cat "$tmp/err" && grep -q "option 8\|removes every" "$tmp/err"; }

e2e_net
"$bin/plx-key" new --id 1 --tenant local --file "$tmp/keys" --client "$tmp/client.key" >/dev/null
board af_packet
check starts start || { report; exit 1; }
check nothing_goes_without_leave plain
check ratio_0.8 ratio 0.8
check ratio_0.5 ratio 0.5
check loss_0.1 loss 0.1
check ratio_1_changes_nothing one
check same_text_again same
check the_arithmetic_is_named kinds
check kv_0.8 evicted 0.8 kv
check kv_0.3 evicted 0.3 kv
check both_0.5 evicted 0.5 both
check kv_ratio_1_changes_nothing all_kv
check kv_same_text_again same_kv
check late_without_pressure_takes_nothing late
check system_and_questions_stay system
check what_is_named_stays kept
check removing_all_is_refused refused
check stops stop TERM
report
