#!/bin/bash
# The CPU device beside the machine's own limits and beside llama.cpp: same machine, threads and
# file, run in turn, nothing else running.
#
#   tests/bench_cpu.sh [MODEL.gguf...]      none: $PLX_TEST_MODEL, else models/; mkmodel makes others
#
#   LLAMA_BENCH=/path/to/llama-bench            an existing build (native); else no comparison
#   LLAMA_BATCHED=/path/to/llama-batched-bench  decode with 8 sequences beside it
#   IK_LLAMA_BENCH=/path/to/llama-bench         ik_llama.cpp's, as a third
#   LIKWID_BENCH=/path/to/likwid-bench          found by itself where it is installed
#   LLAMA_ARGS, IK_ARGS                         further arguments of each
#   PLX_BIN (build/release), RUNS (5), THREADS (2; at most 2)
#   PARTS ("pair batch profile busy")           the last two for the first model alone
#
# Every program computes on THREADS threads, thread i on CPU i: ours pin themselves, likwid-bench
# too, and the peers get OMP_PROC_BIND. Loading, tokenizing and a warm-up run are in no figure.
# Decode is 128 tokens from an empty context, prefill a prompt of 512, eight sequences have
# prompts of 64 and 64 new tokens each. A round runs each program once; RUNS rounds make a
# median and a range.
#
# A token reads the layers' matrices, the head and the norms (mkmodel facts). Its share of the read
# bandwidth is taken by bench_device share: decode and bench_stream's fastest loop in turn, a tenth
# of a second each, on the same threads, since memory that a host shares out changes its rate within
# seconds; the median of all rounds' medians. Where likwid-bench's load_avx512 reads faster than
# bench_stream (best rounds of both), the share falls by that ratio. Prefill's share of the dot
# instruction's peak counts 2 operations for each multiply-accumulate of the layers' matrices, over
# all of prefill's time.
set -u
cd "$(dirname "$0")/.." || exit 1
bin=${PLX_BIN:-build/release}
runs=${RUNS:-5}
threads=${THREADS:-2}
parts=" ${PARTS:-pair batch profile busy} "
likwid=${LIKWID_BENCH:-$(command -v likwid-bench)}
default=${PLX_TEST_MODEL:-models/SmolLM2-135M-Instruct.Q4_1.gguf}
[ $# -gt 0 ] || set -- "$default"
export OMP_PROC_BIND=true OMP_PLACES="{0}:$threads" OMP_NUM_THREADS=$threads

die() { echo "bench_cpu: $*" >&2; exit 1; }
for p in bench_device bench_stream mkmodel; do [ -x "$bin/$p" ] || die "$bin/$p is not there; \`make benches\` builds it"; done
for p in "${LLAMA_BENCH:-}" "${LLAMA_BATCHED:-}" "${IK_LLAMA_BENCH:-}" "$likwid"; do
	[ -z "$p" ] || [ -x "$p" ] || die "$p is not there"
done
[ "$threads" -ge 1 ] && [ "$threads" -le 2 ] || die "THREADS is 1 or 2, not $threads"
[ "$threads" -le "$(nproc)" ] || die "$threads threads on $(nproc) CPUs prove nothing"
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT

# ---- is it quiet? -----------------------------------------------------------------------------
hz=$(getconf CLK_TCK)
machine_ticks() { awk '/^cpu / {print $2 + $3 + $4 + $7 + $8, $9}' /proc/stat; }     # busy, stolen
own_ticks() { sed 's/.*) //' /proc/$$/stat | awk '{print $12 + $13 + $14 + $15}'; } # with children that ended
loud() { # processes that took over 5 % of a CPU in a second, but for this script
	local a=$tmp/loud.a b=$tmp/loud.b
	snap() { cat /proc/[0-9]*/stat 2>/dev/null | sed -E 's/^([0-9]+) \((.*)\) (.*)/\1 \3 \2/' | awk '{print $1, $13 + $14, $NF}'; }
	snap >"$a"; sleep 1; snap >"$b"
	awk -v hz="$hz" -v me=$$ 'NR == FNR {was[$1] = $2; next}
		$1 != me && ($1 in was) && $2 - was[$1] > 0.05 * hz {printf "%s%s (%d, %.0f %%)", (n++ ? ", " : ""), $3, $1, ($2 - was[$1]) * 100 / hz}' "$a" "$b"
}
look_around() {
	local load who
	read -r load _ </proc/loadavg
	who=$(loud)
	[ -z "$who" ] || echo "bench_cpu: WARNING: the machine is not quiet: $who"
	awk -v l="$load" 'BEGIN {exit !(l > 0.5)}' && echo "bench_cpu: WARNING: load average $load: something else ran in the last minute"
}
others_begin() { read -r busy0 steal0 <<<"$(machine_ticks)"; own0=$(own_ticks); t0=$(date +%s.%N); }
others_end() { # what: CPU time that was not ours
	local busy steal own
	read -r busy steal <<<"$(machine_ticks)"; own=$(own_ticks)
	awk -v what="$1" -v b=$((busy - busy0)) -v o=$((own - own0)) -v s=$((steal - steal0)) -v hz="$hz" -v t0="$t0" -v t="$(date +%s.%N)" 'BEGIN {
		share = 100 * (b - o) / hz / (t - t0); stolen = 100 * s / hz / (t - t0)
		printf "bench_cpu: %s: %.0f s; others took %.1f %% of a CPU meanwhile, the host stole %.1f %%%s\n", what, t - t0, share, stolen,
			(share + stolen > 5 ? ": WARNING: not quiet, do not quote these figures" : "")}'
}

