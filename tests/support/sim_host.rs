//! A host for the engine without any Envoy: a clock that is set, streams whose facts are given, and records in a map. What
//! drives the engine in virtual time keeps one of these for each worker, and one map of records for the workers of a proxy.
#![allow(dead_code, reason = "each test binary uses another part of it")]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use weir::base::time::Time;
use weir::engine::host::{Change, HeaderMap, Host, Key, Lengths, Property, Record, Stranded, StreamId, Update};

/// Where a record is kept: what it holds, its cluster, and whether that is in shadow mode.
type Place = (Record, String, bool);

/// The records that the workers of one proxy share.
pub type Records = Rc<RefCell<HashMap<Place, Rc<[u8]>>>>;

/// A header's name, in lower case, and its value.
pub type Header = (String, Vec<u8>);

#[derive(Clone, Debug)]
enum Value {
    Number(u64),
    Text(Vec<u8>),
}

/// What a stream shows to the current callback: the driver leaves out what Envoy would not show in it.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    properties: [Option<Value>; Property::Request as usize + 1],
    pub request: Vec<Header>,
    pub response: Vec<Header>,
    pub trailers: Vec<Header>,
}

impl Facts {
    /// Says that a property has this value.
    pub fn set(&mut self, property: Property, value: impl AsRef<[u8]>) {
        self.properties[property as usize] = Some(Value::Text(value.as_ref().to_vec()));
    }

    /// Says that a property is this integer.
    pub fn set_number(&mut self, property: Property, value: u64) {
        self.properties[property as usize] = Some(Value::Number(value));
    }

    pub fn property(&self, property: Property) -> Option<Vec<u8>> {
        self.properties[property as usize].as_ref().map(|value| match value {
            Value::Number(number) => number.to_le_bytes().to_vec(),
            Value::Text(text) => text.clone(),
        })
    }

    /// Leaves one value of a header.
    pub fn set_header(&mut self, map: HeaderMap, name: &str, value: impl AsRef<[u8]>) {
        self.remove_header(map, name);
        self.map_mut(map).push((name.to_owned(), value.as_ref().to_vec()));
    }

    pub fn remove_header(&mut self, map: HeaderMap, name: &str) {
        self.map_mut(map).retain(|(known, _)| known != name);
    }

    pub fn header(&self, map: HeaderMap, name: &str) -> Option<&[u8]> {
        let map = match map {
            HeaderMap::Request => &self.request,
            HeaderMap::Response => &self.response,
            HeaderMap::ResponseTrailers => &self.trailers,
        };
        map.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    fn map_mut(&mut self, map: HeaderMap) -> &mut Vec<Header> {
        match map {
            HeaderMap::Request => &mut self.request,
            HeaderMap::Response => &mut self.response,
            HeaderMap::ResponseTrailers => &mut self.trailers,
        }
    }
}

/// A worker's host.
#[derive(Default)]
pub struct SimHost {
    now: Cell<u64>,
    records: Records,
    current: RefCell<Facts>,
    /// Streams that others may ask about.
    streams: RefCell<HashMap<StreamId, Facts>>,
    /// Which hosts are ejected, as this worker read or wrote it last.
    ejections: RefCell<Option<Rc<[u8]>>>,
    /// How often this worker wrote a budget.
    budgets_written: Cell<u64>,
}

impl SimHost {
    pub fn new(records: Records) -> Self {
        Self { records, ..Self::default() }
    }

    /// Sets the clock, in nanoseconds since the Unix epoch.
    pub fn set_time(&self, nanos: u64) {
        self.now.set(nanos);
    }

    /// What the next callback of the engine sees.
    pub fn show(&self, facts: &Facts) {
        self.current.replace(facts.clone());
    }

    /// Makes a callback of the engine that sees these.
    pub fn lend<R>(&self, facts: &mut Facts, callback: impl FnOnce() -> R) -> R {
        std::mem::swap(&mut *self.current.borrow_mut(), facts);
        let result = callback();
        std::mem::swap(&mut *self.current.borrow_mut(), facts);
        result
    }

    /// A stream lives, and shows this to others.
    pub fn keep(&self, stream: StreamId, facts: &Facts) {
        self.streams.borrow_mut().insert(stream, facts.clone());
    }

    /// A stream is over.
    pub fn forget(&self, stream: StreamId) {
        self.streams.borrow_mut().remove(&stream);
    }

    pub fn record(&self, record: Record, cluster: &str, shadow: bool) -> Option<Rc<[u8]>> {
        self.records.borrow().get(&(record, cluster.to_owned(), shadow)).cloned()
    }

    /// The record of ejections that this worker read or wrote last.
    pub fn known_ejections(&self) -> Option<Rc<[u8]>> {
        self.ejections.borrow().clone()
    }

    /// How often this worker wrote a budget.
    pub fn budgets_written(&self) -> u64 {
        self.budgets_written.get()
    }
}

fn owned(key: &Key<'_>) -> Place {
    (key.record, key.cluster.to_owned(), key.shadow)
}

impl Host for SimHost {
    type Bytes = Vec<u8>;

    fn now(&self) -> Option<Time> {
        Some(Time::from_nanos(self.now.get()))
    }

    fn property(&self, property: Property) -> Option<Vec<u8>> {
        self.current.borrow().property(property)
    }

    fn property_of(&self, stream: StreamId, property: Property) -> Result<Option<Vec<u8>>, Stranded> {
        Ok(self.streams.borrow().get(&stream).and_then(|facts| facts.property(property)))
    }

    fn header(&self, map: HeaderMap, name: &str) -> Option<Vec<u8>> {
        self.current.borrow().header(map, name).map(<[u8]>::to_vec)
    }

    fn each_header(&self, lengths: Lengths, visit: &mut dyn FnMut(&[u8], &[u8])) {
        let current = self.current.borrow();
        current.request.iter().filter(|(name, _)| lengths.has(name.len())).for_each(|(name, value)| {
            visit(name.as_bytes(), value);
        });
    }

    fn update(&self, key: &Key<'_>, change: &mut Change<'_>) -> Update {
        let (mut records, place) = (self.records.borrow_mut(), owned(key));
        let changed = change(records.get(&place).map(|record| &**record)).map(Rc::<[u8]>::from);
        if key.record == Record::Ejections {
            self.ejections.replace(changed.as_ref().or(records.get(&place)).cloned());
        }
        if let Some(changed) = changed {
            self.budgets_written.set(self.budgets_written.get() + u64::from(key.record == Record::Budget));
            records.insert(place, changed);
        }
        Update::Done
    }

    fn put(&self, key: &Key<'_>, value: &[u8]) {
        self.records.borrow_mut().insert(owned(key), value.into());
    }
}
