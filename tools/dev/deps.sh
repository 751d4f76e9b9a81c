#!/bin/bash
# Installs what building, running and testing Pollux takes on a bare Debian 12, and nothing else.
# Prints nothing and asks for no privilege when everything is there.
set -euo pipefail
build="gcc libc6-dev make pkg-config binutils git ca-certificates clang-14 llvm-14 bpftool libclang-rt-14-dev
 dpdk libdpdk-dev libsodium-dev libipsec-mb-dev libcyaml-dev libyaml-dev libjansson-dev libbpf-dev libxdp-dev
 libpcre2-dev libutf8proc-dev libxxhash-dev libcmocka-dev libsystemd-dev linux-libc-dev systemtap-sdt-dev"
use="iproute2 procps util-linux strace clang-format-14 python3 python3-pip"
missing=""
for p in $build $use; do
	[ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$p" 2>/dev/null)" = "ii " ] || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
echo "deps: installing$missing"
sudo=""
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || { echo "deps: these packages are missing and only root can install them: apt-get install$missing" >&2; exit 1; }
	sudo=sudo
fi
$sudo apt-get update -qq
# shellcheck disable=SC2086  # a list of words on purpose
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y --no-install-recommends -o Dpkg::Progress-Fancy=0 $missing |
	awk -v tty="$([ -t 1 ] && echo 1)" '/^Setting up/ {n++; if (tty) {printf "\rdeps: %d packages set up", n; fflush()}}
		END {printf "%sdeps: %d packages set up\n", tty ? "\r" : "", n}'