# ---- one run of each program; prints one number ------------------------------------------------
ours() { BENCH_RUNS=1 "$bin/bench_device" "$1" auto "$threads" "$2" | sed -nE "s/^bench_device: $2 [0-9]+, .*: ([0-9.]+) tokens.*/\1/p"; }
own_share() { # model: per cent of the read bandwidth
	BENCH_TOKEN_BYTES=$(fact token_bytes) BENCH_RUNS=1 "$bin/bench_device" "$1" auto "$threads" share | sed -nE 's/^bench_device: share, .*: ([0-9.]+) % of .*/\1/p'
}
stream() { # two numbers: GB/s, Gop/s
	"$bin/bench_stream" "$threads" | sed -nE 's/^bench_stream: (read|dot), .*: ([0-9.]+) G.*/\2/p' | tr '\n' ' '
}
load_test=load_avx; grep -qw avx512f /proc/cpuinfo && load_test=load_avx512
likwid_read() { "$likwid" -t "$load_test" -w "N:$((threads * 512))MB:$threads" 2>&1 | awk '/^MByte\/s:/ {print $2 / 1000}'; }
peer() { # llama-bench, model, prompt, new, further arguments
	local p=$1 m=$2 n_prompt=$3 n_new=$4; shift 4
	"$p" -m "$m" -p "$n_prompt" -n "$n_new" -t "$threads" -r 1 -o json "$@" 2>"$tmp/peer.err" | sed -nE 's/.*"avg_ts": ([0-9.]+).*/\1/p'
}
batched() { # model: decode of 8 sequences
	"$LLAMA_BATCHED" -m "$1" -c 4096 -b 2048 -ub 512 -npp 64 -ntg 64 -npl 8 -t "$threads" -tb "$threads" 2>"$tmp/peer.err" |
		awk -F'|' '$4 + 0 == 8 {gsub(/ /, "", $9); print $9}'
}

