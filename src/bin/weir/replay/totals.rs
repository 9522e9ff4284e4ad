//! What the proxies come to, together.

use std::collections::BTreeMap;

use super::tally::Tally;
use super::world::World;

/// The tallies of clusters, over all proxies.
pub struct Totals {
    clusters: BTreeMap<Box<str>, (bool, Tally)>,
}

impl Totals {
    pub fn of<'a>(worlds: impl Iterator<Item = &'a World>) -> Self {
        let mut clusters: BTreeMap<Box<str>, (bool, Tally)> = BTreeMap::new();
        for (name, watched, tally) in worlds.flat_map(World::tallies) {
            let (all_watched, all) = clusters.entry(name.into()).or_insert_with(|| (watched, Tally::default()));
            *all_watched &= watched;
            all.add(tally);
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
