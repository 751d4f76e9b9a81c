#!/bin/bash
# The house rules, checked: includes go down only, vendor headers stay behind their fences.
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0
say() { printf 'lint: %s\n' "$*"; bad=1; }

# allowed FOLDER REGEX...: every quoted include of FOLDER's own files must match one regex.
allowed() {
	local folder=$1 files hits; shift
	files=$(git ls-files -co --exclude-standard -- "$folder" | grep -E "^$folder/[^/]+\.(c|h|cu|def)$") || return 0
	local re; re=$(IFS='|'; echo "$*")
	hits=$(echo "$files" | xargs grep -nHE '^ *# *include +"' | grep -vE "\"($re)") || return 0
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
allowed tools/ask "$base" "$wire" "$model" 'tools/client/' 'tools/ask/'
allowed tools/bench "$base" "$wire" "$model" 'tools/client/' 'tools/bench/'
allowed tools/key "$base" "$wire" 'tools/client/' 'tools/key/'

# fence NAME REGEX ALLOWED: lines that match REGEX may stand only in files that match ALLOWED.
fence() {
	local name=$1 re=$2 ok=$3 hits
	hits=$(git ls-files -co --exclude-standard -- '*.c' '*.h' '*.cu' | grep -vE "$ok" | xargs -r grep -nHE "$re") || return 0
	while IFS= read -r line; do say "$line: $name is fenced"; done <<<"$hits"
}
fence DPDK '<rte_' '^(dataplane/[^/]+\.[ch]|fw/main\.c|tools/gateway/memif\.c|tests/.*)$'
fence CUDA '<cuda|<cublas' '^(accel/[^/]*cuda|kernels/cuda/|tests/)'
fence XRT '<(xrt|experimental/xrt)' '^(accel/[^/]*fpga|tools/flash/|fpga/sim/|tests/)'
fence libbpf '<bpf/|<xdp/' '^(tools/scope/|dataplane/port|tests/)'

# No bare tabs-versus-spaces debate: clang-format decides, where it is installed.
fmt=$(command -v clang-format-14 || command -v clang-format)
if [ -n "$fmt" ]; then
	git ls-files -co --exclude-standard -- '*.c' '*.h' | xargs -r "$fmt" --dry-run -Werror 2>/tmp/plx-fmt.$$ || {
		grep -m 20 error: /tmp/plx-fmt.$$; say "formatting differs: run clang-format -i on the files above"; }
	rm -f /tmp/plx-fmt.$$
fi
[ "$bad" = 0 ] && echo "lint: ok"
exit $bad
