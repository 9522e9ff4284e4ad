//! The steering header is Weir's: clients cannot set it, and upstreams do not see it.

use anyhow::ensure;

use super::life::unretried;
use super::site::{HEADER, Setup};
use crate::alone::Test;
use crate::level::Level;
use crate::support::client::Request;

pub const TESTS: &[Test] = &[
    ("ejection::decide::client_header", || {
        client_header(Setup { strips: true, policy: unretried(), ..Setup::new(Level::Decide) })
    }),
    ("ejection::watch::client_header", || client_header(Setup { strips: true, ..Setup::new(Level::Watch) })),
    ("ejection::guard::client_header", || client_header(Setup::new(Level::Guard))),
    ("ejection::guard_and_mutation::client_header", || {
        client_header(Setup { strips: true, ..Setup::new(Level::Guard) })
    }),
];

fn client_header(setup: Setup) -> anyhow::Result<()> {
    let site = setup.start()?;
    let address = site.replicas[0].address.to_string();
    // In any spelling, and twice.
    let spoofed = Request::get("/spoofed").header("X-Weir-Hosts", &address).header(HEADER, &address);
    let spoof = |path: &str, count: usize| -> anyhow::Result<Vec<usize>> {
        let request = Request { path: path.to_owned(), ..spoofed.clone() };
        let statuses = site.send(&request, count)?;
        ensure!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        let attempts = site.attempts(path, count)?;
        Ok((0..4).map(|replica| site.on(replica, &attempts)).collect())
    };
    let shares = spoof("/calm", 80)?;
    ensure!(shares == [20; 4], "in a calm cluster, a client's header counts: {shares:?}");
    site.warm_up()?;
    site.stop(3)?;
    site.get("/out", 60)?;
    site.wait_for("hosts_out", 1)?;
    // A client that steered would send all to the first host. Shares are known from a sample, so they are rough.
    let request = Request { path: "/steered".to_owned(), ..spoofed.clone() };
    site.send(&request, 90)?;
    let attempts = site.attempts("/steered", 90)?;
    let shares: Vec<usize> = (0..4).map(|replica| site.on(replica, &attempts)).collect();
    ensure!(
        shares[0] <= 65 && shares[..3].iter().all(|share| *share >= 4),
        "a client steered: {shares:?}; {}",
        site.story()
    );
    ensure!(attempts.iter().filter(|attempt| attempt.steered()).count() > 45, "nothing was steered: {}", site.story());
    for (replica, seen) in site.replicas.iter().map(super::replica::Replica::seen).enumerate() {
        let leaked: Vec<_> = seen.iter().filter(|headers| headers.iter().any(|(name, _)| name == HEADER)).collect();
        ensure!(leaked.is_empty(), "replica {replica} saw the header in {} requests: {:?}", leaked.len(), leaked[0]);
    }
    Ok(())
}
