#!/bin/bash
# polluxd's manners: every exit code with its message, nothing left behind, --check, the start-up
# log, systemd's notify protocol, several ports and queues, one lcore, the drain's limit.
# PLX_BIN names the binaries' folder, PLX_TEST_MODEL the model.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/lib/e2e.sh

chat="What is 2+2?"
chat_answer="The answer to this classic math problem is 4."
answers() { local want=$1; shift; same "$(ask --quiet "$@")" "$want"; }

e2e_net
"$bin/plx-key" new --id 1 --tenant local --file "$tmp/keys" --client "$tmp/client.key" >/dev/null
small() { sed '/^limits:/,$d' "$1"; printf 'limits: {n_kv_blocks: 128}\n'; }
small board/devbox/board.yml >"$tmp/board.yml"

# ---- each mistake: its exit code, its message, nothing left; what --check can know it says too ----
left() {
	if [ -e "/var/run/dpdk/$id" ]; then echo "left: /var/run/dpdk/$id"; return 0; fi
	if ip -n "$srv" link show plx0 | grep xdp; then echo "left: an XDP program"; return 0; fi
	return 1
}
# refused CODE TEXT ARGS...: polluxd with these arguments (--keys, --model as given) ends so.
refused() {
	local want=$1 text=$2 rc; shift 2
	in_srv timeout 20 "$bin/polluxd" --file-prefix "$id" "$@" >"$tmp/said" 2>&1; rc=$?
	cat "$tmp/said"
	[ $rc = "$want" ] || { echo "exit $rc, wanted $want"; return 1; }
	grep -qF -- "$text" "$tmp/said" || { echo "it does not say: $text"; return 1; }
	! left
}
b=$tmp/bad.yml
bad() { sed "$@" "$tmp/board.yml" >"$b"; } # the good board, edited
with() { refused "$1" "$2" --board "$b" --model "$model" --keys "$tmp/keys" "${@:3}"; }
line() { grep -n "$1" "$b" | head -1 | cut -d: -f1; }

bad 's/^board:.*/&\ninsecure: true/'
check usage_2_says_two_things with 2 "says two things; remove one"
check usage_2_no_model refused 2 "no model: give --model FILE.gguf" --board "$tmp/board.yml"
check board_3_missing refused 3 "/none.yml: can't be opened" --board "$tmp/none.yml"
bad 's/n_kv_blocks/n_kv_blokcs/'
check board_3_unknown_key with 3 "bad.yml:$(line n_kv_blokcs): Unexpected key: n_kv_blokcs" --check
bad 's/n_kv_blocks: 128/n_mbufs: 1048575/'
check board_3_buffers_over_memory with 3 "bad.yml:$(line n_mbufs): limits.n_mbufs: 1048575 packet buffers" --check
bad 's/^  - {kind: worker.*/&\n  - {kind: worker, lcore: 4000, device: cpu0}/'
check board_3_no_such_lcore with 3 "bad.yml:$(line 4000): stages[6].lcore: 4000" --check

cp "$tmp/board.yml" "$b"
keys() { refused 4 "$1" --board "$b" --model "$model" --keys "$tmp/k" --check; }
cp "$tmp/keys" "$tmp/k"; chmod 644 "$tmp/k"
check keys_4_mode keys "mode is 0644, so others may read the keys; \`chmod 600"
chmod 600 "$tmp/k"; echo "id=2 rubbish" >>"$tmp/k"
check keys_4_bad_line keys "/k:2: "
cat "$tmp/keys" "$tmp/keys" >"$tmp/k"
check keys_4_duplicate keys "/k:2: id=1 stands in line 1 already"

gguf() { refused 5 "$2" --board "$b" --model "$1" --keys "$tmp/keys" --check; }
check model_5_missing gguf "$tmp/none.gguf" "No such file"
echo "this is a text about models, and not one of them" >"$tmp/text.gguf"
check model_5_magic gguf "$tmp/text.gguf" "this is no GGUF file"
size=$(stat -c %s "$model")
head -c $((size - 4096)) "$model" >"$tmp/cut.gguf"
check model_5_truncated gguf "$tmp/cut.gguf" "truncated"
{ head -c 100 "$model" | sed 's/llama/lxama/'; tail -c +101 "$model"; } >"$tmp/arch.gguf"
check model_5_architecture gguf "$tmp/arch.gguf" "lxama"
rm -f "$tmp"/*.gguf
check model_5_template with 5 "nosuch" --chat-template nosuch --check

bad 's/isa: auto/isa: avx9/'
check device_6_isa with 6 "bad.yml:$(line avx9): device cpu0: no instruction set 'avx9'"
check device_6_isa_checked with 6 "bad.yml:$(line avx9): device cpu0" --check
bad 's/kind: cpu/kind: abacus/'
check device_6_kind with 6 "this build has no devices of kind 'abacus'; it has: cpu" --check

bad 's/iface: plx0/iface: plx9/'
check port_7_no_interface with 7 "bad.yml:$(line plx9): port wire0: interface plx9 does not exist here"
bad 's/^board:.*/&\ninsecure: true/'
chmod 755 "$tmp"; cp "$bin/polluxd" "$tmp/polluxd"
nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
unprivileged() {
	in_srv setpriv --reuid 65534 --regid 65534 --clear-groups "$tmp/polluxd" --board "$b" --model "$model" --file-prefix "$id" >"$tmp/said" 2>&1
	local rc=$?
	cat "$tmp/said"
	[ $rc = 7 ] && grep -q 'takes CAP_NET_RAW.*run as root or from the systemd unit' "$tmp/said"
}
if nobody test -r "$model"; then check port_7_no_privileges unprivileged; fi

