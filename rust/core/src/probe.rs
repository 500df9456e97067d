//! Query-directed probing (Lv et al., "Multi-Probe LSH", VLDB 2007), over all tables at once: where a query lies
//! close to planes its neighbours may be on the other side, so the doubtful bits are flipped first.
//!
//! A probe flips a set of bits of the query's code in one table. Its cost is the sum of their squared margins,
//! added from the smallest up. Probes come in order of cost; ties go to the lowest table, then to the lowest mask
//! over the table's bits ranked by margin. A table in which the query lies well inside its bucket is thus probed
//! less than one in which it lies at an edge.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use crate::hash::{MAX_BITS, MAX_TABLES, code};

/// Scratch of the enumeration.
#[derive(Debug, Default)]
pub struct Probes {
    n_bits: usize,
    /// Squared margin and code bit, by table, smallest margin first.
    ranked: Vec<(f32, u32)>,
    heap: BinaryHeap<Reverse<Node>>,
}

/// A set of ranked bits of a table. Nodes go by their keys, of which no two are equal.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Bits of the cost, the table, the mask: not negative, so that the integer sorts like the three.
    key: u64,
    /// Cost without the highest-ranked bit.
    rest: f32,
    /// The table's code with these bits flipped.
    code: u32,
}

const _: () = assert!(MAX_BITS <= 24 && MAX_TABLES <= 256, "mask and table share 32 bits of the key");

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Node {}

impl PartialOrd for Node {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Node {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

impl Node {
    #[inline(always)]
    fn new(rest: f32, highest: f32, table: usize, mask: u32, code: u32) -> Self {
        let cost = u64::from((rest + highest).to_bits());
        Node { key: (cost << 32) | (table as u64) << 24 | u64::from(mask), rest, code }
    }

    #[inline(always)]
    fn mask(self) -> u32 {
        self.key as u32 & 0x00ff_ffff
    }

    #[inline(always)]
    fn table(self) -> usize {
        (self.key >> 24) as usize & 0xff
    }

    #[inline(always)]
    fn cost(self) -> f32 {
        f32::from_bits((self.key >> 32) as u32)
    }
}

impl Probes {
    /// Begin with these margins, `n_bits` a table.
    pub fn start(&mut self, margins: &[f32], n_bits: usize) {
        assert!(0 < n_bits && n_bits <= MAX_BITS, "between 1 and {MAX_BITS} bits");
        assert!(margins.len() <= n_bits * MAX_TABLES, "at most {MAX_TABLES} tables");
        self.n_bits = n_bits;
        self.ranked.clear();
        self.heap.clear();
        for (table, margins) in margins.chunks_exact(n_bits).enumerate() {
            let from = self.ranked.len();
            self.ranked
                .extend(margins.iter().enumerate().map(|(bit, margin)| (margin * margin, 1u32 << bit)));
            self.ranked[from..].sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            self.heap.push(Reverse(Node::new(0.0, 0.0, table, 0, code(margins))));
        }
    }
}

/// Table, code and cost of the cheapest bucket that has not come yet; each bucket comes once, the query's own first.
impl Iterator for Probes {
    type Item = (usize, u32, f32);

    #[inline]
    fn next(&mut self) -> Option<(usize, u32, f32)> {
        let top = self.heap.peek_mut()?;
        let node = top.0;
        let (table, mask) = (node.table(), node.mask());
        let highest = mask.checked_ilog2();
        let next = highest.map_or(0, |highest| highest as usize + 1);
        if next < self.n_bits {
            // Each set is reached once: from {.., i} go to {.., i, i+1} and to {.., i+1}. Both cost no less and
            // have a higher mask, so the order of the heap is the order of all sets.
            let (margin, bit) = self.ranked[table * self.n_bits + next];
            let mut top = top;
            *top = Reverse(Node::new(node.cost(), margin, table, mask | 1 << next, node.code ^ bit));
            drop(top);
            if let Some(highest) = highest {
                let instead = mask ^ (1 << highest) ^ (1 << next);
                let code = node.code ^ self.ranked[table * self.n_bits + highest as usize].1 ^ bit;
                self.heap.push(Reverse(Node::new(node.rest, margin, table, instead, code)));
            }
        } else {
            PeekMut::pop(top);
        }
        Some((table, node.code, node.cost()))
    }
}
