//! The module's memory.
//!
//! Rust's own allocator for WebAssembly takes 7 kB of the module and gives memory back to nobody either: a module can only
//! grow. What Weir asks for is of few sizes that come again and again, on one thread. So a block is of one of four sizes per
//! power of two, and one that is freed waits for the next of its size. A free block is never split nor joined: what the heap
//! holds is at most the sum of what each size once needed, and all that Weir keeps is bounded.
#![allow(unsafe_code, reason = "an allocator is unsafe to implement; nothing else is in here")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr::null_mut;

/// Blocks begin at multiples of this, which is the most that anything in WebAssembly asks for; also the smallest block.
const ALIGNMENT: usize = 16;

/// One for each size of a block: four per power of two.
const SIZES: usize = 4 * usize::BITS as usize;

/// Where memory comes from: at least so many bytes, or none; returns the address of what is new, and how much it is.
pub type Grow = fn(usize) -> Option<(*mut u8, usize)>;

/// An allocator for one thread.
#[derive(Debug)]
pub struct Heap {
    grow: Grow,
    state: UnsafeCell<State>,
}

#[derive(Debug)]
struct State {
    /// The free blocks of each size: the first, whose first bytes are the address of the next.
    free: [*mut u8; SIZES],
    /// Memory that was never used.
    fresh: *mut u8,
    fresh_size: usize,
}

// SAFETY: a module runs on one thread; Envoy gives each of its threads a VM of its own.
unsafe impl Sync for Heap {}

/// The number of a block's size, and that size; `None` beyond what an address can tell.
const fn block(layout: Layout) -> Option<(usize, usize)> {
    if layout.align() > ALIGNMENT {
        return None;
    }
    let size = if layout.size() < ALIGNMENT { ALIGNMENT } else { layout.size() };
    let Some(power) = size.checked_next_power_of_two() else { return None };
    // All sizes are multiples of the alignment.
    let step = if power / 8 < ALIGNMENT { ALIGNMENT } else { power / 8 };
    let rounded = (size + step - 1) & !(step - 1);
    Some((4 * power.trailing_zeros() as usize + ((power - rounded) >> step.trailing_zeros()), rounded))
}

/// How many bytes a block takes that is asked for; 0 for one that is refused.
#[must_use]
pub const fn block_size(layout: Layout) -> usize {
    match block(layout) {
        Some((_, size)) => size,
        None => 0,
    }
}

impl Heap {
    /// An empty one.
    #[must_use]
    pub const fn new(grow: Grow) -> Self {
        Self { grow, state: UnsafeCell::new(State { free: [null_mut(); SIZES], fresh: null_mut(), fresh_size: 0 }) }
    }
}

impl State {
    #[cold]
    fn take_fresh(&mut self, size: usize, grow: Grow) -> *mut u8 {
        if self.fresh_size < size {
            let Some((more, more_size)) = grow(size) else { return null_mut() };
            // Usually it continues what is left; if not, that is lost.
            if self.fresh.wrapping_add(self.fresh_size) == more {
                self.fresh_size += more_size;
            } else {
                (self.fresh, self.fresh_size) = (more, more_size);
            }
        }
        let taken = self.fresh;
        self.fresh = taken.wrapping_add(size);
        self.fresh_size -= size;
        taken
    }
}

// SAFETY: a block is handed out once until it is freed, is large enough, and begins at a multiple of `ALIGNMENT`: memory
// comes in pages, and all sizes are multiples of it.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((number, size)) = block(layout) else { return null_mut() };
        // SAFETY: one thread, and nothing in here calls back.
        let state = unsafe { &mut *self.state.get() };
        let Some(first) = state.free.get_mut(number) else { return null_mut() };
        let taken = *first;
        if taken.is_null() {
            return state.take_fresh(size, self.grow);
        }
        // SAFETY: a free block begins with the address of the next.
        *first = unsafe { taken.cast::<*mut u8>().read() };
        taken
    }

    unsafe fn dealloc(&self, data: *mut u8, layout: Layout) {
        // SAFETY: one thread, and nothing in here calls back.
        let state = unsafe { &mut *self.state.get() };
        let Some(first) = block(layout).and_then(|(number, _)| state.free.get_mut(number)) else { return };
        // SAFETY: the caller gives up the block, which is large enough for an address.
        unsafe { data.cast::<*mut u8>().write(*first) };
        *first = data;
    }

    unsafe fn realloc(&self, data: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else { return null_mut() };
        if block(wanted) == block(layout) {
            return data;
        }
        // SAFETY: of a size that is not zero, says the caller.
        let moved = unsafe { self.alloc(wanted) };
        if !moved.is_null() {
            // SAFETY: both are at least that large, and are two blocks.
            unsafe {
                moved.copy_from_nonoverlapping(data, layout.size().min(size));
                self.dealloc(data, layout);
            }
        }
        moved
    }
}

/// The module's heap; `build.sh` asks for it.
#[cfg(all(target_arch = "wasm32", weir_module))]
#[global_allocator]
static HEAP: Heap = Heap::new(|size| {
    const PAGE: usize = 1 << 16;
    let pages = size.div_ceil(PAGE);
    let before = std::arch::wasm32::memory_grow::<0>(pages);
    // The host's "no" is the largest number.
    (before != usize::MAX).then(|| ((before * PAGE) as *mut u8, pages * PAGE))
});
