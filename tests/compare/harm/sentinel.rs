//! Tells a machine that stood still from an Envoy that does: each Envoy has one more cluster, where all is well, and clients that
//! ask it all the while. Where they had to wait, nothing that was counted at the same time says much.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;

use super::super::host::Host;
use super::super::support::{bootstrap, ports};
use super::client;
use super::replica::{Ledger, Replica};
use super::setup::{Setup, Shipped, Side};
use super::situation::Load;

const NAME: &str = "sentinel";

/// Who waits longer tells of a disturbance.
const LIMIT: Duration = Duration::from_millis(400);

/// Before anything is counted, Envoy has to be warm: so many requests in a row, none of which takes long.
const WARM: u64 = 60;
const WARM_WITHIN: Duration = Duration::from_millis(150);
const WARM_TRIES: usize = 20;

pub struct Sentinel {
    pub listens: SocketAddr,
    host: Host<Replica>,
    directory: tempfile::TempDir,
}

impl Sentinel {
    pub async fn new() -> Result<Self> {
        let replica = Arc::new(Replica::new(0, 0, None, &Arc::<Ledger>::default()));
        let mut host = Host::new(&replica);
        host.open().await.context("a replica's port is taken")?;
        Ok(Self { listens: ports::free(), host, directory: tempfile::tempdir()? })
    }

    pub fn setup(&self, shipped: &Shipped, side: Side) -> Result<Setup> {
        let hosts = vec![bootstrap::address(self.host.address)];
        Setup::new(shipped, side, NAME, self.listens, hosts, self.directory.path())
    }

    /// Waits until requests pass quickly.
    pub async fn warm_up(&self) {
        for _ in 0..WARM_TRIES {
            let load = Load::get(WARM).patience(5000);
            let outcomes = client::run(load, 0, self.listens, Instant::now(), 1.0).await;
            if outcomes.iter().all(|outcome| outcome.ok && outcome.took < WARM_WITHIN) {
                return;
            }
        }
    }

    /// How many of its clients had to wait.
    pub async fn watch(&self, start: Instant, seconds: f64) -> usize {
        let outcomes = client::run(Load::get(20), 0, self.listens, start, seconds).await;
        outcomes.iter().filter(|outcome| !outcome.ok || outcome.took > LIMIT).count()
    }
}
