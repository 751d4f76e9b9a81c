#!/bin/bash
# plx-tune from end to end on a tiny model: a front, pictures, a board that polluxd takes; Ctrl-C and
# going on; refusals. Needs no privileges. PLX_BIN as for the other scripts.
set -u
cd "$(dirname "$0")/.." || exit 1
bin=$(realpath "${PLX_BIN:-build/release}")
tmp=$(mktemp -d /tmp/plx-tune.XXXXXX)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
n_run=0 n_failed=0
for f in plx-tune plx-model plx-key polluxd; do [ -x "$bin/$f" ] || { echo "no $bin/$f"; exit 1; }; done

check() { # check NAME COMMAND...
	local name=$1; shift
	n_run=$((n_run + 1))
	"$@" >"$tmp/check" 2>&1 && return 0
	n_failed=$((n_failed + 1)); echo "[  FAILED  ] $name"; sed 's/^/    /' "$tmp/check" | tail -20
}
model=$tmp/m.gguf work=$tmp/work
tune() { # tune EXIT ARGS...: plx-tune with a small load; its words go to $tmp/said
	local want=$1 rc; shift
	"$bin/plx-tune" "$model" --work "$work" --text tests/golden/perplexity.txt --threads 1 --tokens 1000 \
		--prompt 24 --answer 8 --batch 2 --interval 30 --knob block=32 "$@" >"$tmp/said" 2>&1; rc=$?
	cat "$tmp/said"; echo "exit $rc, wanted $want"
	[ "$rc" = "$want" ]
}
says() { grep -qF -- "$1" "$tmp/said" || { echo "not said: $1"; cat "$tmp/said"; return 1; }; }
rows() { grep -c "^$1 " "$work/journal"; }
# Ctrl-C once the journal has ten measurements; then it has them all, each whole.
interrupt() {
	local rc pid
	"$bin/plx-tune" "$model" --work "$work" --text tests/golden/perplexity.txt --threads 1 --tokens 1000 \
		--prompt 24 --answer 8 --batch 2 --interval 30 --knob block=32 --time 60s >"$tmp/said" 2>&1 & pid=$!
	for _ in $(seq 200); do [ "$(wc -l 2>/dev/null <"$work/journal")" -ge 11 ] 2>/dev/null && break; sleep 0.02; done
	kill -INT "$pid"; wait "$pid"; rc=$?
	cat "$tmp/said"; echo "exit $rc"
	[ "$rc" = 130 ] && says "the same command goes on" && [ "$(tail -c 1 "$work/journal" | xxd -p)" = 0a ]
}
goes_on() {
	local before; before=$(head -n 11 "$work/journal" | md5sum)
	tune 0 --time 3s --measurements 40 --board board/devbox/board.yml --budget "perplexity 50 %" \
		--budget "p99 inter-token 5 s" -o "$tmp/board.yml" || return 1
	[ "$before" = "$(head -n 11 "$work/journal" | md5sum)" ] && says "chosen: " && says "of a grid of 2016"
}
few() { [ "$(rows s)" -le 40 ] && [ "$(rows s)" -ge 3 ]; }
pictures() { xmllint --noout "$work/front.svg" 2>/dev/null || python3 -c "import xml.dom.minidom,sys; xml.dom.minidom.parse(sys.argv[1])" "$work/front.svg"; }
starts() { # polluxd takes the board and the model that it names
	"$bin/plx-key" new --id 1 --tenant local --file "$tmp/keys" --client "$tmp/client.key" &&
		"$bin/polluxd" --board "$tmp/board.yml" --keys "$tmp/keys" --check
}
again() { # another budget needs no measurement
	local before; before=$(wc -l <"$work/journal")
	tune 0 --time 3s --measurements 40 --budget "agreement 1 %" && [ "$before" = "$(wc -l <"$work/journal")" ]
}

check convert "$bin/plx-model" convert tests/golden/hf/llama -o "$model" -q
check interrupted interrupt
check goes_on goes_on
check few_measurements few
check svg_is_xml pictures
check polluxd_takes_the_board starts
check board_is_there_already tune 3 --board board/devbox/board.yml --budget "perplexity 50 %" -o "$tmp/board.yml"
check nothing_measured_anew again
check no_budget_reached tune 4 --time 3s --measurements 40 --budget "p99 inter-token 0.001 us"
check nearest_is_named says "nothing holds the budgets; nearest is"
printf 'Too short.' >"$tmp/short"
check short_text tune 2 --text "$tmp/short"
check short_text_is_said says "too few for a perplexity"
check interval tune 2 --restart --interval 0.01
check interval_is_said says "give a text (and --tokens) of about"
check unknown_knob tune 2 --knob colour=red
check other_load tune 2 --prompt 25
check other_load_is_said says "this is the journal of another load"
check no_tokenizer tune 1 --reference tests/golden/tiny/qwen3.gguf
"$bin/plx-model" quantise "$model" -o "$tmp/q.gguf" -t Q8_0 -q
model=$tmp/q.gguf
check other_model tune 2
check other_model_is_said says "this is the journal of another model"
model=$tmp/m.gguf
check no_disk bash -c "ulimit -f 64; '$bin/plx-tune' '$model' --work '$tmp/full' --text tests/golden/perplexity.txt \
	--threads 1 --tokens 200 --prompt 24 --answer 8 --interval 90; [ \$? = 3 ]"
check no_half_file bash -c "! ls '$tmp/full' | grep -q gguf"
echo "[==========] $n_run test(s) run."
[ "$n_failed" = 0 ]
