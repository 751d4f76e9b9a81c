#!/bin/bash
# fuzz.sh DIR seeds|SECONDS: run each fuzz target on its committed seeds, or for a time. New inputs
# stay in DIR/corpus; a crash leaves its input in DIR/crash.
set -u
cd "$(dirname "$0")/../.." || exit 1
dir=$1 how=$2 bad=0 n=0
for t in "$dir"/fuzz_*; do
	[ -x "$t" ] && [ -f "$t" ] || continue
	name=$(basename "$t"); seeds=tests/seeds/${name#fuzz_}
	mkdir -p "$dir/corpus/$name" "$dir/crash"
	args=("-artifact_prefix=$dir/crash/$name-" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1)
	if [ "$how" = seeds ]; then # a plain build: it takes files and no options
		mapfile -t files < <(find "$seeds" -type f 2>/dev/null)
		run=("$t" "${files[@]}")
	else
		dirs=("$dir/corpus/$name"); [ -d "$seeds" ] && dirs+=("$seeds")
		run=("$t" "${args[@]}" "-max_total_time=$how" -max_len=65536 "${dirs[@]}")
	fi
	if "${run[@]}" >"$dir/$name.log" 2>&1; then
		n=$((n + 1)); printf 'fuzz      ok    %-28s %s\n' "$name" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$dir/$name.log") inputs"
	else
		bad=$((bad + 1)); printf 'fuzz      FAIL  %s\n' "$name"; tail -40 "$dir/$name.log"
	fi
done
[ -n "${PLX_TALLY:-}" ] && echo "$n $bad 0" >>"$PLX_TALLY"
[ "$bad" = 0 ]
