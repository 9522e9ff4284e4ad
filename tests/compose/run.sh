#!/usr/bin/env bash
# Runs envoy/docker-compose.yaml with a real Docker Engine, looks at what clients saw and at what Prometheus has, and
# removes all of it. `./build.sh test compose` calls it, with the module built.
#
# Images are pulled. Where that does not work, stand-ins are built under the same tags, from programs of this machine, in
# an engine of its own, so that they never get between a user's images; Grafana is left out then.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

say() { printf '==> compose: %s\n' "$*" >&2; }
die() { printf 'compose: %s\n' "$*" >&2; exit 1; }

# How long the whole may take to show what is asked of it.
limit=${WEIR_COMPOSE_SECONDS:-300}
folder=$PWD/target/compose
project=weir-test-$$
# Other tests use ports from 20000 on.
export ENVOY_PORT=${ENVOY_PORT:-19401} ENVOY_ADMIN_PORT=${ENVOY_ADMIN_PORT:-19402}
export PROMETHEUS_PORT=${PROMETHEUS_PORT:-19403} GRAFANA_PORT=${GRAFANA_PORT:-19404}

[[ -f target/weir.wasm ]] || die "target/weir.wasm is missing; build it with: ./build.sh"
for program in docker python3 curl; do
    command -v "$program" >/dev/null || die "$program is missing; install it with: apt-get install -y docker.io python3 curl"
done
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif command -v docker-compose >/dev/null; then
    compose=(docker-compose)
else
    die "docker compose is missing; install it with: apt-get install -y docker-compose"
fi
compose+=(-p "$project" -f envoy/docker-compose.yaml)

# ---- the engine ----

