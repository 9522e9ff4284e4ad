//! The hosts of a cluster, for workers that do not know them yet.
//!
//! A worker that starts while hosts are out, since it had no requests before or its VM was loaded anew, knows from the record
//! who is out, and nobody else: it would have to leave its requests to Envoy's balancer, which sends them to those that are
//! out as well. So whoever ejects a host, or keeps it out, writes down which hosts there are, and how often Envoy's balancer
//! picks each.

use std::time::Duration;

use super::codec::read_address;
use crate::base::bytes::{Format, Reader, Writer};
use crate::base::time::Time;
use crate::outlier::hosts::MOST_HOSTS;

/// What it starts with: a name, and the version of what follows.
const FORMAT: Format = *b"wrh\x01";
/// While hosts are out, one is written more often than this; later, there may be others.
const VALID: Duration = Duration::from_secs(120);
/// No share is larger.
const MOST_WEIGHT: u32 = 64 * MOST_HOSTS as u32;

/// The hosts' addresses, each with its weight, in bytes.
#[must_use]
pub fn encode_roster<'a>(hosts: impl Iterator<Item = (&'a str, u32)>, now: Time) -> Vec<u8> {
    let mut roster = Vec::new();
    let mut record = Writer::new(&mut roster, &FORMAT, 0);
    record.times([now]);
    for (address, weight) in hosts.take(MOST_HOSTS) {
        record.text(address);
        record.u32(weight);
    }
    roster
}

/// What is in it. `None` if it is no roster, one of another version, or too old.
#[must_use]
pub fn decode_roster(roster: &[u8], now: Time) -> Option<Vec<(Box<str>, u32)>> {
    let mut record = Reader::new(roster, &FORMAT)?;
    let written = record.time()?;
    if now.is_later(VALID, written) || written.is_later(VALID, now) {
        return None;
    }
    let mut hosts = Vec::new();
    while !record.is_empty() && hosts.len() < MOST_HOSTS {
        let address = read_address(&mut record)?;
        hosts.push((address, record.u32()?.min(MOST_WEIGHT)));
    }
    Some(hosts)
}
