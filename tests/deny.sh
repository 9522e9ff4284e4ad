#!/usr/bin/env bash
# Checks what we depend on, as `deny.toml` says: licences, advisories, duplicates, sources. `./build.sh deny` calls it, with cargo-deny
# installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

deny=${CARGO_DENY:-cargo-deny}
for manifest in Cargo.toml tests/*/Cargo.toml; do
    if [[ ! -f $manifest ]]; then continue; fi
    echo "==> Checking the dependencies of $manifest" >&2
    "$deny" --log-level error --manifest-path "$manifest" --config deny.toml check bans licenses sources
done
# The database of advisories is a repository on GitHub, which not every machine can reach.
if "$deny" fetch db; then
    "$deny" check advisories
else
    echo "==> The advisories were NOT checked: their database is out of reach" >&2
fi
