//! Tables: L arrays of 2^K buckets of ids in compressed sparse rows, built by counting sort.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::hash::MAX_BITS;
use crate::kernels::prefetch;
use crate::memory::{Block, Buffer, LINE};

/// All buckets of all tables. The bucket of code c in table t is number `t * 2^K + c`; its entries are ids of what
/// was hashed, training queries or rows, rising.
#[derive(Clone)]
pub struct Tables {
    n_tables: usize,
    n_bits: usize,
    offsets: Block<u32>,
    entries: Block<u32>,
    /// Where items are numbered in the order of the first table's buckets its entries are the numbers from 0 on, and not kept:
    /// so many.
    implied: usize,
}

/// What a bucket holds, rising.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bucket<'a> {
    /// Ids.
    Ids(&'a [u32]),
    /// Numbers of items that lie one after the other.
    Range(Range<u32>),
}

impl Bucket<'_> {
    /// How many.
    #[inline(always)]
    pub fn len(&self) -> usize {
        match self {
            Bucket::Ids(ids) => ids.len(),
            Bucket::Range(range) => range.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same without what in a range is not below `n`. Of ids it leaves all.
    #[inline(always)]
    pub fn below(self, n: usize) -> Self {
        match self {
            Bucket::Range(range) if range.end as usize > n => Bucket::Range(range.start..n as u32),
            other => other,
        }
    }

    /// Hand them out to one of two loops, each compiled for what it reads.
    #[inline(always)]
    pub fn each(&self, mut to: impl FnMut(u32)) {
        match self {
            Bucket::Ids(ids) => ids.iter().for_each(|&id| to(id)),
            Bucket::Range(range) => range.clone().for_each(to),
        }
    }
}

impl Tables {
    /// Put every item's id into the item's bucket of every table. `codes` holds `n_tables` codes an item.
    pub fn build(n_tables: usize, n_bits: usize, codes: &[u32]) -> Result<Self> {
        if !codes.len().is_multiple_of(n_tables) {
            return Err(Error::value("codes", format!("{n_tables} an item"), codes.len()));
        }
        if u32::try_from(codes.len()).is_err() {
            return Err(Error::value(
                "n_tables",
                "so that tables hold fewer than 2**32 entries",
                format!("{} entries", codes.len()),
            ));
        }
        let (n, buckets) = (codes.len() / n_tables, 1usize << n_bits);
        let in_order = codes.iter().step_by(n_tables).is_sorted();
        let implied = if in_order { n } else { 0 };
        let mut offsets = Buffer::zeroed(n_tables * buckets + 1);
        let mut entries = Buffer::zeroed(codes.len() - implied);
        if n > 0 {
            let mut kept: Vec<&mut [u32]> = entries.chunks_exact_mut(n).collect();
            if in_order {
                kept.insert(0, &mut []);
            }
            let tables = offsets[1..].par_chunks_exact_mut(buckets).enumerate();
            tables.zip(kept).for_each(|((table, ends), entries)| {
                let codes = || codes.iter().skip(table).step_by(n_tables).map(|&code| code as usize);
                // Count, then let each bucket's end be where its next entry goes.
                codes().for_each(|code| ends[code] += 1);
                let mut start = 0;
                for end in ends.iter_mut() {
                    start += std::mem::replace(end, start);
                }
                // Where they are implied there is no room for them, and ends are all that is looked for.
                for (item, code) in codes().enumerate() {
                    if let Some(entry) = entries.get_mut(ends[code] as usize) {
                        *entry = item as u32;
                    }
                    ends[code] += 1;
                }
                ends.iter_mut().for_each(|end| *end += (table * n) as u32);
            });
        }
        Ok(Tables { n_tables, n_bits, offsets: offsets.freeze(), entries: entries.freeze(), implied })
    }

    /// Check the shape alone; [`Tables::validate`] checks the contents.
    pub fn from_parts(
        n_tables: usize,
        n_bits: usize,
        offsets: Block<u32>,
        entries: Block<u32>,
    ) -> Result<Self> {
        if n_bits == 0 || n_bits > MAX_BITS || n_tables == 0 {
            return Err(Error::format(
                format!("tables of 1..={MAX_BITS} bits"),
                format!("{n_tables} of {n_bits}"),
            ));
        }
        let expected = n_tables.checked_mul(1 << n_bits).and_then(|buckets| buckets.checked_add(1));
        if Some(offsets.len()) != expected {
            return Err(Error::format("one offset a bucket", format!("{} offsets", offsets.len())));
        }
        let [all, n] = [offsets.len() - 1, 1 << n_bits].map(|bucket| offsets[bucket] as usize);
        let implied = if entries.len() == all { 0 } else { n };
        Ok(Tables { n_tables, n_bits, offsets, entries, implied })
    }

    /// Prove that offsets rise and cover the entries, as many for each table, none for the first where they are implied, and
    /// that every bucket holds rising ids below `n`.
    pub fn validate(&self, n: usize) -> Result<()> {
        let bad = |what: String| Err(Error::format("valid tables", what));
        if self.offsets[0] != 0 || self.len() != self.entries.len() + self.implied {
            return bad("offsets that do not cover the entries".into());
        }
        if let Some(at) = self.offsets.windows(2).position(|pair| pair[0] > pair[1]) {
            return bad(format!("falling offsets at bucket {at}"));
        }
        let items = self.offsets[1 << self.n_bits] as usize;
        if items > n {
            return bad(format!("{items} items of {n}"));
        }
        // Or entries that are all kept might be taken for those of all tables but the first.
        if (0..=self.n_tables).any(|table| self.offsets[table << self.n_bits] as usize != table * items) {
            return bad("tables of more or fewer entries than the first".into());
        }
        let first = &self.entries[..items.min(self.entries.len())];
        if self.implied == 0 && items > 0 && first.iter().copied().eq(0..items as u32) {
            return bad(
                "entries of the first table that are the numbers from 0 on, and are to be left out".into()
            );
        }
        for bucket in 0..self.offsets.len() - 1 {
            let Bucket::Ids(ids) = self.bucket(bucket) else { continue };
            if ids.windows(2).any(|pair| pair[0] >= pair[1]) {
                return bad(format!("ids that do not rise in bucket {bucket}"));
            }
            if let Some(&id) = ids.last().filter(|&&id| id as usize >= n) {
                return bad(format!("id {id} of {n} in bucket {bucket}"));
            }
        }
        Ok(())
    }

    /// Number of tables.
    pub fn n_tables(&self) -> usize {
        self.n_tables
    }

    /// Bits a table.
    pub fn n_bits(&self) -> usize {
        self.n_bits
    }

    /// One more than there are buckets.
    pub fn offsets(&self) -> &Block<u32> {
        &self.offsets
    }

    /// The entries of all buckets but, where items are numbered in the order of the first table's, of these.
    pub fn entries(&self) -> &Block<u32> {
        &self.entries
    }

    /// How many entries all buckets have.
    pub fn len(&self) -> usize {
        self.offsets[self.offsets.len() - 1] as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The arrays as a search reads them, resolved once.
    pub fn view(&self) -> TablesView<'_> {
        let ranges = if self.implied > 0 { 1 << self.n_bits } else { 0 };
        TablesView { offsets: &self.offsets, entries: &self.entries, implied: self.implied, ranges }
    }

    /// The entries of bucket `t * 2^K + c`.
    pub fn bucket(&self, bucket: usize) -> Bucket<'_> {
        self.view().bucket(bucket)
    }
}

