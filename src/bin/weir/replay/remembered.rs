//! What is remembered of requests, bounded.

use std::collections::HashMap;

/// Requests of which failed attempts, or an unusual end, are remembered.
const MOST_REMEMBERED: usize = 1 << 16;

/// Values by request, in two generations, so that the older half is forgotten.
pub struct Remembered<T> {
    young: HashMap<u64, T>,
    old: HashMap<u64, T>,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<T> Remembered<T> {
    pub fn insert(&mut self, id: u64, value: T) {
        if self.young.len() >= MOST_REMEMBERED / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, value);
    }

    pub fn get(&self, id: u64) -> Option<&T> {
        self.young.get(&id).or_else(|| self.old.get(&id))
    }
}
