#!/usr/bin/env bash
# The linker for WebAssembly, $WEIR_LINKER, as rustc calls it, without the exports that are not in exports.txt: what only they
# reach, with its data, does not get into the module. (`postlink.mjs` comes too late for the data.)
set -euo pipefail
kept=" $(tr '\n' ' ' <"${BASH_SOURCE[0]%/*}/exports.txt")"
arguments=()
while (($#)); do
    if [[ $1 == --export && $kept != *" $2 "* ]]; then
        shift 2
    else
        arguments+=("$1")
        shift
    fi
done
exec "$WEIR_LINKER" "${arguments[@]}"
