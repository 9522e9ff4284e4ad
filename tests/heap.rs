//! The module's allocator: blocks are large enough, aligned, and of one owner each.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use property::{Digits, for_all};
use weir::heap::Heap;

// The crate links only with a host beside it.
mod fake_host;
mod property;

const PAGE: usize = 1 << 16;

thread_local! {
    static GROWN: Cell<usize> = const { Cell::new(0) };
    static LIMIT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Pages from the system; not one behind the other, as a module's are. They stay.
fn grow(size: usize) -> Option<(*mut u8, usize)> {
    let size = size.next_multiple_of(PAGE);
    if GROWN.get() + size > LIMIT.get() {
        return None;
    }
    GROWN.set(GROWN.get() + size);
    let pages = unsafe { System.alloc(Layout::from_size_align(size, PAGE).unwrap()) };
    (!pages.is_null()).then_some((pages, size))
}

/// A block with something written into all of it.
struct Block {
    data: *mut u8,
    layout: Layout,
    mark: u8,
}

impl Block {
    fn new(heap: &Heap, layout: Layout, mark: u8) -> Self {
        let data = unsafe { heap.alloc(layout) };
        assert!(!data.is_null());
        assert_eq!(data as usize % layout.align(), 0);
        unsafe { data.write_bytes(mark, layout.size()) };
        Self { data, layout, mark }
    }

    fn check(&self) {
        let bytes = unsafe { std::slice::from_raw_parts(self.data, self.layout.size()) };
        assert!(bytes.iter().all(|byte| *byte == self.mark), "somebody else wrote into a block of {:?}", self.layout);
    }

    fn resize(&mut self, heap: &Heap, size: usize) {
        let kept = self.layout.size().min(size);
        self.data = unsafe { heap.realloc(self.data, self.layout, size) };
        assert!(!self.data.is_null());
        assert_eq!(self.data as usize % self.layout.align(), 0);
        let bytes = unsafe { std::slice::from_raw_parts(self.data, kept) };
        assert!(bytes.iter().all(|byte| *byte == self.mark), "lost on the way to {size} bytes");
        self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        unsafe { self.data.write_bytes(self.mark, size) };
    }

    fn free(self, heap: &Heap) {
        self.check();
        unsafe { heap.dealloc(self.data, self.layout) };
    }
}

fn layout(digits: &mut Digits) -> Layout {
    let size = (1_u64 << digits.below(17)) + digits.below(100);
    Layout::from_size_align(size as usize, 1 << digits.below(5)).unwrap()
}

#[test]
fn any_order_of_allocations() {
    for_all(40, 400, |numbers| {
        let heap = Heap::new(grow);
        let mut blocks: Vec<Block> = Vec::new();
        for (step, digits) in numbers.iter().enumerate() {
            let mut digits = Digits(*digits);
            let place = digits.below(blocks.len().max(1) as u64) as usize;
            match digits.below(4) {
                0 | 1 => blocks.push(Block::new(&heap, layout(&mut digits), step as u8)),
                2 if !blocks.is_empty() => blocks.swap_remove(place).free(&heap),
                3 if !blocks.is_empty() => blocks[place].resize(&heap, layout(&mut digits).size()),
                _ => {}
            }
            blocks.iter().for_each(Block::check);
        }
        blocks.into_iter().for_each(|block| block.free(&heap));
    });
}

#[test]
fn what_is_freed_is_used_again() {
    let heap = Heap::new(grow);
    let round = |seed: usize| {
        let blocks: Vec<_> = (1..2_000)
            .map(|it| Block::new(&heap, Layout::from_size_align((it * 7 + seed) % 900 + 1, 8).unwrap(), it as u8))
            .collect();
        blocks.into_iter().for_each(|block| block.free(&heap));
    };
    round(0);
    let after_one = GROWN.get();
    (1..100).for_each(|_| round(0));
    assert_eq!(GROWN.get(), after_one);
}

/// A block is at most a quarter larger than what was asked for, but for the smallest.
#[test]
fn little_is_wasted() {
    for size in [65, 81, 100, 129, 193, 1_000, 1_025, 1_600, 3_000] {
        let heap = Heap::new(grow);
        let before = GROWN.get();
        let mut asked = 0;
        while asked < 100 * PAGE {
            Block::new(&heap, Layout::from_size_align(size, 8).unwrap(), 1);
            asked += size;
        }
        let took = GROWN.get() - before;
        assert!(took as f64 <= asked as f64 * 1.26, "{size}: {took} bytes for {asked}");
    }
}

#[test]
fn when_there_is_no_more_it_says_so() {
    let heap = Heap::new(grow);
    LIMIT.set(GROWN.get() + 4 * PAGE);
    let large = Layout::from_size_align(PAGE, 8).unwrap();
    let blocks: Vec<_> = (0..4).map(|mark| Block::new(&heap, large, mark)).collect();
    assert!(unsafe { heap.alloc(large) }.is_null());
    assert!(unsafe { heap.alloc(Layout::from_size_align(isize::MAX as usize - PAGE, 8).unwrap()) }.is_null());
    assert!(unsafe { heap.alloc(Layout::from_size_align(64, 4_096).unwrap()) }.is_null(), "an alignment nobody has");
    blocks.into_iter().for_each(|block| block.free(&heap));
    Block::new(&heap, large, 9).free(&heap);
}
