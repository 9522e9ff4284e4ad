//! What a worker keeps for each context that Envoy gave a number.
//!
//! A hash table with open addressing and linear probing, for one kind of key: the standard library's costs the module
//! 2 kB for each type of value, and is made for more than numbers that a host counts up.

use std::cell::Cell;

/// Values by context number.
#[derive(Debug)]
pub struct Contexts<V> {
    keys: Keys,
    /// The value of each key, in the same place.
    values: Vec<Option<V>>,
}

/// The table, which is the same for all types of values.
#[derive(Debug, Default)]
struct Keys {
    /// A power of two of slots, or none. At least a quarter of them are free, so that every search ends.
    slots: Vec<Option<u32>>,
    len: usize,
    /// The place that was found last: a callback asks for its context several times.
    last: Cell<usize>,
}

impl<V> Default for Contexts<V> {
    fn default() -> Self {
        Self { keys: Keys::default(), values: Vec::new() }
    }
}

impl<V> Contexts<V> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.len == 0
    }

    /// The value of a context.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&V> {
        self.values.get(self.keys.find(id)?)?.as_ref()
    }

    /// The value of a context, to change it.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut V> {
        self.values.get_mut(self.keys.find(id)?)?.as_mut()
    }

    /// Puts a value in, in the place of the one that was there.
    pub fn insert(&mut self, id: u32, value: V) {
        if self.keys.find(id).is_none() && self.keys.is_full() {
            self.grow();
        }
        self.place(id, value);
    }

    /// Takes a value out.
    pub fn remove(&mut self, id: u32) -> Option<V> {
        let mut free = self.keys.find(id)?;
        let removed = self.values.get_mut(free)?.take();
        self.keys.forget(free);
        while let Some(moved) = self.keys.fill(free) {
            let value = self.values.get_mut(moved).and_then(Option::take);
            if let Some(slot) = self.values.get_mut(free) {
                *slot = value;
            }
            free = moved;
        }
        removed
    }

    fn place(&mut self, id: u32, value: V) {
        let place = self.keys.place(id);
        if let Some(slot) = self.values.get_mut(place) {
            *slot = Some(value);
        }
    }

    #[cold]
    fn grow(&mut self) {
        let keys = self.keys.grow();
        let mut larger = Vec::new();
        larger.resize_with(self.keys.slots.len(), || None);
        for (id, value) in keys.into_iter().zip(std::mem::replace(&mut self.values, larger)) {
            if let (Some(id), Some(value)) = (id, value) {
                self.place(id, value);
            }
        }
    }
}

impl Keys {
    /// Where a search for `id` starts. Fibonacci hashing: the numbers are dense, and old ones stay among new ones.
    fn home(&self, id: u32) -> usize {
        let hash = u64::from(id.wrapping_mul(0x9E37_79B9));
        ((hash * self.slots.len() as u64) >> u32::BITS) as usize
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & self.slots.len().wrapping_sub(1)
    }

    /// Whether the table should grow before another key comes in.
    fn is_full(&self) -> bool {
        (self.len + 1) * 4 > self.slots.len() * 3
    }

    fn find(&self, id: u32) -> Option<usize> {
        let last = self.last.get();
        if self.slots.get(last) == Some(&Some(id)) {
            return Some(last);
        }
        let mut place = self.home(id);
        while let Some(known) = self.slots.get(place)? {
            if *known == id {
                self.last.set(place);
                return Some(place);
            }
            place = self.after(place);
        }
        None
    }

    /// Where a key is, or where it is put now: the first free slot. There is one.
    fn place(&mut self, id: u32) -> usize {
        let mut place = self.home(id);
        while let Some(Some(known)) = self.slots.get(place)
            && *known != id
        {
            place = self.after(place);
        }
        if let Some(slot @ None) = self.slots.get_mut(place) {
            *slot = Some(id);
            self.len += 1;
        }
        place
    }

    fn forget(&mut self, place: usize) {
        self.slots.get_mut(place).into_iter().for_each(|slot| *slot = None);
        self.len -= 1;
    }

    /// Fills a place that became free with a key from behind it, unless that would come to stand before the place where a search
    /// for it starts. Where that key was.
    fn fill(&mut self, free: usize) -> Option<usize> {
        let mut next = self.after(free);
        while let Some(Some(id)) = self.slots.get(next) {
            let distance = |to: usize, from: usize| to.wrapping_sub(from) & (self.slots.len() - 1);
            let home = self.home(*id);
            if distance(next, home) >= distance(next, free) {
                let key = self.slots.get_mut(next)?.take();
                *self.slots.get_mut(free)? = key;
                return Some(next);
            }
            next = self.after(next);
        }
        None
    }

    /// An empty table of twice the size; the slots of the one before.
    fn grow(&mut self) -> Vec<Option<u32>> {
        let larger = vec![None; (self.slots.len() * 2).max(16)];
        self.len = 0;
        std::mem::replace(&mut self.slots, larger)
    }
}
