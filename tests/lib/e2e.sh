# shellcheck shell=bash
# Shared by tests/e2e_*.sh: namespaces, the daemon, checks. Source it from the repository's root.
#
# Everything is named plx-<pid>-... and removed by e2e_cleanup, also after a failure.
bin=$(realpath "${PLX_BIN:-build/release}")
model=$(realpath "${PLX_TEST_MODEL:-models/SmolLM2-135M-Instruct.Q4_1.gguf}")
id=plx-$$
srv=$id-s cli=$id-c
tmp=$(mktemp -d "/tmp/$id.XXXXXX")
daemon="" helpers="" n_run=0 n_failed=0
host=10.77.0.2

e2e_cleanup() {
	local p
	for p in $daemon $helpers; do kill -KILL "$p" 2>/dev/null; wait "$p" 2>/dev/null; done
	ip netns del "$cli" 2>/dev/null; ip netns del "$srv" 2>/dev/null
	rm -rf "$tmp" "/var/run/dpdk/$id" "/dev/shm/polluxd-$id"
}
trap e2e_cleanup EXIT
trap 'exit 130' INT TERM

skip() { echo "skip: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "needs root for network namespaces"
[ -f "$model" ] || skip "no model at $model"
# polluxd leaves a file beside the model: here that is a folder of our own.
mkdir "$tmp/model"
ln "$model" "$tmp/model/" 2>/dev/null || cp "$model" "$tmp/model/" || exit 1
model=$tmp/model/$(basename "$model")
for f in polluxd plx-ask plx-key relay swarm; do [ -x "$bin/$f" ] || { echo "no $bin/$f"; exit 1; }; done

# check NAME COMMAND...: one test; its output is shown only if it fails. Returns whether it passed.
check() {
	local name=$1 t0=$EPOCHREALTIME; shift
	n_run=$((n_run + 1))
	if "$@" >"$tmp/check" 2>&1; then
		if [ -n "${PLX_E2E_VERBOSE:-}" ]; then echo "[       OK ] $name $(e2e_ms "$t0") ms"; tail -3 "$tmp/check"; fi
		return 0
	fi
	n_failed=$((n_failed + 1)); echo "[  FAILED  ] $name ($(e2e_ms "$t0") ms)"; sed 's/^/    /' "$tmp/check" | tail -30
	return 1
}
e2e_ms() { local t1=$EPOCHREALTIME; echo $(( (${t1/./} - ${1/./}) / 1000 )); }
# report: the closing line that run-tests.sh reads.
report() {
	if [ "$n_failed" != 0 ] && [ -f "$tmp/log" ]; then echo "polluxd's log:"; tail -40 "$tmp/log"; fi
	echo "[==========] $n_run test(s) run."
	[ "$n_failed" = 0 ]
}

e2e_net() {
	ip netns add "$srv" && ip netns add "$cli" || exit 1
	ip link add plxc netns "$cli" type veth peer name plx0 netns "$srv"
	ip -n "$cli" link set lo up; ip -n "$srv" link set lo up
	ip -n "$cli" addr add 10.77.0.1/24 dev plxc
	ip -n "$cli" addr add fd77::1/64 dev plxc nodad
	ip -n "$cli" link set plxc up; ip -n "$srv" link set plx0 up
}
in_cli() { nsenter --net="/run/netns/$cli" "$@"; }
in_srv() { nsenter --net="/run/netns/$srv" "$@"; }

# board KIND: the devbox board with its port of that kind.
board() { sed "s/kind: auto/kind: $1/" board/devbox/board.yml >"$tmp/board.yml"; }

# start: polluxd in its namespace, ready when this returns; else its log is shown.
start() {
	: >"$tmp/log"
	nsenter --net="/run/netns/$srv" "$bin/polluxd" --board "$tmp/board.yml" --model "$model" --keys "$tmp/keys" \
		--file-prefix "$id" "$@" 2>>"$tmp/log" &
	daemon=$!
	local i
	for i in $(seq 600); do
		grep -q 'polluxd: .*ready$' "$tmp/log" && return 0
		kill -0 "$daemon" 2>/dev/null || break
		sleep 0.1
	done
	echo "polluxd did not become ready:"; cat "$tmp/log"; return 1
}
# stop SIGNAL: end the daemon; returns its exit code.
stop() {
	local rc
	kill "-$1" "$daemon" 2>/dev/null
	wait "$daemon"; rc=$?
	daemon=""
	return "$rc"
}
ask() { in_cli "$bin/plx-ask" --host "${at:-$host}" --key "${key:-$tmp/client.key}" "$@"; }
# exits CODE COMMAND...: whether the command exits so.
exits() { local want=$1 rc; shift; "$@"; rc=$?; echo "exit $rc, wanted $want"; [ "$rc" = "$want" ]; }
same() { [ "$1" = "$2" ] || { printf 'got:    %s\nwanted: %s\n' "$1" "$2"; return 1; }; }
# relay_up ARGS...: a relay in the client's namespace on 127.0.0.1:7700 towards the appliance.
relay_up() {
	nsenter --net="/run/netns/$cli" "$bin/relay" --listen 127.0.0.1:7700 --to "$host:7709" "$@" >"$tmp/relay" & relay=$!
	helpers="$helpers $relay"
	for _ in $(seq 50); do grep -q ready "$tmp/relay" && return 0; sleep 0.1; done
	return 1
}
relay_down() { kill -TERM "$relay" 2>/dev/null; wait "$relay" 2>/dev/null; helpers=${helpers/ $relay/}; cat "$tmp/relay"; }