bad 's/n_kv_blocks: 128/n_kv_blocks: 1000000/'
needs="bad.yml:$(line 1000000): device cpu0: weights"
check memory_8_kv with 8 "$needs"
check memory_8_kv_checked with 8 "$needs" --check
what_fits() { with 8 "$needs" --check >/dev/null; grep -qE 'KV [0-9]+ MiB .* do not fit in the [0-9]+ MiB that are free; at most [0-9]+ KV blocks would fit' "$tmp/said"; }
check memory_8_says_what_would_fit what_fits
bad 's/n_kv_blocks: 128/n_requests: 65536, request_bytes: 67108864, reasm_bytes: 67108864/'
check memory_8_requests with 8 "MiB are needed and" --check
bad 's/^memory_mib:.*/memory_mib: 1000000\nhuge_pages: true/'
check memory_8_huge_pages with 8 "bad.yml:$(line huge_pages): "
huge_remedy() { with 8 'bad.yml:' >/dev/null; grep -qE '`echo [0-9]+ > /proc/sys/vm/nr_hugepages`' "$tmp/said"; }
check memory_8_huge_pages_remedy huge_remedy

cp "$tmp/board.yml" "$b"
good() { with 0 "board, keys and model are good, and fit this machine" --check; }
check check_is_satisfied good

# ---- told to stop while the model loads; a port that had to fall back, and whose link is down ----
stop_early() {
	: >"$tmp/log"
	ip -n "$srv" link set plx0 down
	nsenter --net="/run/netns/$srv" setpriv --bounding-set -all,+net_raw,+net_admin,+ipc_lock \
		"$bin/polluxd" --board "$tmp/board.yml" --model "$model" --keys "$tmp/keys" --file-prefix "$id" 2>>"$tmp/log" &
	daemon=$!
	local i
	for i in $(seq 100); do grep -q 'stages: .* MiB' "$tmp/log" && break; sleep 0.02; done
	stop TERM || { echo "exit $?"; return 1; }
	! grep -q ready "$tmp/log" && ! left
}
check stop_while_loading stop_early
says_all() { local t; for t in "$@"; do grep -qE "$t" "$tmp/log" || { echo "the log lacks: $t"; cat "$tmp/log"; return 1; }; done; }
check fallback_is_said says_all 'warning: port wire0: no AF_XDP \(the kernel lets us load no XDP program.*\); using AF_PACKET instead'
check link_down_is_said says_all 'warning: port wire0: interface plx0 is down; `ip link set plx0 up`'
ip -n "$srv" link set plx0 up

# ---- one lcore does everything; systemd is listening ----
sed 's/kind: auto/kind: af_xdp/' board/onecore/board.yml >"$tmp/one.yml"
small "$tmp/one.yml" >"$tmp/board.yml"
"$bin/overseer" notify "$tmp/notify" >"$tmp/notified" & helpers="$helpers $!"
for _ in $(seq 50); do [ -S "$tmp/notify" ] && break; sleep 0.02; done
NOTIFY_SOCKET="$tmp/notify" check starts start || { report; exit 1; }
check start_up_log says_all 'machine: .* CPUs for us, Linux' 'memory: [0-9]+ MiB, .* free for us; 2 MiB pages: [0-9]+' \
	'board onecore' 'model: .*llama, 134.5 M parameters' 'chat template: chatml' \
	'stages: [0-9]+ MiB .* on (2 MiB|ordinary) pages' 'device cpu0: cpu [a-z0-9]+, arithmetic cpu-[^;]*; [0-9]+ MiB, of which 90 MiB KV' \
	'lcore 0: io hs tok batch accel \(backs off when idle\)' 'limits: .*128 KV blocks of 32 tokens' \
	'context: the model has 8192 tokens, KV memory 4096' 'port wire0: af_xdp, UDP port 7709' 'keys: 1 clients' 'ready'
