// What happens to the module after it is linked: `node postlink.mjs LINKED COMMIT PANICKING NAMED SHIPPED`.
//
// The linker keeps every function that a library exports. This keeps the callbacks that Weir needs, so that Envoy makes no
// others (a streamed body costs nothing), removes what nothing reaches any more, and lets Binaryen make the rest smaller.
// PANICKING is the module before panics are made to trap, from which tests/module tells where it can. NAMED and SHIPPED are one
// module, with and without the names of its functions. COMMIT, of twelve characters, is put in for the mark of src/filter/startup.rs.
import { readFileSync, writeFileSync } from "node:fs";
import binaryen from "binaryen";

const lines = (file) => readFileSync(new URL(file, import.meta.url), "utf8").trim().split("\n");

/** What Envoy calls in the module, and the memory that it reads and writes; `link.sh` keeps the same. */
const EXPORTS = new Set(lines("exports.txt"));

/** What the module calls in Envoy; SECURITY.md says the same in other words. */
const IMPORTS = new Set([
  "proxy_continue_stream",
  "proxy_define_metric",
  "proxy_get_buffer_bytes",
  "proxy_get_current_time_nanoseconds",
  "proxy_get_header_map_pairs",
  "proxy_get_header_map_value",
  "proxy_get_property",
  "proxy_get_shared_data",
  "proxy_increment_metric",
  "proxy_log",
  "proxy_record_metric",
  "proxy_remove_header_map_value",
  "proxy_replace_header_map_value",
  "proxy_send_local_response",
  "proxy_set_effective_context",
  "proxy_set_property",
  "proxy_set_shared_data",
  "proxy_set_tick_period_milliseconds",
]);

/** The only module that Envoy offers. */
const ENVOY = "env";

const [linked, commit, panicking, named, shipped] = process.argv.slice(2);
const module = binaryen.readBinary(withCommit(withoutPlaces(readFileSync(linked))));
keepExports(module);
replaceHelpers(module);
binaryen.setDebugInfo(true);
writeFileSync(panicking, module.emitBinary());
trapPanics(module);
optimise(module);
checkImports(module);
writeFileSync(named, module.emitBinary());
binaryen.setDebugInfo(false);
module.runPasses(["strip-debug", "strip-producers", "strip-target-features"]);
writeFileSync(shipped, module.emitBinary());

/** Done here and not by the compiler, so that a commit that changes no code compiles nothing. */
function withCommit(bytes) {
  const mark = "@weir-commit";
  const at = bytes.indexOf(mark);
  if (at < 0 || bytes.includes(mark, at + 1) || commit.length !== mark.length) {
    throw new Error(`the mark ${mark} is not there once, or ${commit} is not as long`);
  }
  bytes.write(commit, at, "latin1");
  return bytes;
}

function keepExports(module) {
  const missing = new Set(EXPORTS);
  const names = Array.from({ length: module.getNumExports() }, (_, index) =>
    binaryen.getExportInfo(module.getExportByIndex(index)).name);
  for (const name of names) {
    if (!missing.delete(name)) module.removeExport(name);
  }
  if (missing.size > 0) fail(`the module does not export ${[...missing].join(", ")}`);
}

/**
 * The SDK's traits have a method with a default for each thing that a filter may ask of Envoy, and a table of methods keeps them
 * all, with what they import. Weir calls none: it asks through `hostcalls`. They trap instead, unless something does call them.
 */
function replaceHelpers(module) {
  const HELPER = /^_ZN10proxy_wasm6traits\d+(?:Root|Stream|Http)?Context\d+(?!\d|on_|create_|get_type)/;
  const text = module.emitText();
  const called = new Set(Array.from(text.matchAll(/\(call \$(\S+?)[\s)]/g), ([, name]) => name));
  for (const { name, params, results } of functions(module)) {
    if (HELPER.test(name) && !called.has(name)) replace(module, name, params, results);
  }
}

/**
 * A panic ends the VM, whatever it says, and a module has nobody to say it to. So it traps at once, instead of passing its
 * message on, which nothing then formats. (What rustc's `panic=immediate-abort` does, which stable Rust does not have.)
 */
