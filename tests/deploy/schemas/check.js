// Checks resources of Istio and Envoy Gateway against the schemas of their CRDs, and dashboards against Grafana's own types:
// node check.js FILE...
//
// Schemas say which values are allowed. They let unknown fields pass, as an API server does that then drops them; the
// TypeScript types of the same packages do not.
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { loadAll } from "js-yaml";
import * as gateway from "@kubernetes-models/envoy-gateway/gateway.envoyproxy.io/v1alpha1";
import * as routes from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1";
import * as extensions from "@kubernetes-models/istio/extensions.istio.io/v1alpha1";
import * as networking from "@kubernetes-models/istio/networking.istio.io/v1";
import * as filters from "@kubernetes-models/istio/networking.istio.io/v1alpha3";
import * as apps from "kubernetes-models/apps/v1";
import * as core from "kubernetes-models/v1";

const versions = {
  v1: [core, "kubernetes-models/v1"],
  "apps/v1": [apps, "kubernetes-models/apps/v1"],
  "extensions.istio.io/v1alpha1": [extensions, "@kubernetes-models/istio/extensions.istio.io/v1alpha1"],
  "gateway.envoyproxy.io/v1alpha1": [gateway, "@kubernetes-models/envoy-gateway/gateway.envoyproxy.io/v1alpha1"],
  "gateway.networking.k8s.io/v1": [routes, "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1"],
  "networking.istio.io/v1": [networking, "@kubernetes-models/istio/networking.istio.io/v1"],
  "networking.istio.io/v1alpha3": [filters, "@kubernetes-models/istio/networking.istio.io/v1alpha3"],
};
// In JSON the members of enums are plain strings.
const typed = ["type Plain<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;"];
// What an annotation asks is its data source's business, as it is in panels; so is, with Prometheus, how it is worded.
typed.push(`import type * as grafana from "@grafana/schema";
type Annotation = Omit<Plain<grafana.AnnotationQuery>, "target"> & {
  target?: Record<string, unknown>; titleFormat?: string; textFormat?: string; tagKeys?: string };
type Dashboard = Omit<Plain<grafana.Dashboard>, "annotations"> & { annotations?: { list?: Annotation[] } };`);
let failed = false;

for (const file of process.argv.slice(2)) {
  for (const resource of loadAll(readFileSync(file, "utf8"))) {
    const literal = JSON.stringify(resource, null, 1);
    if (resource.schemaVersion) {
      typed.push(`// ${file}\nexport const of${typed.length}: Dashboard = ${literal};`);
      continue;
    }
    const name = `${file}: ${resource.kind} ${resource.metadata?.name}`;
    try {
      const [models, module] = versions[resource.apiVersion] ?? [{}];
      if (!models[resource.kind]) throw new Error(`no schema for ${resource.apiVersion} ${resource.kind}`);
      new models[resource.kind](resource).validate();
      typed.push(`// ${name}\nexport const of${typed.length}: import("${module}").I${resource.kind} = ${literal};`);
      console.log(`${name}: valid`);
    } catch (error) {
      console.error(`${name}: ${error.message}`);
      failed = true;
    }
  }
}

writeFileSync("typed.ts", typed.join("\n"));
try {
  const options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022"];
  execFileSync("node_modules/.bin/tsc", [...options, "typed.ts"], { encoding: "utf8" });
} catch (error) {
  console.error(error.stdout);
  failed = true;
}
process.exit(failed ? 1 : 0);
