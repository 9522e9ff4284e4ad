// What happens to the module after it is linked: `node postlink.mjs LINKED NAMED SHIPPED`.
//
// The linker keeps every function that a library exports. This keeps the callbacks that Weir needs, so that Envoy makes no
// others (a streamed body costs nothing), removes what nothing reaches any more, and lets Binaryen make the rest smaller.
// NAMED and SHIPPED are one module, with and without the names of its functions.
import { readFileSync, writeFileSync } from "node:fs";
import binaryen from "binaryen";

/** What Envoy calls in the module, and the memory that it reads and writes. */
const EXPORTS = new Set([
  "memory",
  "_initialize",
  "proxy_abi_version_0_2_1",
  "proxy_on_memory_allocate",
  "proxy_on_vm_start",
  "proxy_on_configure",
  "proxy_on_context_create",
  "proxy_on_tick",
  "proxy_on_request_headers",
  "proxy_on_response_headers",
  "proxy_on_log",
  "proxy_on_done",
]);

/** The only module that Envoy offers. */
const ENVOY = "env";

const [linked, named, shipped] = process.argv.slice(2);
const module = binaryen.readBinary(readFileSync(linked));
keepExports(module);
optimise(module);
checkImports(module);
binaryen.setDebugInfo(true);
writeFileSync(named, module.emitBinary());
binaryen.setDebugInfo(false);
module.runPasses(["strip-debug", "strip-producers", "strip-target-features"]);
writeFileSync(shipped, module.emitBinary());

function keepExports(module) {
  const missing = new Set(EXPORTS);
  const names = Array.from({ length: module.getNumExports() }, (_, index) =>
    binaryen.getExportInfo(module.getExportByIndex(index)).name);
  for (const name of names) {
    if (!missing.delete(name)) module.removeExport(name);
  }
  if (missing.size > 0) fail(`the module does not export ${[...missing].join(", ")}`);
}

function optimise(module) {
  // As `wasm-opt -Oz`; the second run still finds something.
  binaryen.setOptimizeLevel(2);
  binaryen.setShrinkLevel(2);
  // The first kilobyte of memory is the end of the stack, where no pointer points.
  binaryen.setLowMemoryUnused(true);
  // What several functions have in common would become one without a name, which nobody can explain (tests/module); that is
  // worth 0.4 percent.
  binaryen.addPassToSkip("merge-similar-functions");
  module.optimize();
  module.optimize();
  // What is used most often gets the shortest numbers.
  module.runPasses(["const-hoisting", "reorder-locals", "reorder-functions"]);
  if (!module.validate()) fail("Binaryen made a module that is not valid");
}

/** It asks of its host only functions that Envoy has, above all no WASI. */
function checkImports(module) {
  for (let index = 0; index < module.getNumFunctions(); index++) {
    const { module: from, base } = binaryen.getFunctionInfo(module.getFunctionByIndex(index));
    if (from && from !== ENVOY) fail(`the module imports ${from}.${base}; only functions of ${ENVOY} are allowed`);
  }
}

function fail(why) {
  console.error(`postlink: ${why}`);
  process.exit(1);
}
