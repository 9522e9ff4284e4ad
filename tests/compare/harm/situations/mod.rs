//! All situations, by what they are about.

mod affinity;
mod deploys;
mod destinations;
mod features;
mod outages;
mod partial;
mod pushback;
mod sizes;
mod slow;
mod streams;

use super::situation::Situation;

pub fn all() -> Vec<Situation> {
    [
        features::all(),
        outages::all(),
        deploys::all(),
        affinity::all(),
        streams::all(),
        slow::all(),
        pushback::all(),
        destinations::all(),
        sizes::all(),
        partial::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