function trapPanics(module) {
  const PANIC = /4core9panicking9panic_fmt|3std9panicking\d+(begin_panic|rust_panic|panic_with_hook|panic_handler)|__rust_end_short_backtrace/;
  // Nothing is formatted for debugging but in panics: src/lib.rs denies it.
  const DEBUG = /5Debug3fmt|core\.\.fmt\.\.Debug|5DebugEL_|3fmt8builders/;
  for (const { name, module: from, params, results } of functions(module)) {
    if (!from && (PANIC.test(name) || DEBUG.test(name))) replace(module, name, params, results);
  }
}

/**
 * Every call that can panic hands over where it stands: a file's name, its length, line and column. Panics trap (see
 * `trapPanics`), so nobody reads that. Zeros take its place, which Binaryen leaves out of a module's data: 4 kB.
 */
function withoutPlaces(wasm) {
  const segments = dataSegments(wasm);
  const at = (address, length) => {
    const segment = segments.find(({ start, bytes }) => address >= start && address + length <= start + bytes.length);
    return segment?.bytes.subarray(address - segment.start, address - segment.start + length);
  };
  const found = [];
  for (const { bytes } of segments) {
    for (let offset = 0; offset + 16 <= bytes.length; offset += 4) {
      const [name, length, line, column] = [0, 4, 8, 12].map((field) => bytes.readUInt32LE(offset + field));
      if (length < 4 || length > 200 || line === 0 || column === 0) continue;
      const file = at(name, length);
      if (file && /^[\x21-\x7e]+\.rs$/.test(file.toString("latin1"))) found.push(bytes.subarray(offset, offset + 16), file);
    }
  }
  for (const place of found) place.fill(0);
  return wasm;
}

/** The module's data as linked: where in memory each segment starts, and its bytes, which are those of `wasm`. */
function dataSegments(wasm) {
  let position = 8;
  const number = () => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = wasm[position++];
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value >>> 0;
    }
  };
  const segments = [];
  while (position < wasm.length) {
    const section = wasm[position++];
    const length = number();
    const end = position + length;
    if (section === 11) {
      for (let count = number(); count > 0; count--) {
        // The linker makes them active, in the first memory, at `i32.const START end`.
        if (number() !== 0 || wasm[position++] !== 0x41) fail("the linker wrote data in a way that is not known here");
        const start = number();
        position++;
        const size = number();
        segments.push({ start, bytes: wasm.subarray(position, position + size) });
        position += size;
      }
    }
    position = end;
  }
  return segments;
}

function functions(module) {
  return Array.from({ length: module.getNumFunctions() }, (_, index) =>
    binaryen.getFunctionInfo(module.getFunctionByIndex(index)));
}

function replace(module, name, params, results) {
  module.removeFunction(name);
  module.addFunction(name, params, results, [], module.unreachable());
}

/** The module asks of Envoy what it says it asks. */
function checkImports(module) {
  for (const { module: from, base } of functions(module)) {
    if (from && !(from === ENVOY && IMPORTS.has(base))) fail(`the module imports ${from}.${base}, which it has no business with`);
  }
}

function optimise(module) {
  // As `wasm-opt -Oz`, twice, since the second run still finds something.
  binaryen.setOptimizeLevel(2);
  binaryen.setShrinkLevel(2);
  // The first kilobyte of memory is the end of the stack, where no pointer points.
  binaryen.setLowMemoryUnused(true);
  // Control flow is laid out anew before: half a percent. Functions that differ in constants alone are one: half as much.
  module.runPasses(["flatten", "rereloop", "merge-similar-functions"]);
  module.optimize();
  module.optimize();
  // What is used most often gets the shortest numbers.
  module.runPasses(["const-hoisting", "reorder-locals", "reorder-functions"]);
  if (!module.validate()) fail("Binaryen made a module that is not valid");
}

function fail(why) {
  console.error(`postlink: ${why}`);
  process.exit(1);
}
