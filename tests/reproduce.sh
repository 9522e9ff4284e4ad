#!/usr/bin/env bash
# Builds the module twice more, from copies of this tree in other folders and with another CARGO_HOME, and compares the
# bytes with target/weir.wasm. `./build.sh reproduce` calls it once that is built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scratch=$(mktemp -d "$PWD/target/.reproduce.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

# Another home, by name; what was downloaded is shared.
home=${CARGO_HOME:-$HOME/.cargo} other=$scratch/another/home
mkdir -p "$other"
find "$home" -mindepth 1 -maxdepth 1 -exec ln -s {} "$other/" \;

build() { # FOLDER CARGO_HOME
    mkdir -p "$1"
    git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar -xf - -C "$1"
    (
        cd "$1"
        unset CARGO_TARGET_DIR WEIR_WASM
        # A toolchain by link is the home's; only its name must not matter.
        CARGO_HOME=$2 RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup} ./build.sh >&2
    )
}

# At the same time: most of a build is one thread's work.
build "$scratch/a" "$home" &
build "$scratch/a/much/longer name/b" "$other"
wait $!

sha256sum target/weir.wasm "$scratch/a/target/weir.wasm" "$scratch/a/much/longer name/b/target/weir.wasm" |
    sed "s|$PWD/||"
cmp target/weir.wasm "$scratch/a/target/weir.wasm"
cmp target/weir.wasm "$scratch/a/much/longer name/b/target/weir.wasm"
echo "The same bytes from three folders."
