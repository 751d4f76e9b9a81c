#!/bin/bash
# `make install` puts the programs below DESTDIR and PREFIX, where they run from any folder, and
# nothing elsewhere; `make uninstall` takes them away again.
set -u
cd "$(dirname "$0")/.." || exit 1
bin=$(realpath "${PLX_BIN:-build/release}")
tmp=$(mktemp -d /tmp/plx-install.XXXXXX)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
check() { # check NAME COMMAND...
	local name=$1; shift
	if "$@" >"$tmp/out" 2>&1; then passed=$((passed + 1)); else
		failed=$((failed + 1)); echo "[  FAILED  ] $name"; cat "$tmp/out"; fi
}
to() { # to TARGET: with a DESTDIR and a PREFIX that both must count
	make --no-print-directory B="$(dirname "$bin")" MODE="$(basename "$bin")" "$1" DESTDIR="$tmp/stage" PREFIX=/opt/pollux
}
at=$tmp/stage/opt/pollux/bin

check install to install
check again to install
for p in polluxd plx-ask plx-key plx-model; do
	check "$p" test -x "$at/$p"
	check "$p is what was built" cmp "$bin/$p" "$at/$p"
done
check nothing_elsewhere test "$(find "$tmp/stage" -type f | grep -vc "^$at/")" = 0
cp tests/golden/tiny/qwen3moe.gguf "$tmp/m.gguf"
inspects() { (cd / && "$at/plx-model" inspect "$tmp/m.gguf") | grep -q 'qwen3moe'; }
check runs_from_there inspects
check daemon_runs_from_there bash -c "cd / && '$at/polluxd' --help"
check uninstall to uninstall
check nothing_left test "$(find "$tmp/stage" -type f | wc -l)" = 0
echo "[==========] $((passed + failed)) test(s) run."
[ "$failed" = 0 ]
