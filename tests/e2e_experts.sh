#!/bin/bash
# The real daemon with a model whose experts are larger than limits.expert_mem_mib: the answers are those of all in
# memory, alone and to eight clients at once; what it did stands in the metrics; a disk slower than a step's deadline is
# waited for. PLX_BIN names the binaries' folder, PLX_TEST_MODEL the model whose tokenizer is taken.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/lib/e2e.sh

chat="What is 2+2?"
story="Tell a story of a lighthouse keeper who finds a letter in a bottle, a storm that comes, and the ship that answers."
port=$((20000 + $$ % 20000))
"$bin/plx-key" new --id 1 --tenant local --file "$tmp/keys" --client "$tmp/client.key" >/dev/null
"$bin/mkmodel" shape "$model" experts Q4_0 "$tmp/model/experts.gguf" || exit 1
rm "$model"; model=$tmp/model/experts.gguf
e2e_net
board af_packet
answers() { for p in "$chat" "$story"; do ask --quiet --max-new 12 "$p" | sed -z 's/\n$//; s/\n/\\n/g; s/$/\n/' || return 1; done; }
swarm() { in_cli "$bin/swarm" "$host" 7709 "$tmp/client.key" 8 2 12 "$tmp/alone" "$chat" "$story"; }
# same_answers: a daemon that was stopped for long may have timed out: once more, then it counts.
same_answers() { local i; for i in 1 2; do answers >"$tmp/now" && cmp "$tmp/alone" "$tmp/now" && return 0; done; return 1; }
metrics() {
	"$bin/plx-scope" --file "/dev/shm/polluxd-$id" export --listen "127.0.0.1:$port" 2>"$tmp/export.log" & local e=$! i
	for i in $(seq 100); do curl -sS --max-time 10 "http://127.0.0.1:$port/metrics" >"$tmp/metrics" 2>/dev/null && break; sleep 0.1; done
	kill $e; wait $e 2>/dev/null
	grep -c expert "$tmp/metrics"
}
# value NAME: a counter of the stage that runs the device.
value() { sed -n "s/^plx_$1{[^}]*} //p" "$tmp/metrics" | head -1 | sed 's/[.].*//'; }

check all_in_memory start || { report; exit 1; }
answers >"$tmp/alone"
some() { cat "$tmp/alone"; [ "$(wc -l <"$tmp/alone")" = 2 ] && [ "$(wc -c <"$tmp/alone")" -gt 20 ]; }
check answers_are_some some
metrics >/dev/null
counted() { grep expert "$tmp/metrics"; [ "$(value expert_tokens_total)" -gt 100 ] && [ "$(value expert_misses_total)" = 0 ]; }
check all_in_memory_counts counted
check all_in_memory_ends stop TERM

printf 'limits:\n  expert_mem_mib: 4\n' >>"$tmp/board.yml"
check a_third_in_memory start || { report; exit 1; }
check same_answers same_answers
check eight_clients_same_text swarm
metrics >/dev/null
streamed() {
	local t p b h m hot
	grep expert "$tmp/metrics"
	t=$(value expert_tokens_total) p=$(value expert_passes_total) b=$(value expert_busiest_total)
	h=$(value expert_hits_total) m=$(value expert_misses_total) hot=$(value expert_hot_total)
	[ $((h + m)) = "$p" ] && [ "$m" -gt 20 ] && [ "$h" -gt 20 ] && [ "$b" -le "$t" ] && [ "$b" -gt $((p / 16)) ] &&
		[ "$hot" -gt 0 ] && [ "$hot" -lt "$t" ] && [ "$(value expert_read_total)" -gt 4000000 ]
}
check balance_and_heat_in_the_metrics streamed
check a_third_in_memory_ends stop TERM

# Each read takes 120 ms, half a deadline: a step's many take several of them.
printf 'timers:\n  step_deadline_ms: 250\n' >>"$tmp/board.yml"
export LD_PRELOAD=$bin/slowdisk.so SLOWDISK_MS=120
check slow_disk start
unset LD_PRELOAD SLOWDISK_MS
check slow_disk_same_answers same_answers
metrics >/dev/null
in_time() {
	grep -E 'expert_wait|dev_timeouts|dev_faults' "$tmp/metrics"
	[ "$(value dev_timeouts_total)" = 0 ] && [ "$(value dev_faults_total)" = 0 ] && awk '/^plx_expert_wait_seconds_total/ {exit !($2 > 2)}' "$tmp/metrics"
}
check slow_disk_times_nothing_out in_time
check slow_disk_ends stop TERM

echo "weights_cache: off" >>"$tmp/board.yml"
no_file() { in_srv "$bin/polluxd" --file-prefix "$id" --board "$tmp/board.yml" --model "$model" --keys "$tmp/keys" >"$tmp/said" 2>&1; local rc=$?; cat "$tmp/said"; [ $rc != 0 ] && grep -q "weights_cache: auto" "$tmp/said"; }
check no_cache_is_refused no_file
report
