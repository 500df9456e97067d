//! Tables: L arrays of 2^K buckets of label ids in compressed sparse rows, built by counting sort.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::hash::MAX_BITS;
use crate::kernels::prefetch;
use crate::memory::{Block, Buffer, LINE};

/// All buckets of all tables. The bucket of code c in table t is number `t * 2^K + c`; its entries are label ids,
/// rising, without repeats.
#[derive(Clone)]
pub struct Tables {
    n_tables: usize,
    n_bits: usize,
    offsets: Block<u32>,
    entries: Block<u32>,
}

/// Labels of items in compressed sparse rows: those of item i are `labels[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Copy)]
pub struct Lists<'a> {
    /// One more than there are items, rising from 0.
    pub offsets: &'a [usize],
    /// All labels.
    pub labels: &'a [u32],
}

impl Tables {
    /// Put the labels of every item into the item's bucket of every table. `codes` holds `n_tables` codes an
    /// item. The result depends on nothing but the set of pairs.
    pub fn build(n_tables: usize, n_bits: usize, codes: &[u32], items: Lists<'_>) -> Result<Self> {
        let n = items.offsets.len() - 1;
        if codes.len() != n * n_tables {
            return Err(Error::value(
                "codes",
                format!("{n_tables} codes for each of {n} items"),
                codes.len(),
            ));
        }
        // Units of work: ranges of codes of one table. A unit reads all codes and keeps its own, which is cheap
        // beside sorting and needs no lock.
        const SHARDS: usize = 16;
        let buckets = 1usize << n_bits;
        let shards = SHARDS.min(buckets);
        let units: Vec<Unit> = (0..n_tables * shards)
            .into_par_iter()
            .map(|unit| {
                let (table, shard) = (unit / shards, unit % shards);
                let range = buckets / shards * shard..buckets / shards * (shard + 1);
                Unit::sort(table, n_tables, range, codes, items)
            })
            .collect();

        let total: usize = units.iter().map(|unit| unit.entries.len()).sum();
        if u32::try_from(total).is_err() {
            return Err(Error::value(
                "n_tables",
                "so that tables hold fewer than 2**32 entries",
                format!("{total} entries"),
            ));
        }
        let mut offsets = Buffer::zeroed(n_tables * buckets + 1);
        let mut entries = Buffer::zeroed(total);
        let (mut bucket, mut entry) = (1, 0);
        for unit in units {
            for size in unit.sizes {
                offsets[bucket] = offsets[bucket - 1] + size;
                bucket += 1;
            }
            entries[entry..entry + unit.entries.len()].copy_from_slice(&unit.entries);
            entry += unit.entries.len();
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

    /// Prove that offsets rise and cover the entries, and that every bucket holds rising ids below `m`.
    pub fn validate(&self, m: usize) -> Result<()> {
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
            if let Some(&id) = ids.last().filter(|&&id| id as usize >= m) {
                return bad(format!("label {id} of {m} in bucket {bucket}"));
            }
        }
        Ok(())
    }

    /// The labels that stand in most buckets: at most `n`, ties to the lowest id; rising.
    pub fn most_spread(&self, n: usize, m: usize) -> Vec<u32> {
        let mut counts = vec![0u32; m];
        for &id in &self.entries[..] {
            counts[id as usize] += 1;
        }
        let mut labels: Vec<u32> = (0..m as u32).filter(|&id| counts[id as usize] > 0).collect();
        labels.sort_unstable_by_key(|&id| (std::cmp::Reverse(counts[id as usize]), id));
        labels.truncate(n);
        labels.sort_unstable();
        labels
    }

    /// The same tables without these labels (rising).
    pub fn without(&self, labels: &[u32]) -> Self {
        let mut offsets = Buffer::zeroed(self.offsets.len());
        let mut kept = Vec::with_capacity(self.entries.len());
        let last = self.entries.iter().max().map_or(0, |&id| id as usize + 1);
        let mut drop = vec![false; last];
        for &label in labels.iter().filter(|&&label| (label as usize) < last) {
            drop[label as usize] = true;
        }
        for bucket in 0..self.offsets.len() - 1 {
            kept.extend(self.bucket(bucket).iter().filter(|&&id| !drop[id as usize]));
            offsets[bucket + 1] = kept.len() as u32;
        }
        Tables {
            n_tables: self.n_tables,
            n_bits: self.n_bits,
            offsets: offsets.freeze(),
            entries: Block::copy_of(&kept),
        }
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

    /// Ask for the entries of a bucket, and tell how many there are.
    #[inline(always)]
    pub fn prefetch_bucket(&self, bucket: usize) -> usize {
        let entries = self.bucket(bucket);
        // What follows the second line, the hardware fetches by itself.
        prefetch(entries, 0);
        prefetch(entries, entries.len().min(LINE / size_of::<u32>()).saturating_sub(1));
        entries.len()
    }
}

/// The finished buckets of a range of codes of one table.
struct Unit {
    sizes: Vec<u32>,
    entries: Vec<u32>,
}

impl Unit {
    fn sort(
        table: usize,
        n_tables: usize,
        range: std::ops::Range<usize>,
        codes: &[u32],
        items: Lists<'_>,
    ) -> Self {
        let mine = || {
            codes.iter().skip(table).step_by(n_tables).enumerate().filter_map(|(item, &code)| {
                let bucket =
                    (code as usize).checked_sub(range.start).filter(|&bucket| bucket < range.len())?;
                Some((bucket, &items.labels[items.offsets[item]..items.offsets[item + 1]]))
            })
        };
        let mut ends = vec![0usize; range.len() + 1];
        for (bucket, labels) in mine() {
            ends[bucket + 1] += labels.len();
        }
        for bucket in 0..range.len() {
            ends[bucket + 1] += ends[bucket];
        }
        let mut entries = vec![0u32; ends[range.len()]];
        let mut cursors = ends.clone();
        for (bucket, labels) in mine() {
            entries[cursors[bucket]..][..labels.len()].copy_from_slice(labels);
            cursors[bucket] += labels.len();
        }
        // Sort each bucket, drop repeats, close the gaps.
        let mut kept = 0;
        let sizes = (0..range.len())
            .map(|bucket| {
                let from = kept;
                entries[ends[bucket]..ends[bucket + 1]].sort_unstable();
                for at in ends[bucket]..ends[bucket + 1] {
                    if kept == from || entries[kept - 1] != entries[at] {
                        entries[kept] = entries[at];
                        kept += 1;
                    }
                }
                (kept - from) as u32
            })
            .collect();
        entries.truncate(kept);
        Unit { sizes, entries }
    }
}
