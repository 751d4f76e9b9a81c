#!/bin/bash
# The main job on one machine: polluxd in a network namespace of its own, plx-ask in another, a
# veth pair between them. Everything made here is removed at the end, after Ctrl-C as well.
# usage: run.sh BINDIR MODEL BOARD.yml PROMPT [plx-ask options...]
set -eu
for f in "$1/polluxd" "$1/plx-ask" "$1/plx-key"; do
	[ -x "$f" ] || { echo "run: $f is not built; \`make run\` builds it" >&2; exit 1; }
done
[ -f "$2" ] || { echo "run: there is no model file \"$2\"; give one by make run MODEL=/path/to/file.gguf" >&2; exit 1; }
[ -f "$3" ] || { echo "run: there is no board file \"$3\"; give BOARD=name (a folder below board/) or BOARD=/path/to/board.yml" >&2; exit 1; }
bin=$(realpath "$1"); model=$(realpath "$2"); board=$(realpath "$3"); prompt=$4; shift 4

if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || { echo "run: network namespaces need root; run as root or install sudo" >&2; exit 1; }
	exec sudo "$0" "$bin" "$model" "$board" "$prompt" "$@"
fi

id=plx-$$
srv=$id-s cli=$id-c
tmp=$(mktemp -d "/tmp/$id.XXXXXX")
daemon="" pages_added=0

# add_pages: reserve so many that 128 are free. Runs side by side each take back what they added.
add_pages() {
	local lock free
	exec {lock}<"$huge"
	flock "$lock"
	free=$(($(cat "${huge%nr_hugepages}free_hugepages") - $(cat "${huge%nr_hugepages}resv_hugepages")))
	if [ "$free" -lt 128 ]; then
		pages_added=$((128 - free))
		echo $(($(cat "$huge") + pages_added)) >"$huge" || true
	fi
	exec {lock}<&-
}
drop_pages() {
	local lock left
	exec {lock}<"$huge"
	flock "$lock"
	left=$(($(cat "$huge") - pages_added))
	[ "$left" -gt 0 ] || left=0
	# The kernel may let go of a port's pages a while after its process ended. Pages that come
	# back while it shrinks the pool stay in it, so say it again.
	for _ in $(seq 40); do
		echo "$left" >"$huge"
		[ "$(cat "$huge")" -gt "$left" ] || break
		sleep 0.05
	done
	exec {lock}<&-
}

cleanup() {
	trap '' INT TERM
	if [ -n "$daemon" ]; then
		kill -TERM "$daemon" 2>/dev/null || true
		for _ in $(seq 100); do kill -0 "$daemon" 2>/dev/null || break; sleep 0.1; done
		kill -KILL "$daemon" 2>/dev/null || true
		wait "$daemon" 2>/dev/null || true
	fi
	ip netns del "$cli" 2>/dev/null || true
	ip netns del "$srv" 2>/dev/null || true
	[ "$pages_added" = 0 ] || drop_pages
	rm -rf "$tmp" "/var/run/dpdk/$id" "/dev/shm/polluxd-$id"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# 2 MiB pages make DPDK start faster and miss the TLB less; without them polluxd still runs.
huge=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
[ -w "$huge" ] && add_pages

ip netns add "$srv"
ip netns add "$cli"
ip link add plxc netns "$cli" type veth peer name plx0 netns "$srv"
ip -n "$cli" link set lo up
ip -n "$srv" link set lo up
ip -n "$cli" addr add 10.77.0.1/24 dev plxc
ip -n "$cli" addr add fd77::1/64 dev plxc nodad
ip -n "$cli" link set plxc up
ip -n "$srv" link set plx0 up

"$bin/plx-key" new --id 1 --tenant local --file "$tmp/keys" --client "$tmp/client.key" >/dev/null

echo "run: starting polluxd (board $(basename "$(dirname "$board")"), $(basename "$model"))"
: >"$tmp/log"
nsenter --net="/run/netns/$srv" "$bin/polluxd" --board "$board" --model "$model" --keys "$tmp/keys" \
	--file-prefix "$id" 2>>"$tmp/log" &
daemon=$!
shown=0
for i in $(seq 600); do
	now=$(wc -l <"$tmp/log")
	[ "$now" -gt "$shown" ] && { sed -n "$((shown + 1)),${now}p" "$tmp/log"; shown=$now; }
	grep -q 'polluxd: ready' "$tmp/log" && break
	kill -0 "$daemon" 2>/dev/null || { sed -n "$((shown + 1)),\$p" "$tmp/log" >&2; daemon=""; echo "run: polluxd did not start" >&2; exit 1; }
	[ "$i" = 600 ] && { echo "run: polluxd is not ready after 60 s" >&2; exit 1; }
	sleep 0.1
done

echo
nsenter --net="/run/netns/$cli" "$bin/plx-ask" --host 10.77.0.2 --key "$tmp/client.key" "$@" "$prompt" && exit 0
rc=$?
sed -n "$((shown + 1)),\$p" "$tmp/log" >&2 # what polluxd said meanwhile
exit $rc
