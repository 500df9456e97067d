//! Unions of lists of ids, each id once: of the exemplars in the probed buckets, and of the labels that the
//! nearest of them needed, the candidates. In how many lists an id was is counted by the way.

use crate::tables::{Bucket, Tables};

/// Lists are counted up to here.
pub const MOST: u16 = 255;

/// Where a query has seen fewer than one of so many ids, their marks are wiped one by one: of millions of labels a search
/// sees some dozens.
const SELDOM: usize = 64;

/// Marks of the ids seen by the current query: an epoch byte, so that clearing is rare, one wipe in 255 queries,
/// and below it a byte that counts.
#[derive(Debug, Default)]
pub struct Union {
    marks: Vec<u16>,
    epoch: u8,
    ids: Vec<u32>,
    len: usize,
}

impl Union {
    /// Begin anew, for ids below `n`.
    pub fn start(&mut self, n: usize) {
        if self.marks.len() != n {
            self.marks.clear();
            self.marks.resize(n, 0);
            self.epoch = 0;
        }
        if self.epoch > 0 && self.len < n / SELDOM {
            for &id in &self.ids[..self.len] {
                self.marks[id as usize] = 0;
            }
        } else {
            self.epoch = self.epoch.checked_add(1).unwrap_or_else(|| {
                self.marks.fill(0);
                1
            });
        }
        self.len = 0;
    }

    /// Add a list. Ids that are too large (a damaged file can hold some) are left out.
    #[inline(always)]
    pub fn add(&mut self, list: &[u32]) {
        self.add_bucket(Bucket::Ids(list));
    }

    /// Add what a bucket holds.
    #[inline(always)]
    pub fn add_bucket(&mut self, bucket: Bucket<'_>) {
        let bucket = bucket.below(self.marks.len());
        // Make room once, so that the loop below needs no growth check: an id takes one place, a repeat none.
        let room = self.len + bucket.len() + 1;
        if self.ids.len() < room {
            self.grow(room);
        }
        let (base, mut len) = (self.base(), self.len);
        bucket.each(|id| {
            if let Some(mark) = self.marks.get_mut(id as usize) {
                // Write first, keep if new: no branch to mispredict.
                self.ids[len] = id;
                len += usize::from(*mark < base);
                *mark = (*mark).clamp(base, base + (MOST - 1)) + 1;
            }
        });
        self.len = len;
    }

    /// Marks of this query are above it, marks of queries before below.
    #[inline(always)]
    fn base(&self) -> u16 {
        u16::from(self.epoch) << 8
    }

    /// How many of the lists an id was in, up to [`MOST`].
    pub fn count(&self, id: u32) -> u16 {
        self.marks.get(id as usize).map_or(0, |mark| mark.saturating_sub(self.base()))
    }

    #[cold]
    fn grow(&mut self, room: usize) {
        self.ids.resize(room.next_power_of_two(), 0);
    }

    /// The ids added, each once, in the order in which they came.
    pub fn ids(&self) -> &[u32] {
        &self.ids[..self.len]
    }
}

/// The exemplars of buckets, each once. The buckets of one table have nothing in common and need no marks.
#[derive(Debug, Default)]
pub struct Meeting {
    union: Union,
    /// Those of the latest buckets, of one table.
    latest: Vec<u32>,
    n: usize,
}

impl Meeting {
    /// Begin anew, with exemplars below `n`, in the buckets of `tables`.
    pub fn start(&mut self, n: usize, tables: &Tables) {
        self.n = n;
        if tables.n_tables() > 1 {
            self.union.start(n);
        }
    }

    /// Meet the exemplars of further buckets; returns those that are new.
    pub fn meet(&mut self, tables: &Tables, buckets: &[usize]) -> &[u32] {
        let view = tables.view();
        if tables.n_tables() > 1 {
            let before = self.union.ids().len();
            buckets.iter().for_each(|&bucket| self.union.add_bucket(view.bucket(bucket)));
            return &self.union.ids()[before..];
        }
        // Ids that are too large (a damaged file can hold some) are left out.
        let (latest, n) = (&mut self.latest, self.n);
        latest.clear();
        for &bucket in buckets {
            match view.bucket(bucket).below(n) {
                Bucket::Ids(ids) => latest.extend(ids.iter().filter(|&&id| (id as usize) < n)),
                Bucket::Range(range) => latest.extend(range),
            }
        }
        latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_the_wrap_of_the_epoch() {
        let mut union = Union::default();
        for turn in 0..1000 {
            // Alternate, so that a stale mark from 256 queries ago would hide an id.
            let id = turn / 256 % 2;
            union.start(5);
            union.add(&[4]);
            union.add(&[id, 4, id + 2]);
            assert_eq!(union.ids(), [4, id, id + 2]);
            assert_eq!([4, id, id + 2, 1 - id].map(|id| union.count(id)), [2, 1, 1, 0]);
        }
    }
}
