//! Another module in the place of this one: the new VMs go on with the budgets that the old ones have left.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::settings::{fail, send};
use super::{obedient, share};
use crate::alone::Test;
use crate::stage::Setup;
use crate::support::bootstrap::Attach;
use crate::support::envoy;

pub const TESTS: &[Test] =
    &[("budget::reload_keeps_what_is_left", || reload(10)), ("budget::reload_keeps_what_is_spent", || reload(100))];

/// The module with one more section, which means nothing: other bytes, so another VM for Envoy.
fn altered(directory: &std::path::Path) -> Result<PathBuf> {
    let mut bytes = std::fs::read(envoy::module()).context("the module")?;
    // A custom section (0) of five bytes: a name of four, and no content.
    bytes.extend_from_slice(b"\x00\x05\x04weir");
    let path = directory.join("altered.wasm");
    std::fs::write(&path, bytes)?;
    Ok(path)
}

fn reload(failing_before: usize) -> Result<()> {
    const ANSWERED: usize = 100;
    const FAILING: usize = 100;
    let upstream = obedient();
    let setup = Setup::new(Attach::GUARD, json!({"retry": share(20.0, 0)}));
    let mut stage = setup.cluster("orders", upstream.address).start()?;
    send(&stage, "orders", "ok", ANSWERED)?;
    let before = fail(&stage, "orders", &upstream, failing_before)?;
    let share = |requests: usize| requests * 20 / 100;
    let expected = failing_before.min(share(ANSWERED + failing_before));
    ensure!(before == expected, "{before} retries before, not {expected}");

    let module = altered(stage.envoy().directory())?;
    stage.update_module(module)?;

    // The first request already: what is left of the budget is known to nobody but the record.
    let first = fail(&stage, "orders", &upstream, 1)?;
    let requests = ANSWERED + failing_before + 1;
    let expected = (share(requests) - before).min(1);
    ensure!(first == expected, "{first} retries of the first request after the reload, not {expected}");

    let after = first + fail(&stage, "orders", &upstream, FAILING)?;
    let expected = (share(requests + FAILING) - before).min(FAILING + 1);
    ensure!(after == expected, "{after} retries after the reload, not {expected}");
    Ok(())
}
