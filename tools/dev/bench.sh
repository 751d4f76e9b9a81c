#!/bin/bash
# bench.sh DIR MODEL: every benchmark, one figure a line with its unit, under a line that says what
# machine this is. Peers come by path, as tests/bench_cpu.sh says; it also takes other models.
set -u
cd "$(dirname "$0")/../.." || exit 1
dir=$1; export PLX_TEST_MODEL=$2 PLX_BIN=$1
echo "machine: $(sed -n 's/^model name\t*: //p' /proc/cpuinfo | head -1), $(nproc) CPUs, Linux $(uname -r), $(date -u +%F)"
steal() { awk '/^cpu / {print $9}' /proc/stat; }
before=$(steal)
for b in "$dir"/bench_*; do
	[ -x "$b" ] && [ -f "$b" ] || continue
	echo "-- $(basename "$b")"
	timeout 300 "$b" || echo "$(basename "$b"): exit $?"
done
export PARTS="${PARTS:-pair batch profile}" # bench_busy and bench_many ran above
for b in tests/bench_*.sh; do
	[ -x "$b" ] || continue
	echo "-- $(basename "$b")"
	timeout 1200 "$b" || echo "$(basename "$b"): exit $?"
done
echo "machine: $(( $(steal) - before )) ticks were stolen by the host meanwhile"
