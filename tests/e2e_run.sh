#!/bin/bash
# What `make run` promises of its script: the answer and its figures, nothing left behind, also after
# Ctrl-C at any moment, and twice in a row; then an appliance without keys.
# PLX_BIN names the binaries' folder, PLX_TEST_MODEL the model.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/lib/e2e.sh

chat="What is 2+2?"
chat_answer="The answer to this classic math problem is 4."
pages=/proc/sys/vm/nr_hugepages
pages_before=$(cat $pages)
# left PID: whether run.sh of this process id left something.
left() {
	local p=plx-$1 n=0
	ip netns list | grep -w -e "$p-s" -e "$p-c" && n=1
	compgen -G "/tmp/$p.*" && n=1
	[ -e "/var/run/dpdk/$p" ] && echo "/var/run/dpdk/$p" && n=1
	pgrep -f "file-prefix $p\$" && n=1
	[ "$(cat $pages)" = "$pages_before" ] || { echo "$(cat $pages) huge pages, $pages_before before"; n=1; }
	[ $n = 1 ]
}
run() { exec tools/dev/run.sh "$bin" "$model" board/devbox/board.yml "$@"; }
answered() {
	(run "$chat" --max-new 30) >"$tmp/said" 2>&1 & local p=$!
	wait $p; local rc=$?
	cat "$tmp/said"
	[ $rc = 0 ] && grep -qF "$chat_answer" "$tmp/said" && grep -q 'time to first token' "$tmp/said" &&
		grep -q 'tokens/s' "$tmp/said" && grep -q prefill "$tmp/said" && ! left $p
}
check first_run_answers answered
check second_run_answers answered
# interrupted TEXT: a terminal's Ctrl-C, which every process of the group gets, once TEXT was said.
interrupted() {
	set -m
	(run "count" --raw --ignore-eos --max-new 3000) >"$tmp/said" 2>&1 & local p=$!
	set +m
	local i rc
	for i in $(seq 200); do grep -q "$1" "$tmp/said" && break; sleep 0.05; done
	sleep 0.2
	kill -INT -- -$p; wait $p; rc=$?
	tail -3 "$tmp/said"
	echo "exit $rc after $((i * 50)) ms"
	[ $rc = 130 ] && ! left $p
}
check ctrl_c_while_it_starts interrupted "starting polluxd"
check ctrl_c_while_it_answers interrupted ready
no_model() {
	(exec tools/dev/run.sh "$bin" "$tmp/none.gguf" board/devbox/board.yml "$chat") >"$tmp/said" 2>&1 & local p=$!
	wait $p; local rc=$?
	cat "$tmp/said"
	[ $rc != 0 ] && grep -q none.gguf "$tmp/said" && ! left $p
}
check missing_model_is_named no_model
says() { # says CODE TEXT COMMAND...
	local want=$1 text=$2 rc; shift 2
	"$@" >"$tmp/said" 2>&1; rc=$?
	cat "$tmp/said"
	[ $rc = "$want" ] && grep -qF -- "$text" "$tmp/said"
}
check missing_board_is_named says 1 'there is no board file "board/none/board.yml"; give BOARD=' tools/dev/run.sh "$bin" "$model" board/none/board.yml "$chat"
check not_built_is_said says 1 "/none/polluxd is not built" tools/dev/run.sh "$tmp/none" "$model" board/devbox/board.yml "$chat"
side_by_side() {
	(run "$chat" --max-new 30 --quiet) >"$tmp/said1" 2>&1 & local p=$!
	(run "$chat" --max-new 30 --quiet) >"$tmp/said2" 2>&1 & local q=$!
	wait $p; local rp=$?
	wait $q; local rq=$?
	tail -n 2 "$tmp/said1" "$tmp/said2"
	[ $rp = 0 ] && [ $rq = 0 ] && grep -qxF "$chat_answer" "$tmp/said1" && grep -qxF "$chat_answer" "$tmp/said2" && ! left $p && ! left $q
}
check two_side_by_side side_by_side

# ---- what stands between the command line and the script: make's quoting, another user ----
odd='Say "it'"'"'s" $5 `date` $(HOME) \ #1; & '
mkdir "$tmp/fake"
cat >"$tmp/fake/run.sh" <<-'EOF'
	#!/bin/bash
	printf '%s|' "$@"
EOF
# The recipe itself, with the script's place taken by one that shows its arguments.
quoting() {
	local got
	got=$(make --no-print-directory -s -f <(sed 's#tools/dev/run.sh#bash "'"$tmp"'/fake/run.sh"#; s/^run: deps/run:/; /MAKE.*all$/d' Makefile) \
		B="$tmp/none" MODEL="$model" PROMPT="$odd" ASK="--seed 1" run) || return 1
	same "$got" "$tmp/none/release|$model|board/devbox/board.yml|$odd|--seed|1|"
}
check make_passes_the_prompt_as_typed quoting
nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups env PATH="$1" "${@:2}"; }
printf '#!/bin/bash\nprintf "sudo|"; printf "%%s|" "$@"\n' >"$tmp/fake/sudo"
chmod 755 "$tmp" "$tmp/fake" "$tmp/fake/sudo"
no_sudo=$tmp/path
mkdir "$no_sudo"
for c in bash id realpath basename dirname; do ln -s "$(command -v $c)" "$no_sudo/$c"; done
args() { echo tools/dev/run.sh "$bin" "$model" board/devbox/board.yml; }
if nobody "$PATH" test -x "$bin/polluxd" -a -r "$model" -a -x tools/dev/run.sh; then
	# shellcheck disable=SC2046
	check without_root_and_sudo says 1 "run: network namespaces need root; run as root or install sudo" nobody "$no_sudo" $(args) "$chat"
	# shellcheck disable=SC2046
	check without_root_by_sudo says 0 "sudo|tools/dev/run.sh|$bin|$model|$PWD/board/devbox/board.yml|$odd|--seed|1|" nobody "$tmp/fake:$PATH" $(args) "$odd" --seed 1
fi

# ---- without keys: only where the board file says so, and loudly ----
e2e_net
board af_packet
sed -i 's/^board:.*/&\ninsecure: true/' "$tmp/board.yml"
insecure() {
	nsenter --net="/run/netns/$srv" "$bin/polluxd" --board "$tmp/board.yml" --model "$model" --file-prefix "$id" 2>"$tmp/log" & daemon=$!
	local i
	for i in $(seq 600); do grep -q 'ready$' "$tmp/log" && break; kill -0 $daemon || break; sleep 0.1; done
	grep -q 'INSECURE: no keys' "$tmp/log" && same "$(in_cli "$bin/plx-ask" --host $host --insecure --quiet --max-new 30 "$chat")" "$chat_answer"
}
check insecure_says_so_and_answers insecure
report
