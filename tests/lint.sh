#!/bin/bash
# The house rules, checked: includes go down only, vendor headers stay behind their fences, what is
# pure stays pure, every folder of code has a rule and a README, format. tests/ may include anything.
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0
say() { printf 'lint: %s\n' "$*"; bad=1; }
files() { git ls-files -co --exclude-standard -- "$@" | while IFS= read -r f; do [ -f "$f" ] && echo "$f"; done; }
code=$(files '*.c' '*.h' '*.cu' '*.def')

# allowed FOLDER REGEX...: every quoted include of FOLDER's own files must match one regex.
ruled=" "
allowed() {
	local folder=$1 own hits re; shift
	ruled+="$folder "
	own=$(grep -E "^$folder/[^/]+$" <<<"$code") || return 0
	re=$(IFS='|'; echo "$*")
	hits=$(xargs grep -nHE '^ *# *include +"' <<<"$own" | grep -vE "\"($re)") || return 0
	while IFS= read -r line; do say "$line: $folder may not include that (see DESIGN: includes go down only)"; done <<<"$hits"
}
base='fw/base/'; wire='dataplane/wire/'; batch='dataplane/batch/'; model='accel/model/'
allowed fw/base "$base"
allowed kernels "$base" 'kernels/'
allowed kernels/cpu "$base" 'kernels/'
allowed kernels/cuda "$base" 'kernels/'
allowed accel/model "$base" 'kernels/quant\.h' "$model"
allowed accel "$base" 'kernels/' 'accel/'
allowed dataplane/wire "$base" "$wire"
allowed dataplane/batch "$base" "$batch" 'accel/accel\.h'
allowed dataplane "$base" 'kernels/' 'accel/' 'dataplane/'
allowed fw "$base" 'kernels/' 'accel/' 'dataplane/' 'fw/'
allowed tools/client "$base" "$wire" 'tools/client/'
allowed tools/client/example '-' # knows the installed header alone
allowed tools/gguf "$base" "$model" 'kernels/quant\.h' 'tools/gguf/'
allowed tools/key "$base" "$wire" 'tools/client/' 'tools/key/'
allowed tools/tune "$base" "$wire" "$batch" 'accel/' 'kernels/' 'tools/client/' 'tools/gguf/' 'tools/tune/'
for d in $(grep -oE '^tools/[^/]+' <<<"$code" | sort -u); do
	[[ $ruled == *" $d "* ]] || allowed "$d" "$base" "$wire" "$model" 'kernels/quant\.h' 'tools/client/' 'tools/gguf/' "$d/"
done
for d in $(xargs -n1 dirname <<<"$code" | sort -u | grep -vE '^(tests|fpga)(/|$)'); do
	[[ $ruled == *" $d "* ]] || say "$d: a folder of code without a rule; add one to tests/lint.sh"
done

# fence NAME REGEX WHERE OK: of the files that match WHERE, only those that match OK may have lines
# that match REGEX.
fence() {
	local name=$1 re=$2 where=$3 ok=$4 hits
	hits=$(grep -E "$where" <<<"$code" | grep -vE "$ok" | xargs -r grep -nHE "$re") || return 0
	[ -n "$hits" ] || return 0
	while IFS= read -r line; do say "$line: $name"; done <<<"$hits"
}
fence 'DPDK is fenced' '<rte_' . '^(dataplane/[^/]+\.[ch]|fw/main\.c|tools/gateway/memif\.c|tests/.*)$'
fence 'CUDA is fenced' '<cuda|<cublas|<nccl' . '^(accel/[^/]*cuda|kernels/cuda/|tests/)'
fence 'XRT is fenced' '<(xrt|experimental/xrt)' . '^(accel/[^/]*fpga|tools/flash/|fpga/sim/|tests/)'
fence 'libbpf is fenced' '<bpf/|<xdp/' . '^(tools/scope/|dataplane/port|tests/)'
fence 'pcre2 is the tests'\'' oracle' '<pcre2' . '^tests/'
inc='^ *# *include +<'
pure="$inc(sys/|net/|netinet/|arpa/|linux/|unistd|fcntl|poll|time|signal|sched|pthread|threads|errno)"
# kernels/cpu/select.c asks Linux for AMX's tiles, once at start.
fence 'neither I/O nor clock nor threads here' "$pure" '^(kernels|dataplane/(wire|batch))/' \
      '^kernels/cpu/select\.c$'
fence 'fw/base stands on the C library alone' "$inc(sodium|xxhash|jansson|cyaml|yaml|utf8proc|systemd|intel)" '^fw/base/' '^$'
fence 'never include a .c' '^ *# *include +"[^"]*\.c"' . '^$'
fence 'no dead code and no bare notes' '^ *# *if 0|\<(TODO|FIXME)\>' . '^$'
fence 'a board is data only' . '^board/' '^$'

# What lives where: every folder that holds code says so itself, or the one above it does.
for d in $(xargs -n1 dirname <<<"$code" | sort -u); do
	[ -f "$d/README.md" ] || [ -f "$(dirname "$d")/README.md" ] || say "$d: no README.md here or above"
done

for f in $(files '*.sh' .ci/run); do bash -n "$f" || say "$f: no valid bash"; done
if command -v shellcheck >/dev/null; then
	files '*.sh' .ci/run | xargs shellcheck -S warning -e SC2034,SC2046,SC2010 || say "shellcheck has something to say"
fi

# No bare tabs-versus-spaces debate: clang-format decides, where it is installed.
fmt=$(command -v clang-format-14 || command -v clang-format)
if [ -n "$fmt" ]; then
	grep -E '\.[ch]$' <<<"$code" | xargs -r "$fmt" --dry-run -Werror 2>/tmp/plx-fmt.$$ || {
		grep -m 20 error: /tmp/plx-fmt.$$; say "formatting differs: run clang-format -i on the files above"; }
	rm -f /tmp/plx-fmt.$$
fi
[ "$bad" = 0 ] && echo "lint: ok"
exit $bad
