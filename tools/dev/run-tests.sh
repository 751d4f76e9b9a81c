#!/bin/bash
# run-tests.sh LABEL PROGRAM...: run each test program, print a line for each, and the sum at the
# end. Output is shown only where a program failed. Adds its counts to $PLX_TALLY when that is set.
set -u
label=$1; shift
passed=0 failed=0 skipped=0
log=$(mktemp); trap 'rm -f "$log"' EXIT
for t in "$@"; do
	start=$(date +%s%N)
	timeout -k 5 "${PLX_TEST_TIMEOUT:-180}" "$t" >"$log" 2>&1; rc=$?
	ms=$(( ($(date +%s%N) - start) / 1000000 ))
	ran=$(sed -n 's/^\[==========\] \([0-9]*\) test(s) run.*/\1/p' "$log" | tail -1)
	bad=$(sed -n 's/^ *\([0-9]*\) FAILED TEST(S).*/\1/p' "$log" | tail -1); bad=${bad:-0}; skip=$(grep -E '^\[  SKIPPED \] [a-z]' "$log" | sort -u | wc -l) # named twice: where it ran, and in the sum
	if [ -z "$ran" ]; then ran=1; skip=0; if [ $rc = 77 ]; then skip=1; fi; fi
	if [ $rc != 0 ] && [ $rc != 77 ] && [ "$bad" = 0 ]; then bad=1; fi
	[ "$bad" -gt "$ran" ] && ran=$bad
	passed=$((passed + ran - bad - skip)) failed=$((failed + bad)) skipped=$((skipped + skip))
	if [ "$bad" = 0 ]; then
		printf '%-9s ok    %-28s %3d tests %6d ms%s\n' "$label" "$(basename "$t")" "$ran" "$ms" "$([ "$skip" != 0 ] && echo "  ($skip skipped: $(grep -m1 -iE 'skip[a-z]*:' "$log" | cut -c1-80))")"
	else
		printf '%-9s FAIL  %-28s exit %d\n' "$label" "$(basename "$t")" "$rc"; cat "$log"
	fi
done
[ -n "${PLX_TALLY:-}" ] && echo "$passed $failed $skipped" >>"$PLX_TALLY"
[ "$failed" = 0 ]