engine="" started=""
cleanup() {
    if [[ -n $started ]]; then "${compose[@]}" down -v -t 1 >/dev/null 2>&1 || true; fi
    if [[ -n $engine ]]; then
        kill "$engine" 2>/dev/null || true
        wait "$engine" 2>/dev/null || true
        rm -rf "$folder" 2>/dev/null || true
    fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# An engine for this run alone. It touches no firewall and no image of another engine; it needs root.
start_engine() {
    command -v dockerd >/dev/null || die "no Docker Engine runs, and dockerd is missing; install it with: apt-get install -y docker.io"
    ((EUID == 0)) || die "no Docker Engine runs; start one, or run this as root"
    rm -rf "$folder"
    mkdir -p "$folder"
    local driver tries
    for driver in overlay2 vfs; do
        dockerd --host "unix://$folder/docker.sock" --pidfile "$folder/dockerd.pid" --data-root "$folder/data" \
            --exec-root "$folder/exec" --storage-driver "$driver" --iptables=false --ip-masq=false --ip-forward=false \
            >"$folder/dockerd.log" 2>&1 </dev/null &
        engine=$!
        export DOCKER_HOST=unix://$folder/docker.sock
        for ((tries = 0; tries < 600; tries++)); do
            if docker version >/dev/null 2>&1; then
                say "started a Docker Engine $(docker version --format '{{.Server.Version}}') of its own, storage $driver"
                return
            fi
            kill -0 "$engine" 2>/dev/null || break
            sleep 0.2
        done
        kill "$engine" 2>/dev/null || true
        wait "$engine" 2>/dev/null || true
        engine=""
    done
    tail -n 20 "$folder/dockerd.log" >&2
    die "dockerd does not start"
}

# ---- images ----

images() { "${compose[@]}" config | sed -n 's/^ *image: *//p' | sort -u; }

pull_images() {
    local image
    for image in $(images); do
        docker image inspect "$image" >/dev/null 2>&1 || timeout 300 docker pull -q "$image" >/dev/null 2>&1 || return 1
    done
}

# with_libraries ROOT FILE...: copies the files into ROOT, under the same paths, with the libraries they load.
with_libraries() {
    local root=$1 file
    shift
    for file in "$@" $(ldd "$@" 2>/dev/null | grep -o '/[^ )]*' | grep -v ':$' | sort -u); do
        if [[ ! -e $root$file ]]; then
            mkdir -p "$root${file%/*}"
            cp -L "$file" "$root$file"
        fi
    done
}

# import ROOT IMAGE CHANGE...: an image of one layer.
import() {
    local root=$1 image=$2 change changes=()
    shift 2
    for change in "$@"; do changes+=(-c "$change"); done
    mkdir -p "$root/tmp"
    tar -C "$root" -c . | docker import "${changes[@]}" - "$image" >/dev/null
    rm -rf "$root"
    say "built a stand-in for $image"
}

build_stand_ins() {
    local image root=$folder/root envoy python modules
    for image in $(images); do
        mkdir -p "$root"
        case $image in
            envoyproxy/envoy:*)
                envoy=$(readlink -f "$WEIR_ENVOY")
                with_libraries "$root" "$envoy"
                mkdir -p "$root/usr/local/bin"
                mv "$root$envoy" "$root/usr/local/bin/envoy"
                import "$root" "$image" 'ENV PATH=/usr/local/bin'
                ;;
            prom/prometheus:*)
                command -v prometheus >/dev/null || die "prometheus is missing; install it with: apt-get install -y prometheus"
                with_libraries "$root" "$(command -v prometheus)"
                import "$root" "$image" "ENTRYPOINT [\"$(command -v prometheus)\"]" 'VOLUME /prometheus'
                ;;
            python:*)
                python=$(python3 -c 'import sys; print(sys.executable)') # a wrapper such as pyenv's would not do
                modules=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
                with_libraries "$root" "$python" "$modules"/lib-dynload/*.so
                mkdir -p "$root${modules%/*}" "$root/usr/local/bin"
                tar -C "${modules%/*}" --exclude=test --exclude=site-packages --exclude=dist-packages \
                    --exclude=__pycache__ --exclude='config-*' -c "${modules##*/}" | tar -C "$root${modules%/*}" -x
                ln -s "$python" "$root/usr/local/bin/python"
                import "$root" "$image" 'ENV PATH=/usr/local/bin'
                ;;
            grafana/*) say "left out: $image, which cannot be built from what is here" ;;
            *) die "nobody knows how to make a stand-in for $image" ;;
        esac
    done
}

# ---- the run ----

# ask QUERY: the first value of an instant query; 0 where there is none.
ask() {
    curl -sS --max-time 5 -G --data-urlencode "query=$1" "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/query" 2>/dev/null |
        python3 -c 'import json, sys; r = json.load(sys.stdin)["data"]["result"]; print(r[0]["value"][1] if r else 0)' 2>/dev/null ||
        echo 0
}

# Each line: what must become true, and the query whose value says so when it is above 0.
conditions() {
    cat <<'END'
both targets are scraped           | sum(up) == 2
clients sent 2000 requests         | sum(clients_requests_total) > 2000
Weir counted them                  | sum(weir_requests_total{weir_cluster="orders"}) > 2000
replicas reset connections         | sum(weir_attempts_total{weir_signal="reset"})
and refused them                   | sum(weir_attempts_total{weir_signal="refused"})
retries were granted               | sum(weir_retries_total{weir_verdict="granted"}) > 5
hosts were ejected                 | sum(weir_ejections_total) > 3
and probed                         | sum(weir_probes_total) > 3
and came back                      | sum(weir_readmissions_total) > 1
clients see less than 1 % fail     | sum(clients_requests_total{result="failed"}) / sum(clients_requests_total) < 0.01 or sum(clients_requests_total) * 0 + 1
no GET in 200 fails                | sum(clients_requests_total{method="GET",result="failed"}) / sum(clients_requests_total{method="GET"}) < 0.005 or sum(clients_requests_total) * 0 + 1
END
}

# The image of the module, in an engine that unpacks it.
check_module_image() {
    local image=$folder/weir-image.tar container
    mkdir -p "$folder"
    python3 envoy/image/build.py target/weir.wasm "$image" "$project:latest" >/dev/null
    docker load -q -i "$image" >/dev/null
    container=$(docker create "$project:latest" none)
    docker cp "$container:/plugin.wasm" - | tar -xO | cmp - target/weir.wasm || die "the image holds another module"
    docker rm "$container" >/dev/null
    docker rmi "$project:latest" >/dev/null
    rm "$image"
    say "Docker loads the image of the module"
}

# Without the module Envoy does not start, it is said why, and no folder is made in its place.
check_missing_module() {
    local tree=$folder/without-module without=() output
    mkdir -p "$tree"
    cp -r envoy "$tree/envoy"
    without=("${compose[@]//envoy\/docker-compose.yaml/$tree/envoy/docker-compose.yaml}")
    if output=$("${without[@]}" up -d "$@" 2>&1); then die "it starts without the module:"$'\n'"$output"; fi
    [[ $output == *module-is-built* ]] || die "it does not say that the module is missing:"$'\n'"$output"
    output=$("${without[@]}" logs module-is-built 2>&1)
    [[ $output == *"target/weir.wasm is missing; build it with ./build.sh"* ]] || die "that it says why is missing here:"$'\n'"$output"
    [[ ! -e $tree/target ]] || die "it made $tree/target"
    "${without[@]}" down -v -t 1 >/dev/null 2>&1
    rm -rf "$tree"
    say "without the module it does not start, and says why"
}

main() {
    local services=(envoy replica-1 replica-2 replica-3 replica-4 clients prometheus grafana)
    docker version >/dev/null 2>&1 || start_engine
    if ! pull_images; then
        say "not all images can be pulled"
        if [[ -z $engine ]]; then start_engine; fi
        build_stand_ins
        services=(envoy replica-1 replica-2 replica-3 replica-4 clients prometheus)
    fi
    check_module_image
    started=yes
    check_missing_module "${services[@]}"
    "${compose[@]}" up -d "${services[@]}" >/dev/null 2>&1 || {
        "${compose[@]}" up -d "${services[@]}" >&2 || true
        die "it does not start"
    }
    say "it runs: ${services[*]}"

    local deadline=$((SECONDS + limit)) open line name query value rules
    while :; do
        open=""
        while IFS='|' read -r name query; do
            value=$(ask "$query")
            # A share may be 0; then it is small enough.
            if [[ $query == *' or '* ]]; then
                [[ $value != 1 ]] || open+="  $name"$'\n'
            elif ! awk -v v="$value" 'BEGIN { exit !(v > 0) }'; then
                open+="  $name: ${query# }"$'\n'
            fi
        done < <(conditions | sed 's/  *| /|/')
        # A rule is unknown until Prometheus has evaluated it.
        rules=$(curl -sS --max-time 5 "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/rules" | grep -o '"health":"ok"' | wc -l) || true
        ((rules > 5)) || open+="  Prometheus runs its rules: $rules"$'\n'
        [[ -n $open ]] || break
        if ((SECONDS > deadline)); then
            "${compose[@]}" ps >&2 || true
            "${compose[@]}" logs --tail 20 >&2 || true
            die "after $limit s this is still not so:"$'\n'"$open"
        fi
        sleep 1
    done
    if [[ " ${services[*]} " == *" grafana "* ]]; then
        curl -sS --retry 20 --retry-connrefused --retry-delay 1 "http://127.0.0.1:$GRAFANA_PORT/api/dashboards/uid/weir" |
            grep -q '"title":"Weir"' || die "Grafana does not show the dashboard"
    fi
    say "clients: $("${compose[@]}" logs --tail 1 clients 2>/dev/null | tail -n 1 | sed 's/.*| *//; s/\x1b\[[0-9;]*m//g')"
    for line in ejections probes readmissions; do say "weir_${line}_total: $(ask "sum(weir_${line}_total)")"; done
    say "all as it should be, after $SECONDS s"
}

main "$@"