/// The arrays of [`Tables`] as slices. A damaged file can hold anything in them: what makes no sense reads as
/// an empty bucket, or as ids that are none.
#[derive(Clone, Copy)]
pub struct TablesView<'a> {
    offsets: &'a [u32],
    entries: &'a [u32],
    implied: usize,
    /// The first buckets, whose entries are implied.
    ranges: usize,
}

impl<'a> TablesView<'a> {
    /// The entries of bucket `t * 2^K + c`.
    #[inline(always)]
    pub fn bucket(&self, bucket: usize) -> Bucket<'a> {
        let (from, to) = (self.offsets[bucket], self.offsets[bucket + 1]);
        if bucket < self.ranges {
            return Bucket::Range(from..to);
        }
        let [from, to] = [from, to].map(|at| (at as usize).wrapping_sub(self.implied));
        Bucket::Ids(self.entries.get(from..to).unwrap_or(&[]))
    }

    /// Ask for the place where a bucket begins.
    #[inline(always)]
    pub fn prefetch_offset(&self, bucket: usize) {
        prefetch(self.offsets, bucket);
    }

    /// Ask for the entries of a bucket, where it has a list of them, and tell what it holds.
    #[inline(always)]
    pub fn prefetch_bucket(&self, bucket: usize) -> Bucket<'a> {
        let entries = self.bucket(bucket);
        if let Bucket::Ids(ids) = entries {
            // What follows the second line, the hardware fetches by itself.
            prefetch(ids, 0);
            prefetch(ids, ids.len().min(LINE / size_of::<u32>()).saturating_sub(1));
        }
        entries
    }
}
