//! Entries of `clusters` that no request goes by: mostly a mistake in a name, which nothing else shows while all is well.

use super::abi::{self, Level};
use super::metrics::ENTRIES_UNUSED;
use super::telemetry::{LogLimit, record};
use crate::base::text::printable;
use crate::engine::host::Update;
use crate::engine::worker::Worker;

/// After 250 ticks of one root, which is 25 seconds, workers write down which entries they use. After as many again they look which
/// entries no worker uses. Both go on as long as the policy is in force.
const TICKS: u32 = 250;

/// What shared data has under an entry's pattern: some worker uses it, or it was said that none does.
const USED: u8 = b'1';
const SAID: u8 = b'0';

/// How long a policy has been in force.
#[derive(Debug, Default)]
pub(super) struct Entries {
    ticks: u32,
}

impl Entries {
    /// The timer of one root. A worker that has seen no request says nothing; on Envoy's main thread there are never any.
    pub(super) fn on_tick(&mut self, worker: &Worker, log: &mut LogLimit) {
        self.ticks = self.ticks.wrapping_add(1);
        if !self.ticks.is_multiple_of(TICKS) || worker.cluster_counts().0 == 0 {
            return;
        }
        let looks = self.ticks.is_multiple_of(2 * TICKS);
        let mut unused = 0;
        worker.each_entry(&mut |pattern, used| {
            // What is for all others.
            if pattern == "*" {
                return;
            }
            let key = ["weir/entry/", pattern].concat();
            let (mut known, mut says) = (None, false);
            let update = abi::update(&key, &mut |record| {
                known = record.and_then(|record| record.first().copied());
                says = !used && looks && known.is_none();
                let tells = used && known != Some(USED);
                (says || tells).then(|| vec![if used { USED } else { SAID }])
            });
            if !used && known != Some(USED) && update != Update::Unread {
                unused += 1;
            }
            if says && update == Update::Done {
                let line = ["weir: no request went to a cluster that \"match\": \"", &printable(pattern), "\" is for"];
                log.write(Level::Warn, &line.concat());
            }
        });
        if looks {
            record(ENTRIES_UNUSED, unused);
        }
    }
}
