//! A host that Envoy's balancer leaves out, since EDS says so, gets next to nothing more, also while another host is out.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::rate::Rate;
use crate::alone::Test;
use crate::ejection::site::Setup;
use crate::level::Level;
use crate::support::client::Request;
use crate::support::delay;

pub const TESTS: &[Test] =
    &[("harm::left_out::draining", || leaves("DRAINING")), ("harm::left_out::unhealthy", || leaves("UNHEALTHY"))];

fn leaves(health: &str) -> Result<()> {
    let mut setup = Setup::new(Level::Guard);
    setup.workers = 2;
    setup.route = json!({"route": {"retry_policy": super::previous_hosts()}});
    let site = setup.start()?;
    site.warm_up()?;
    let rate = Rate::start(site.address, 40, &Request::get("/"));
    std::thread::sleep(Duration::from_secs(2));
    site.stop(0)?;
    std::thread::sleep(Duration::from_secs(2));
    site.update_health(1, health)?;
    delay::sleep(Duration::from_secs(1));
    let before = site.replicas[1].count();
    std::thread::sleep(Duration::from_secs(4));
    let (late, sent) = (site.replicas[1].count() - before, rate.stop());
    let failed = sent.iter().filter(|sent| !sent.answered()).count();
    // A third of 160 while it is listed.
    ensure!(late <= 5 && failed <= 2, "{late} reached it more than a second later, {failed} failed; {}", site.story());
    Ok(())
}