# ---- figures -----------------------------------------------------------------------------------
note() { # name, value
	if [ -n "$2" ]; then echo "$2" >>"$tmp/$1"; return; fi
	echo "bench_cpu: $label: $1 gave no figure: $(tail -n 1 "$tmp/peer.err" 2>/dev/null)"
}
stats() { # name: median lowest highest, or nothing
	[ -s "$tmp/$1" ] || return 1
	sort -g "$tmp/$1" | awk '{v[NR] = $1} END {print (NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2), v[1], v[NR]}'
}
median() { stats "$1" | cut -d' ' -f1; }
best() { stats "$1" | cut -d' ' -f3; }
calc() { awk "BEGIN {printf \"$1\", $2}"; }
fact() { sed -nE "s/.*\\b$1=([^ ]+).*/\1/p" "$tmp/facts"; }
line() { # what, name of the figure, unit
	local m lo hi
	read -r m lo hi <<<"$(stats "$2")"
	[ -z "$m" ] || printf 'bench_cpu: %s, %s: %.2f %s (%.2f to %.2f over %d runs)\n' "$label" "$1" "$m" "$3" "$lo" "$hi" "$(wc -l <"$tmp/$2")"
}
ratio() { # what, ours, theirs, whose
	local a b
	a=$(median "$2"); b=$(median "$3")
	[ -z "$a" ] || [ -z "$b" ] || echo "bench_cpu: $label, $1: $(calc %.2f "$a / $b") times $4"
}
share() { # figure x per / whole, in per cent: "n.n %", or "-"
	local a; a=$(median "$1")
	if [ -n "$a" ] && [ -n "$3" ]; then calc '%.1f %%' "100 * $a * $2 / $3"; else echo -; fi
}
cell() { # median (range), or "-"
	local m lo hi
	read -r m lo hi <<<"$(stats "$1")"
	if [ -n "$m" ]; then calc "%.1f (%.1f to %.1f)" "$m, $lo, $hi"; else echo -; fi
}
beside() { # ours, theirs: their cell and our ratio, or "-"
	local a b
	a=$(median "$1"); b=$(median "$2")
	if [ -n "$a" ] && [ -n "$b" ]; then echo "$(cell "$2"), $(calc %.2f "$a / $b")"; else echo -; fi
}

pair_rounds() { # model
	local gb gop
	for _ in $(seq "$runs"); do
		read -r gb gop <<<"$(stream)"
		note stream "$gb"; note dot "$gop"
		note decode "$(ours "$1" decode)"
		note share "$(own_share "$1")"
		[ -z "$likwid" ] || note likwid "$(likwid_read)"
		[ -z "${LLAMA_BENCH:-}" ] || note peer_decode "$(peer "$LLAMA_BENCH" "$1" 0 128 ${LLAMA_ARGS:-})"
		note prefill "$(ours "$1" prefill)"
		[ -z "${LLAMA_BENCH:-}" ] || note peer_prefill "$(peer "$LLAMA_BENCH" "$1" 512 0 ${LLAMA_ARGS:-})"
		[ -z "${IK_LLAMA_BENCH:-}" ] || note ik_decode "$(peer "$IK_LLAMA_BENCH" "$1" 0 128 ${IK_ARGS:-})"
		[ -z "${IK_LLAMA_BENCH:-}" ] || note ik_prefill "$(peer "$IK_LLAMA_BENCH" "$1" 512 0 ${IK_ARGS:-})"
	done
}
batch_rounds() { # model
	for _ in $(seq "$runs"); do
		note batch "$(ours "$1" batch)"
		[ -z "${LLAMA_BATCHED:-}" ] || note peer_batch "$(batched "$1")"
	done
}
pair_report() {
	local bytes macs read_gb dot scale
	bytes=$(fact token_bytes); macs=$(fact layer_macs); dot=$(median dot)
	read_gb=$(printf '%s\n' "$(median stream)" "$(median likwid)" | sort -g | tail -1)
	line "read-only stream, ours" stream GB/s; line "likwid-bench $load_test" likwid GB/s
	line "dot instruction alone" dot Gop/s
	scale=$(calc %.4f "$(best stream) / $(printf '%s\n' "$(best stream)" "$(best likwid)" | sort -g | tail -1)")
	line "decode's share of bench_stream's rate, in turn" share %
	line "decode 128" decode tokens/s; line "decode 128, llama.cpp" peer_decode tokens/s; line "decode 128, ik_llama.cpp" ik_decode tokens/s
	echo "bench_cpu: $label, decode reads $(calc %.2f "$bytes / 1e6") MB a token: $(calc %.2f "$bytes * $(median decode) / 1e9") GB/s; its share of the read bandwidth is $(calc '%.1f %%' "$(median share) * $scale") in turn, $(share decode "$bytes / 1e9" "$read_gb") by the rounds' medians (llama.cpp $(share peer_decode "$bytes / 1e9" "$read_gb"), ik_llama.cpp $(share ik_decode "$bytes / 1e9" "$read_gb"))"
	ratio decode decode peer_decode llama.cpp; ratio decode decode ik_decode ik_llama.cpp
	line "prefill 512" prefill tokens/s; line "prefill 512, llama.cpp" peer_prefill tokens/s; line "prefill 512, ik_llama.cpp" ik_prefill tokens/s
	echo "bench_cpu: $label, prefill: $(calc %.1f "2 * $macs * $(median prefill) / 1e9") Gop/s, $(share prefill "2 * $macs / 1e9" "$dot") of the dot instruction's peak (llama.cpp $(share peer_prefill "2 * $macs / 1e9" "$dot"), ik_llama.cpp $(share ik_prefill "2 * $macs / 1e9" "$dot"))"
	ratio prefill prefill peer_prefill llama.cpp; ratio prefill prefill ik_prefill ik_llama.cpp
	echo "| $label | $(cell decode) | $(calc %.1f "$bytes * $(median decode) / 1e9") of $(calc %.1f "$read_gb"), in turn $(calc '%.1f %%' "$(median share) * $scale") | $(beside decode peer_decode) | $(beside decode ik_decode) | $(cell prefill) | $(share prefill "2 * $macs / 1e9" "$dot") | $(beside prefill peer_prefill) | $(beside prefill ik_prefill) |" >>"$tmp/table.pair"
}
batch_report() {
	line "decode, 8 sequences" batch tokens/s; line "decode, 8 sequences, llama-batched-bench" peer_batch tokens/s
	ratio "8 sequences" batch peer_batch llama-batched-bench
	echo "| $label | $(cell batch) | $(beside batch peer_batch) |" >>"$tmp/table.batch"
}

