// The module `env` for tests that run in Node (NODE_PATH points here). In Envoy these imports are Envoy's; in a test
// the fake host, linked into the same module, exports functions of the same names, and each import is led to its own.
"use strict";
const bindings = module.parent; // the generated JavaScript that loads the test module; it sets `__wasm` once it has

module.exports = new Proxy({}, {
  get: (_, name) => (...args) => {
    const host = bindings.exports.__wasm[name];
    if (!host) throw new Error(`tests/fake_host has no ${name}`);
    return host(...args);
  },
});