check one_lcore_answers answers "$chat_answer" --max-new 30 "$chat"
check ping4_is_answered in_cli "$bin/overseer" ping 10.77.0.2
check ping6_is_answered in_cli "$bin/overseer" ping fd77::2

cp "$tmp/board.yml" "$b"
second() {
	in_srv "$bin/polluxd" --board "$b" --model "$model" --keys "$tmp/keys" "$@" >"$tmp/said" 2>&1
	local rc=$?
	cat "$tmp/said"
	[ $rc = 7 ]
}
second_port() { second --file-prefix "$id-2" && grep -q 'another polluxd uses interface plx0' "$tmp/said" && [ ! -e "/var/run/dpdk/$id-2" ]; }
check port_7_second_on_the_interface second_port
second_prefix() { second --file-prefix "$id" && grep -q "another polluxd holds .*/$id, DPDK's folder of file prefix" "$tmp/said"; }
check port_7_second_of_the_prefix second_prefix
check first_is_unharmed answers "$chat_answer" --max-new 30 "$chat"

told() { grep -cx -- "$1" "$tmp/notified"; }
watched() { local i; for i in $(seq 20); do [ "$(told WATCHDOG=1)" -ge 2 ] && [ "$(told READY=1)" = 1 ] && return 0; sleep 0.1; done; cat "$tmp/notified"; return 1; }
check notify_ready_and_watchdog watched
thread_of() { local t; for t in /proc/"$daemon"/task/*; do case $(cat "$t/comm") in *worker-"$1") basename "$t";; esac; done; }
hangs() {
	local tid before after p
	tid=$(thread_of 0)
	[ -n "$tid" ] || { cat /proc/"$daemon"/task/*/comm; return 1; }
	"$bin/overseer" freeze "$tid" 3000 & p=$!
	sleep 0.5
	before=$(told WATCHDOG=1); sleep 1.8; after=$(told WATCHDOG=1)
	wait $p || return 1
	sleep 0.6
	echo "fed $before times, after 1.8 s of a hang $after, then $(told WATCHDOG=1)"
	[ "$before" = "$after" ] && [ "$(told WATCHDOG=1)" -gt "$after" ] && says_all 'lcore 0 hangs: no turn for 2[0-9]* ms' 'lcore 0 moves again'
}
check hung_lcore_is_not_fed hangs
check serves_after_the_hang answers "$chat_answer" --max-new 30 "$chat"
reloads() {
	kill -HUP "$daemon"
	local i
	for i in $(seq 20); do [ "$(told RELOADING=1)" = 1 ] && [ "$(told READY=1)" = 2 ] && break; sleep 0.1; done
	[ "$(told RELOADING=1)" = 1 ] && [ "$(told READY=1)" = 2 ] && says_all 'keys reloaded: 1 clients'
}
check hup_is_notified reloads
bad_reload() {
	cp "$tmp/keys" "$tmp/k"; echo "rubbish" >>"$tmp/keys"
	kill -HUP "$daemon"
	local i
	for i in $(seq 20); do grep -q 'not reloaded' "$tmp/log" && break; sleep 0.1; done
	cp "$tmp/k" "$tmp/keys"
	says_all 'keys not reloaded, the old ones stay: .*/keys:2: ' && answers "$chat_answer" --max-new 30 "$chat"
}
check hup_with_bad_keys_keeps_the_old bad_reload
stops() { stop TERM || return 1; [ "$(told STOPPING=1)" = 1 ] && says_all 'draining: 0 requests in flight' 'served: 4 requests done' 'stopped' && ! left; }
check sigterm_is_notified_and_clean stops

# ---- TERM while an lcore hangs: gone within seconds; the next start, on the same port, follows ----
hung_at_term() {
	start || return 1
	local tid p rc
	tid=$(thread_of 0)
	"$bin/overseer" freeze "$tid" 4000 2>/dev/null & p=$!
	helpers="$helpers $p"
	sleep 0.3
	stop TERM; rc=$?
	wait $p 2>/dev/null
	echo "exit $rc"
	[ $rc = 1 ] && says_all 'lcore 0 does not stop; leaving without it'
}
check hung_lcore_at_term_exits_1 hung_at_term

