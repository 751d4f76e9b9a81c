#!/bin/bash
# plx-scope beside a real polluxd: the live picture, why, a recording with the kernel's part and its
# trace, a real Prometheus that scrapes it, and an end that is seen.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/lib/e2e.sh

chat="What is 2+2?"
port=$((20000 + $$ % 20000))
prom_port=$((port + 1))
file=/dev/shm/polluxd-$id
scope() { "$bin/plx-scope" --file "$file" "$@"; }
get() { curl -sS --max-time 10 "$@"; }

e2e_net
"$bin/plx-key" new --id 1 --tenant local --file "$tmp/keys" --client "$tmp/client.key" >/dev/null
board af_packet
check starts start || { report; exit 1; }
ask --quiet --max-new 24 "$chat" >/dev/null

# ---- looking ----
mode() { same "$(stat -c %a "$file")" 640; }
check file_is_for_its_group mode
top() { scope top --once >"$tmp/top"; cat "$tmp/top"; grep -qE '^requests: 0 in flight, 0 running, 0 waiting; 1 done' "$tmp/top"; }
check top_shows_what_was_done top
list() { scope list | grep -qE '^[0-9]+-[0-9]+ .* done$'; }
check list_shows_the_request list
req=$(scope list | awk '/ done$/ {r = $1} END {print r}')
why() { scope why "$req" "$1" >"$tmp/why" && grep -qE "^token $1 of $req took " "$tmp/why" &&
	awk '/^> |^  (receive|wait|encode|schedule|device|collect|text|send)/ {n++} END {exit n < '"$2"'}' "$tmp/why"; }
check why_first_token why 0 11
check why_later_token why 5 7
refused() { ! scope why 1-999999 2>"$tmp/err" && grep -q 'plx-scope list' "$tmp/err"; }
check why_of_nothing_says_so refused
no_text() { ! grep -aqF "2+2" "$file"; }
check no_prompt_text_in_the_file no_text

# ---- recording, with the kernel's part where eBPF is allowed ----
record() {
	scope record -o "$tmp/rec" --seconds 2 2>"$tmp/rec.log" & local r=$!
	for _ in $(seq 100); do grep -q recording "$tmp/rec.log" && break; sleep 0.1; done
	ask --quiet --max-new 24 "$chat" >/dev/null; wait $r || { cat "$tmp/rec.log"; return 1; }
	"$bin/plx-scope" replay "$tmp/rec" | grep -q ' step .* tokens of 1 sequences' &&
		"$bin/plx-scope" --file "$tmp/rec" list | grep -q ' done$' &&
		"$bin/plx-scope" trace "$tmp/rec" -o "$tmp/trace.json" && jq_ok
}
jq_ok() { python3 -c 'import json, sys; t = json.load(open(sys.argv[1]))["traceEvents"]; sys.exit(not any(e["ph"] == "X" and e["name"] == "step" for e in t))' "$tmp/trace.json"; }
check record_replay_trace record
cat "$tmp/rec.log"

# ---- exporter ----
"$bin/plx-scope" --file "$file" export --listen 127.0.0.1:$port --names vllm,gen_ai 2>"$tmp/export.log" & helpers="$helpers $!"
for _ in $(seq 50); do get -o /dev/null "http://127.0.0.1:$port/" 2>/dev/null && break; sleep 0.1; done
plain() { get "http://127.0.0.1:$port/metrics" | grep -q '^plx_req_done_total{stage="batch"} 2$'; }
check exporter_counts plain
open() { get -H 'Accept: application/openmetrics-text' "http://127.0.0.1:$port/metrics" | tail -1 | grep -q '^# EOF$'; }
check open_metrics open
if command -v promtool >/dev/null; then
	tool() { get "http://127.0.0.1:$port/metrics" | promtool check metrics >"$tmp/pt" 2>&1; local rc=$?; cat "$tmp/pt"; [ $rc = 0 ] || [ $rc = 3 ]; }
	check promtool_takes_it tool
fi
if command -v prometheus >/dev/null; then
	mkdir "$tmp/prom"; cp tools/scope/rules/*.yml "$tmp/prom/"
	sed -i "s/127.0.0.1:9477/127.0.0.1:$port/; s/scrape_interval: 5s/scrape_interval: 200ms/; s/evaluation_interval: 15s/evaluation_interval: 1s/" "$tmp/prom/prometheus.yml"
	prometheus --config.file="$tmp/prom/prometheus.yml" --storage.tsdb.path="$tmp/prom/data" --enable-feature=exemplar-storage \
		--web.listen-address=127.0.0.1:$prom_port >"$tmp/prom.log" 2>&1 & helpers="$helpers $!"
	scraped() {
		for _ in $(seq 100); do
			get "http://127.0.0.1:$prom_port/api/v1/query?query=plx_req_done_total" 2>/dev/null | grep -q '"2"\]' && return 0
			sleep 0.1
		done
		get "http://127.0.0.1:$prom_port/api/v1/targets"; tail -5 "$tmp/prom.log"; return 1
	}
	check prometheus_scrapes scraped
	exemplars() {
		get "http://127.0.0.1:$prom_port/api/v1/query_exemplars?query=plx_itl_seconds_bucket&start=$(($(date +%s) - 600))&end=$(($(date +%s) + 60))" |
			grep -q '"request":"[0-9]*-[0-9]*"'
	}
	check prometheus_keeps_exemplars exemplars
else
	echo "skip: no prometheus here (Debian: prometheus): not scraped"
fi

# ---- probes for bpftrace ----
notes() { local n; for n in request_begin first_token request_end request_reject; do readelf -n "$bin/polluxd" | grep -q "Name: $n\$" || { echo "no note $n"; return 1; }; done; }
check probes_are_in_the_program notes
if command -v bpftrace >/dev/null && bpftrace -e 'BEGIN { exit() }' >/dev/null 2>&1; then
	# traced SCRIPT PATTERN [ARG]: what the script printed about one request.
	traced() {
		local t
		bpftrace -p "$daemon" "tools/scope/bpftrace/$1" ${3:-} >"$tmp/bt" 2>&1 & t=$!
		for _ in $(seq 100); do grep -q Attaching "$tmp/bt" && break; sleep 0.1; done
		sleep 0.3; ask --quiet --max-new 4 "$chat" >/dev/null
		sleep 0.1; kill -INT $t; wait $t
		cat "$tmp/bt"; grep -qE "$2" "$tmp/bt"
	}
	check bpftrace_first_tokens traced ttft.bt '@longest_us: [1-9][0-9]{2,}'
	check bpftrace_slow_requests traced slow.bt '^[0-9]+-[0-9]+ done: first token after [0-9]+ us, all after [0-9]+ us$' 0
	check bpftrace_ends traced ends.bt '@ended\[1\]: 1'
else
	echo "skip: no bpftrace here (Debian: bpftrace): its scripts are not run"
fi

# ---- the end ----
kill -TERM "$daemon"; wait "$daemon"; daemon=""
gone() { get "http://127.0.0.1:$port/metrics" | grep -q '^plx_up 0$' && [ ! -e "$file" ]; }
check end_is_seen gone
report
