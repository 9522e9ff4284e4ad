//! What the proxies come to, together.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::tally::Tally;
use super::world::World;

/// The tallies of clusters, over all proxies.
pub struct Totals {
    clusters: BTreeMap<Box<str>, (bool, Tally)>,
}

impl Totals {
    /// Of each proxy, with its name where there are several.
    pub fn of<'a>(worlds: impl Iterator<Item = (Option<&'a Rc<str>>, &'a World)>) -> Self {
        let mut clusters: BTreeMap<Box<str>, (bool, Tally)> = BTreeMap::new();
        for (proxy, world) in worlds {
            for (name, watched, tally) in world.tallies() {
                let (all_watched, all) = clusters.entry(name.into()).or_insert_with(|| (watched, Tally::default()));
                *all_watched &= watched;
                all.add(tally, proxy);
            }
        }
        Self { clusters }
    }

    /// The clusters by name, with what was counted and whether attempts were told.
    pub fn tallies(&self) -> impl Iterator<Item = (&str, bool, &Tally)> {
        self.clusters.iter().map(|(name, (watched, tally))| (&**name, *watched, tally))
    }

    /// A count over all clusters.
    pub fn sum(&self, count: impl Fn(&Tally) -> u64) -> u64 {
        self.clusters.values().map(|(_, tally)| count(tally)).sum()
    }
}