# ---- three io stages: a port by AF_XDP, one by AF_PACKET with two queues; drain_ms short ----
ip link add plxd netns "$cli" type veth peer name plx1 netns "$srv"
ip -n "$cli" addr add 10.78.0.1/24 dev plxd
ip -n "$cli" addr add fd78::1/64 dev plxd nodad
ip -n "$cli" link set plxd up; ip -n "$srv" link set plx1 up
cat >"$tmp/board.yml" <<-EOF
	board: three
	idle_backoff: true
	ports:
	  - {name: wire0, kind: af_xdp, iface: plx0, ipv4: 10.77.0.2, ipv6: "fd77::2"}
	  - {name: wire1, kind: af_packet, iface: plx1, queues: 2, ipv4: 10.78.0.2, ipv6: "fd78::2"}
	devices:
	  - {name: cpu0, kind: cpu}
	stages:
	  - {kind: io, lcore: 0, port: wire0}
	  - {kind: io, lcore: 0, port: wire1, queue: 0}
	  - {kind: io, lcore: 1, port: wire1, queue: 1}
	  - {kind: hs, lcore: 1}
	  - {kind: tok, lcore: 0}
	  - {kind: batch, lcore: 0}
	  - {kind: accel, lcore: 0, device: cpu0}
	  - {kind: worker, lcore: 1, device: cpu0}
	limits: {n_kv_blocks: 128}
	timers: {drain_ms: 300}
EOF
# With no more privileges than the systemd unit gives.
mkdir "$tmp/unit"
for f in plx-ask plx-key swarm overseer; do ln -s "$bin/$f" "$tmp/unit/$f"; done
caps=$(sed -n 's/^CapabilityBoundingSet=//p' fw/polluxd.service | tr 'A-Z' 'a-z' | sed 's/cap_/,+/g; s/ //g')
printf '#!/bin/bash\nexec setpriv --no-new-privs --bounding-set -all%s %s/polluxd "$@"\n' "$caps" "$bin" >"$tmp/unit/polluxd"
chmod 755 "$tmp/unit/polluxd"
bin=$tmp/unit check three_io_stages_start start || { report; exit 1; }
few_caps() { cat "/proc/$daemon/status" | grep CapEff; [ "$((0x$(sed -n 's/CapEff:\t//p' "/proc/$daemon/status") & 2))" = 0 ]; }
check units_capabilities_are_enough few_caps
check lcores_are_logged says_all 'lcore 0: io io.1 tok batch accel' 'lcore 1: io.2 hs worker'
check first_port_ipv4 answers "$chat_answer" --max-new 30 "$chat"
at=fd77::2 check first_port_ipv6 answers "$chat_answer" --max-new 30 "$chat"
at=10.78.0.2 check second_port_ipv4 answers "$chat_answer" --max-new 30 "$chat"
at=fd78::2 check second_port_ipv6 answers "$chat_answer" --max-new 30 "$chat"
check second_port_pings4 in_cli "$bin/overseer" ping 10.78.0.2
check second_port_pings6 in_cli "$bin/overseer" ping fd78::2
echo "$chat_answer" >"$tmp/alone"
check sixteen_clients_on_two_queues in_cli "$bin/swarm" 10.78.0.2 7709 "$tmp/client.key" 16 1 30 "$tmp/alone" "$chat"
drain_limit() {
	nsenter --net="/run/netns/$cli" "$bin/plx-ask" --host $host --key "$tmp/client.key" --raw --ignore-eos --max-new 3000 "$chat" >/dev/null 2>"$tmp/ask.err" &
	local p=$! rc d
	sleep 0.7
	stop TERM; d=$?
	wait $p; rc=$?
	echo "polluxd: exit $d; client: exit $rc, $(cat "$tmp/ask.err")"
	[ $d = 9 ] && [ $rc = 7 ] && says_all 'draining: 1 requests in flight, at most 300 ms' 'the drain ends 1 requests' && ! left
}
check drain_9_limit_passed drain_limit
sessions() { sed -n "s/.*polluxd: .*$1: .* out, \([0-9]*\) sessions/\1/p" "$tmp/log"; }
owners() { echo "io.1 $(sessions 'io\.1'), io.2 $(sessions 'io\.2')"; [ "$(sessions 'io\.1')" -gt 0 ] && [ "$(sessions 'io\.2')" -gt 0 ] && [ $(($(sessions 'io\.1') + $(sessions 'io\.2'))) = 18 ]; }
check both_queues_own_sessions owners

# ---- the unit ----
unit() {
	sed "s#/usr/bin/polluxd#$bin/polluxd#" fw/polluxd.service >"$tmp/polluxd.service"
	systemd-analyze verify --man=no "$tmp/polluxd.service" && [ -z "$(systemd-analyze verify --man=no "$tmp/polluxd.service" 2>&1)" ]
}
if command -v systemd-analyze >/dev/null; then check systemd_unit_verifies unit; fi
report
