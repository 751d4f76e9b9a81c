#!/bin/bash
# test.sh BUILDDIR MODEL: everything `make test` runs, in order, with one closing line of counts.
set -u
cd "$(dirname "$0")/../.." || exit 1
B=$1; export PLX_TEST_MODEL=$2
export PLX_TALLY; PLX_TALLY=$(mktemp); trap 'rm -f "$PLX_TALLY"' EXIT
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1
# Suites whose point is threads run under the thread sanitizer too.
tsan="test_cpu_device test_stages"
rc=0
step() { echo "== $1"; shift; "$@" || { rc=1; echo "== failed: $*"; }; }
built() { local d=$1; shift; for t in "$@"; do [ -x "$d/$t" ] && echo "$d/$t"; done; }
mk() { make --no-print-directory -j2 "$@" | grep -vE '^  (CC|LD|AR|BPF) ' ; return "${PIPESTATUS[0]}"; }

step "lint" tests/lint.sh
step "build" mk B="$B" all tests
mapfile -t units < <(cd tests && ls test_*.c | sed 's/\.c$//')
step "unit tests" tools/dev/run-tests.sh unit $(built "$B/release" "${units[@]}")
step "build with address and undefined-behaviour sanitizers" mk B="$B" MODE=asan tests
step "unit tests, sanitized" tools/dev/run-tests.sh asan $(built "$B/asan" "${units[@]}")
tsan_have=(); for t in $tsan; do [ -f "tests/$t.c" ] && tsan_have+=("$t"); done
if [ ${#tsan_have[@]} -gt 0 ]; then
	step "build with the thread sanitizer" mk B="$B" MODE=tsan "${tsan_have[@]/#/$B/tsan/}"
	step "threads, sanitized" tools/dev/run-tests.sh tsan "${tsan_have[@]/#/$B/tsan/}"
fi
step "build fuzz targets for their seeds" mk B="$B" MODE=asan fuzzers
step "fuzz seeds" tools/dev/fuzz.sh "$B/asan" seeds
if [ "$(id -u)" = 0 ]; then
	for e in tests/e2e_*.sh; do
		[ -x "$e" ] && step "end to end: $e" env PLX_BIN="$B/release" tools/dev/run-tests.sh e2e "$e"
	done
else
	echo "e2e: skipped: needs root for network namespaces"; echo "0 0 1" >>"$PLX_TALLY"
fi
awk '{p += $1; f += $2; s += $3} END {printf "%d passed, %d failed, %d skipped\n", p, f, s}' "$PLX_TALLY"
awk '{p += $1; f += $2} END {exit !(p > 0 && f == 0)}' "$PLX_TALLY" || rc=1
exit $rc
