//! Query-directed probing (Lv et al., "Multi-Probe LSH", VLDB 2007): flip the doubtful bits first.
//!
//! A probe flips a set of bits of the query's code. Its cost is the sum of their squared margins, added from the
//! smallest up. Probes come in order of cost, ties to the lowest mask over the bits ranked by margin.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::hash::MAX_BITS;

/// Scratch of the enumeration.
#[derive(Debug, Default)]
pub struct Probes {
    heap: BinaryHeap<Reverse<Node>>,
}

/// A set of ranked bits. Ordered by cost, then by mask: costs are not negative, so their bits sort like them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Node {
    key: u64,
    /// Bits of the cost without the highest-ranked bit.
    rest: u32,
}

impl Node {
    #[inline(always)]
    fn new(rest: f32, highest: f32, mask: u32) -> Self {
        Node { key: (u64::from((rest + highest).to_bits()) << 32) | u64::from(mask), rest: rest.to_bits() }
    }

    #[inline(always)]
    fn mask(self) -> u32 {
        self.key as u32
    }

    #[inline(always)]
    fn cost(self) -> f32 {
        f32::from_bits((self.key >> 32) as u32)
    }
}

impl Probes {
    /// Append the codes of the `n` cheapest probes of one table to `codes`, cheapest first; the first is the
    /// query's own. Fewer if the table has fewer buckets.
    pub fn cheapest(&mut self, margins: &[f32], n: usize, codes: &mut Vec<u32>) {
        let k = margins.len();
        assert!(0 < k && k <= MAX_BITS, "between 1 and {MAX_BITS} bits");
        let own = crate::hash::code(margins);
        if n == 0 {
            return;
        }
        codes.push(own);
        // Rank the bits by squared margin; equal ones by position.
        let mut ranked = [(0.0f32, 0u32); MAX_BITS];
        for (bit, (ranked, margin)) in ranked.iter_mut().zip(margins).enumerate() {
            *ranked = (margin * margin, 1 << bit);
        }
        let ranked = &mut ranked[..k];
        ranked.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));

        let n = n.min(1 << k) - 1;
        self.heap.clear();
        self.heap.push(Reverse(Node::new(0.0, ranked[0].0, 1)));
        for _ in 0..n {
            let Some(Reverse(node)) = self.heap.pop() else { return };
            let mask = node.mask();
            codes.push(own ^ flips(mask, ranked));
            let highest = mask.ilog2() as usize;
            if highest + 1 < k {
                // Each set is reached once: from {.., i} go to {.., i, i+1} and to {.., i+1}. Both cost no
                // less and have a higher mask, so the order of the heap is the order of all sets.
                let next = ranked[highest + 1].0;
                let bit = 1 << highest;
                self.heap.push(Reverse(Node::new(node.cost(), next, mask | (bit << 1))));
                self.heap.push(Reverse(Node::new(
                    f32::from_bits(node.rest),
                    next,
                    mask ^ (bit | (bit << 1)),
                )));
            }
        }
    }
}

/// The code bits that a mask over ranks flips.
#[inline(always)]
fn flips(mut mask: u32, ranked: &[(f32, u32)]) -> u32 {
    let mut flips = 0;
    while mask != 0 {
        flips |= ranked[mask.trailing_zeros() as usize].1;
        mask &= mask - 1;
    }
    flips
}
