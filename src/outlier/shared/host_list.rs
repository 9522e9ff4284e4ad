//! The list of a cluster's hosts, for workers that do not know them yet.
//!
//! A worker that starts while hosts are ejected, since it had no requests before or its VM was loaded anew, knows the ejected
//! hosts from the record, and no others: it would have to leave its requests to Envoy's balancer, which also sends them to
//! ejected hosts. So a worker that ejects a host, or keeps it ejected, writes down which hosts there are, and how often Envoy's
//! balancer picks each.

use std::time::Duration;

use super::codec::read_address;
use crate::base::bytes::{Format, Reader, Writer};
use crate::base::time::Time;
use crate::outlier::hosts::MOST_HOSTS;

/// What a list starts with: a name, and the version of what follows.
const FORMAT: Format = *b"wrh\x01";
/// How long a list is valid. While hosts are ejected, one is written more often than this; later, the hosts may be others.
const VALID: Duration = Duration::from_secs(120);
/// The largest weight that a host may have.
const MOST_WEIGHT: u32 = 64 * MOST_HOSTS as u32;

/// Writes a list of addresses, each with its weight.
#[must_use]
pub fn encode_host_list<'a>(hosts: impl Iterator<Item = (&'a str, u32)>, now: Time) -> Vec<u8> {
    let mut list = Vec::new();
    let mut record = Writer::new(&mut list, &FORMAT, 0);
    record.times([now]);
    for (address, weight) in hosts.take(MOST_HOSTS) {
        record.text(address);
        record.u32(weight);
    }
    list
}

/// Reads a list of addresses with their weights. `None` if it is no such list, one of another version, or too old.
#[must_use]
pub fn decode_host_list(list: &[u8], now: Time) -> Option<Vec<(Box<str>, u32)>> {
    let mut record = Reader::new(list, &FORMAT)?;
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
