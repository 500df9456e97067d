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
        let mut offsets = Buffer::zeroed(n_tables * buckets + 1);
        let mut entries = Buffer::zeroed(codes.len());
        let tables = offsets[1..].par_chunks_exact_mut(buckets).enumerate();
        if n > 0 {
            tables.zip(entries.par_chunks_exact_mut(n)).for_each(|((table, ends), entries)| {
                let codes = || codes.iter().skip(table).step_by(n_tables).map(|&code| code as usize);
                // Count, then let each bucket's end be where its next entry goes.
                codes().for_each(|code| ends[code] += 1);
                let mut start = 0;
                for end in ends.iter_mut() {
                    start += std::mem::replace(end, start);
                }
                for (item, code) in codes().enumerate() {
                    entries[ends[code] as usize] = item as u32;
                    ends[code] += 1;
                }
                ends.iter_mut().for_each(|end| *end += (table * n) as u32);
            });
        }
        Ok(Tables { n_tables, n_bits, offsets: offsets.freeze(), entries: entries.freeze() })
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
        Ok(Tables { n_tables, n_bits, offsets, entries })
    }

    /// Prove that offsets rise and cover the entries, and that every bucket holds rising ids below `n`.
    pub fn validate(&self, n: usize) -> Result<()> {
        let bad = |what: String| Err(Error::format("valid tables", what));
        if self.offsets[0] != 0 || self.offsets[self.offsets.len() - 1] as usize != self.entries.len() {
            return bad("offsets that do not cover the entries".into());
        }
        if let Some(at) = self.offsets.windows(2).position(|pair| pair[0] > pair[1]) {
            return bad(format!("falling offsets at bucket {at}"));
        }
        for bucket in 0..self.offsets.len() - 1 {
            let ids = self.bucket(bucket);
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

    /// The entries of all buckets.
    pub fn entries(&self) -> &Block<u32> {
        &self.entries
    }

    /// The arrays as a search reads them, resolved once.
    pub fn view(&self) -> TablesView<'_> {
        TablesView { offsets: &self.offsets, entries: &self.entries }
    }

    /// The entries of bucket `t * 2^K + c`.
    pub fn bucket(&self, bucket: usize) -> &[u32] {
        &self.entries[self.offsets[bucket] as usize..self.offsets[bucket + 1] as usize]
    }
}

/// The arrays of [`Tables`] as slices. A damaged file can hold anything in them: what makes no sense reads as
/// an empty bucket.
#[derive(Clone, Copy)]
pub struct TablesView<'a> {
    offsets: &'a [u32],
    entries: &'a [u32],
}

impl<'a> TablesView<'a> {
    /// The entries of bucket `t * 2^K + c`.
    #[inline(always)]
    pub fn bucket(&self, bucket: usize) -> &'a [u32] {
        self.entries.get(self.offsets[bucket] as usize..self.offsets[bucket + 1] as usize).unwrap_or(&[])
    }

    /// Ask for the place where a bucket begins.
    #[inline(always)]
    pub fn prefetch_offset(&self, bucket: usize) {
        prefetch(self.offsets, bucket);
    }

    /// Ask for the entries of a bucket, and tell where they lie.
    #[inline(always)]
    pub fn prefetch_bucket(&self, bucket: usize) -> Range<usize> {
        let entries = self.bucket(bucket);
        // What follows the second line, the hardware fetches by itself.
        prefetch(entries, 0);
        prefetch(entries, entries.len().min(LINE / size_of::<u32>()).saturating_sub(1));
        let from = self.offsets[bucket] as usize;
        from..from + entries.len()
    }
}
