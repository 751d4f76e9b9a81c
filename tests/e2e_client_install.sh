#!/bin/bash
# The client library as an outsider gets it: installed to a temporary prefix, the example built with
# pkg-config and nothing else, static and shared, and run against the toy appliance.
set -u
cd "$(dirname "$0")/.." || exit 1
bin=$(realpath "${PLX_BIN:-build/release}")
B=$(dirname "$bin")
tmp=$(mktemp -d /tmp/plx-client.XXXXXX)
toy=""
trap '[ -n "$toy" ] && kill "$toy" 2>/dev/null; rm -rf "$tmp"' EXIT
passed=0 failed=0
check() { # check NAME COMMAND...
	local name=$1; shift
	if "$@" >"$tmp/out" 2>&1; then passed=$((passed + 1)); else
		failed=$((failed + 1)); echo "[  FAILED  ] $name"; cat "$tmp/out"; fi
}

make --no-print-directory B="$B" install-client PREFIX="$tmp/usr" >"$tmp/log" 2>&1 || { cat "$tmp/log"; exit 1; }
export PKG_CONFIG_PATH=$tmp/usr/lib/pkgconfig
read -ra cflags <<<"$(pkg-config --cflags pollux-client)"
read -ra libs <<<"$(pkg-config --libs pollux-client)"
read -ra slibs <<<"$(pkg-config --static --libs pollux-client)"
cd "$tmp" || exit 1
cp "$OLDPWD/tools/client/example/ask.c" .
check shared_build cc -std=c11 -Wall -Wextra -Werror "${cflags[@]}" -o ask ask.c "${libs[@]}"
check static_build cc -std=c11 "${cflags[@]}" -o ask-static ask.c "${slibs[@]/-lpollux-client/-l:libpollux-client.a}"
printf '#include <pollux/client.h>\nint main() { plx_client_config c; plx_client_config_init(&c); return 0; }\n' >cxx.cc
command -v g++ >/dev/null && check header_is_cxx g++ -Wall -Wextra -Werror "${cflags[@]}" -o cxx cxx.cc "${libs[@]}"
check soname bash -c "objdump -p usr/lib/libpollux-client.so | grep -q 'SONAME *libpollux-client.so.0'"
check only_public_names bash -c "! nm -g --defined-only usr/lib/libpollux-client.a | grep ' T ' | grep -vwFf $OLDPWD/tools/client/symbols.txt"

"$bin/toy_appliance" >port & toy=$!
for _ in $(seq 50); do [ -s port ] && break; sleep 0.1; done
expect="0:0 0:1 0:2"
run() { [ "$("$@" 127.0.0.1 "$(cat port)" - hello | cut -d' ' -f1-3)" = "$expect" ]; }
check shared_run env LD_LIBRARY_PATH=usr/lib bash -c "$(declare -f run); expect='$expect'; run ./ask"
check static_run run ./ask-static
echo "[==========] $((passed + failed)) test(s) run."
[ "$failed" = 0 ]
