#!/usr/bin/env bash
# Makes the chart: envoy/helm/stage.sh MODULE VERSION FOLDER [RUNBOOKS] writes FOLDER/weir, of what is here, of the module, and of the
# files in envoy/istio, envoy/gateway, envoy/grafana and envoy/prometheus, which its templates read. RUNBOOKS is the default of the value
# alerts.runbooks.
set -euo pipefail
module=$1 version=$2 chart=$3/weir runbooks=${4:-}
envoy=$(dirname "${BASH_SOURCE[0]}")/..

mkdir -p "$chart/files"
cp -R "$envoy/helm/values.schema.json" "$envoy/helm/README.md" \
    "$envoy/helm/.helmignore" "$envoy/helm/templates" "$chart/"
cp "$module" "$chart/files/weir.wasm"
cp "$envoy"/istio/{decide,wasmplugin,attempts,proxy-status,traffic}.yaml "$envoy/istio/custom_bootstrap.json" "$chart/files/"
cp "$envoy/gateway/traffic.yaml" "$chart/files/gateway-traffic.yaml"
cp "$envoy"/gateway/{envoypatchpolicy,envoyproxy}.yaml "$chart/files/"
cp "$envoy/grafana/weir.json" "$envoy/prometheus/weir-alerts.yaml" "$chart/files/"
sed "s|^  runbooks: \"\"\$|  runbooks: \"$runbooks\"|" "$envoy/helm/values.yaml" >"$chart/values.yaml"
sed "s/^\(version\|appVersion\): .*/\1: $version/; /^# stage.sh/d" "$envoy/helm/Chart.yaml" >"$chart/Chart.yaml"
