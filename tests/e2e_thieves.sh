#!/bin/bash
# Who took the time: each thief there is, let loose on a lcore of a live polluxd while a request
# runs, and plx-scope's verdict on that request's latest token; the table of both is printed.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/lib/e2e.sh

file=/dev/shm/polluxd-$id
took=120 # ms, far above what a busy machine does by itself
tries=${PLX_THIEF_TRIES:-2}
[ -x "$bin/thief" ] || { echo "no $bin/thief"; exit 1; }
[ "$(nproc)" -ge 2 ] || skip "needs two cores"
thread_on() { "$bin/thief" threads "$daemon" | awk -v c="$1" '$1 == c {print $2; exit}'; }
# Others on this machine are no thieves that we meant: lcores go before them, thieves before lcores.
before_others() { local t; for t in $("$bin/thief" threads "$daemon" | cut -d' ' -f2); do chrt -f -p 20 "$t"; done; }
thief() { chrt -f 40 "$bin/thief" "$@"; }
story() { ask --quiet --ignore-eos --no-drafts --max-new "$1" "Tell me a long story." >/dev/null; }
latest() { "$bin/plx-scope" --file "$tmp/rec" list | awk '$1 ~ /^[0-9]+-[0-9]+$/ {r = $1} END {print r}'; }
blamed() { sed -n 's/^Blamed on: \(.*\)\.$/\1/p' "$tmp/why"; }

# under COMMAND...: a recording of the kernel and polluxd while the command runs.
under() {
	local r
	: >"$tmp/rec.log"
	"$bin/plx-scope" --file "$file" record -o "$tmp/rec" --seconds 60 2>"$tmp/rec.log" & r=$!
	for _ in $(seq 100); do grep -q 'recording' "$tmp/rec.log" && break; sleep 0.05; done
	"$@"
	sleep 0.05; kill -INT $r; wait $r
	! grep -q 'without the kernel' "$tmp/rec.log" || skip "no eBPF here: $(head -1 "$tmp/rec.log")"
}
# A request, and in the middle of it the thief.
with_thief() { local t=""; [ "$1" = none ] || { thief "$@" "$after" & t=$!; }; story "$tokens"; [ -z "$t" ] || wait "$t"; }
verdict() { "$bin/plx-scope" --file "$tmp/rec" why "$(latest)" >"$tmp/why"; blamed; }

row() { # row NAME-OF-CAUSE THIEF...
	local want=$1 got i; shift
	for i in $(seq "$tries"); do
		under with_thief "$@"
		got=$(verdict)
		echo "$want,${got:-nothing}" >>"$tmp/table"
		echo "  $want: $(head -1 "$tmp/why")"
		cp "$tmp/why" "$tmp/why.$want.$i"
	done
}
# A thief is named when most of its times were.
named() {
	local right all
	right=$(grep -cx "$1,$1" "$tmp/table")
	all=$(grep -c "^$1," "$tmp/table")
	echo "$1: $right of $all"; cat "$tmp"/why."$1".*
	[ $((2 * right)) -ge "$all" ]
}
table() {
	awk -F, '{n[$1 "," $2]++; if (!($1 in r)) {r[$1] = ++nr; row[nr] = $1}; if (!($2 in c)) {c[$2] = ++nc; col[nc] = $2}}
		END {printf "%-14s", "injected"; for (j = 1; j <= nc; j++) printf " %12s", col[j]; print "   <- verdict"
		     for (i = 1; i <= nr; i++) {printf "%-14s", row[i]
		       for (j = 1; j <= nc; j++) printf " %12s", n[row[i] "," col[j]] + 0; print ""}}' "$tmp/table"
}

e2e_net
"$bin/plx-key" new --id 1 --tenant local --file "$tmp/keys" --client "$tmp/client.key" >/dev/null
board af_packet
check starts start || { report; exit 1; }
before_others
story 8

# The device's slowness is its lcore that works for nothing meanwhile: no kernel in it.
tokens=200 after=300
row usual none
row task hog 0 $took
row fault fault "$(thread_on 0)" $took
row syscall call "$(thread_on 0)" $took
row "slow device" spin "$(thread_on 0)" $took
# The end of a storm takes time of its own: after the request. Who waits for the core meanwhile is
# let in for longer than usual, and named at times: more tries.
tokens=300 after=700
tries=$((2 * tries)) row interrupt storm 0 1300
stop TERM

# A full ring: io has a lcore of its own and works for nothing while many sequences talk; tok finds
# no event to write into, since there are some for each slot and 16 sequences fill them in half of the
# time that io is away. Judged is the token that waited longest for its text.
sed -i -E '/kind: (tok|batch|accel), /s/lcore: 0/lcore: 1/; /kind: worker/d' "$tmp/board.yml"
printf 'limits: {n_slots: 16, step_seqs: 16, n_requests: 16, n_samples: 1}\n' >>"$tmp/board.yml"
flood() {
	local a
	in_cli "$bin/swarm" "$host" 7709 "$tmp/client.key" 1 16 100 - "Count to one hundred." >/dev/null 2>&1 & a=$!
	thief spin "$(thread_on 0)" 1500 500; wait $a
}
waited_longest() {
	"$bin/plx-scope" replay "$tmp/rec" | awk '{for (i = 4; i < NF; i++) if ($i == "index") k = $5 " " $(i + 1)}
		$4 == "token" {t[k] = $1} $4 == "text" && k in t && $1 - t[k] > m {m = $1 - t[k]; b = k} END {print b}'
}
full() {
	local i
	for i in $(seq "$tries"); do
		under flood
		# shellcheck disable=SC2046  # two words
		"$bin/plx-scope" --file "$tmp/rec" why $(waited_longest) >"$tmp/why"
		echo "full ring,$(blamed)" >>"$tmp/table"
		echo "  full ring: $(head -1 "$tmp/why")"
		cp "$tmp/why" "$tmp/why.full ring.$i"
	done
}
check starts_with_io_alone start || { report; exit 1; }
before_others
full
stop TERM

echo; table; echo
for cause in task interrupt fault syscall "slow device" "full ring"; do
	check "names_${cause/ /_}" named "$cause"
done
report
