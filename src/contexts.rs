//! What a worker keeps for each context that Envoy gave a number.
//!
//! A hash table with open addressing and linear probing, for one kind of key: the standard library's costs the module
//! 2 kB for each type of value, and is made for more than numbers that a host counts up.

use std::cell::Cell;

/// Values by context number.
#[derive(Debug)]
pub struct Contexts<V> {
    /// A power of two of slots, or none. At least a quarter of them are free, so that every search ends.
    slots: Vec<Option<(u32, V)>>,
    len: usize,
    /// The place that was found last: a callback asks for its context several times.
    last: Cell<usize>,
}

impl<V> Default for Contexts<V> {
    fn default() -> Self {
        Self { slots: Vec::new(), len: 0, last: Cell::new(0) }
    }
}

impl<V> Contexts<V> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a context.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&V> {
        match self.slots.get(self.find(id)?) {
            Some(Some((_, value))) => Some(value),
            _ => None,
        }
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut V> {
        let place = self.find(id)?;
        match self.slots.get_mut(place) {
            Some(Some((_, value))) => Some(value),
            _ => None,
        }
    }

    /// Puts a value in, in the place of the one that was there.
    pub fn insert(&mut self, id: u32, value: V) {
        if let Some(old) = self.get_mut(id) {
            *old = value;
            return;
        }
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        self.place(id, value);
        self.len += 1;
    }

    /// Takes a value out.
    pub fn remove(&mut self, id: u32) -> Option<V> {
        let mut free = self.find(id)?;
        let removed = self.slots.get_mut(free)?.take();
        self.len -= 1;
        // Those behind it move up, unless they would come to stand before the place where a search for them starts.
        let mut next = self.after(free);
        while let Some(Some((id, _))) = self.slots.get(next) {
            let distance = |to: usize, from: usize| to.wrapping_sub(from) & (self.slots.len() - 1);
            let home = self.home(*id);
            if distance(next, home) >= distance(next, free) {
                let moved = self.slots.get_mut(next).and_then(Option::take);
                if let Some(slot) = self.slots.get_mut(free) {
                    *slot = moved;
                }
                free = next;
            }
            next = self.after(next);
        }
        removed.map(|(_, value)| value)
    }

    /// Where a search for `id` starts. Fibonacci hashing: the numbers are dense, and old ones stay among new ones.
    fn home(&self, id: u32) -> usize {
        let hash = u64::from(id.wrapping_mul(0x9E37_79B9));
        ((hash * self.slots.len() as u64) >> u32::BITS) as usize
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & self.slots.len().wrapping_sub(1)
    }

    fn find(&self, id: u32) -> Option<usize> {
        let last = self.last.get();
        if let Some(Some((known, _))) = self.slots.get(last)
            && *known == id
        {
            return Some(last);
        }
        let mut place = self.home(id);
        while let Some((known, _)) = self.slots.get(place)? {
            if *known == id {
                self.last.set(place);
                return Some(place);
            }
            place = self.after(place);
        }
        None
    }

    /// Fills the first free slot for a new `id`; there is one.
    fn place(&mut self, id: u32, value: V) {
        let mut place = self.home(id);
        while let Some(Some(_)) = self.slots.get(place) {
            place = self.after(place);
        }
        if let Some(slot) = self.slots.get_mut(place) {
            *slot = Some((id, value));
        }
    }

    #[cold]
    fn grow(&mut self) {
        let mut larger = Vec::new();
        larger.resize_with((self.slots.len() * 2).max(16), || None);
        for (id, value) in std::mem::replace(&mut self.slots, larger).into_iter().flatten() {
            self.place(id, value);
        }
    }
}