# ---- all of it ---------------------------------------------------------------------------------
began=$(date +%s)
echo "bench_cpu: machine: $(sed -n 's/^model name\t*: //p' /proc/cpuinfo | head -1), $(nproc) CPUs, Linux $(uname -r), $(date -u +%F), transparent huge pages $(sed -E 's/.*\[(.*)\].*/\1/' /sys/kernel/mm/transparent_hugepage/enabled 2>/dev/null)"
echo "bench_cpu: $threads threads, thread i on CPU i in every program; $runs rounds"
for p in "${LLAMA_BENCH:-}" "${IK_LLAMA_BENCH:-}"; do
	[ -z "$p" ] || echo "bench_cpu: peer: $("$p" --version 2>&1 | grep -m1 -E '^version' || echo "$(basename "$p"), version not said")"
done
look_around
for m in "$@"; do
	[ -r "$m" ] || { echo "bench_cpu: $m: SKIPPED, no such file"; continue; }
	label=$(basename "$m" .gguf)
	rm -f "$tmp"/{stream,dot,likwid,share,decode,prefill,batch,peer_decode,peer_prefill,peer_batch,ik_decode,ik_prefill}
	"$bin/mkmodel" facts "$m" >"$tmp/facts" || continue
	others_begin
	[[ $parts != *" pair "* ]] || pair_rounds "$m"
	[[ $parts != *" batch "* ]] || batch_rounds "$m"
	others_end "$label"
	[ -s "$tmp/decode" ] && [ -s "$tmp/prefill" ] && pair_report
	[ -s "$tmp/batch" ] && batch_report
done
[[ $parts != *" profile "* ]] || [ ! -r "$1" ] || "$bin/bench_device" "$1" auto "$threads" profile
if [[ $parts == *" busy "* ]]; then
	export PLX_TEST_MODEL=$1
	[ -x "$bin/bench_busy" ] && "$bin/bench_busy" busy
	[ -x "$bin/bench_many" ] && "$bin/bench_many"
fi
echo "bench_cpu: all of it took $(($(date +%s) - began)) s"
if [ -s "$tmp/table.pair" ]; then
	echo
	echo "| model | decode 128, tokens/s | GB/s of read bandwidth | llama.cpp, ratio | ik_llama.cpp, ratio | prefill 512, tokens/s | of dot peak | llama.cpp, ratio | ik_llama.cpp, ratio |"
	echo "|---|---|---|---|---|---|---|---|---|"
	cat "$tmp/table.pair"
fi
if [ -s "$tmp/table.batch" ]; then
	echo
	echo "| model | decode, 8 sequences, tokens/s in all | llama-batched-bench, ratio |"
	echo "|---|---|---|"
	cat "$tmp/table.batch"
fi
exit 0
