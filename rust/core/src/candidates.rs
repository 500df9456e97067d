//! Candidates: the union of the probed buckets and the head, each id once.

use crate::tables::Tables;

/// Marks of the labels seen by the current query. An epoch byte a label, so that clearing is rare: one wipe in
/// 255 queries.
#[derive(Debug, Default)]
pub struct Candidates {
    marks: Vec<u8>,
    epoch: u8,
    ids: Vec<u32>,
    len: usize,
}

impl Candidates {
    /// Gather the head, then the entries of `buckets`. Returns the number of entries read, the head included.
    /// Ids that do not name a row (a damaged file can hold some) are left out.
    pub fn gather(&mut self, m: usize, head: &[u32], tables: &Tables, buckets: &[usize]) -> usize {
        if self.marks.len() != m {
            self.marks.clear();
            self.marks.resize(m, 0);
            self.epoch = 0;
        }
        self.epoch = match self.epoch.checked_add(1) {
            Some(epoch) => epoch,
            None => {
                self.marks.fill(0);
                1
            }
        };
        let view = tables.view();
        let read = head.len() + buckets.iter().map(|&bucket| view.bucket(bucket).len()).sum::<usize>();
        // Make room once, so that the loop below needs no growth check: a label takes one place, a repeat none.
        let room = read.min(m) + 1;
        if self.ids.len() < room {
            self.ids.resize(room, 0);
        }
        let mut n = 0;
        self.add(head, &mut n);
        for &bucket in buckets {
            self.add(view.bucket(bucket), &mut n);
        }
        self.len = n;
        read
    }

    #[inline(always)]
    fn add(&mut self, ids: &[u32], n: &mut usize) {
        let epoch = self.epoch;
        for &id in ids {
            if let Some(mark) = self.marks.get_mut(id as usize) {
                // Write first, keep if new: no branch to mispredict.
                self.ids[*n] = id;
                *n += usize::from(*mark != epoch);
                *mark = epoch;
            }
        }
    }

    /// The candidates of the last query, each once, in no order.
    pub fn ids(&self) -> &[u32] {
        &self.ids[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::Lists;

    #[test]
    fn marks_survive_the_wrap_of_the_epoch() {
        let items = Lists { offsets: &[0, 2, 4], labels: &[1, 2, 2, 3] };
        let tables = Tables::build(1, 1, &[0, 1], items).unwrap();
        let mut candidates = Candidates::default();
        for turn in 0..1000 {
            // Alternate, so that a stale mark from 256 queries ago would hide a label.
            let bucket = turn / 256 % 2;
            let read = candidates.gather(5, &[4], &tables, &[bucket]);
            assert_eq!(read, 3);
            assert_eq!(candidates.ids(), [4, 1 + bucket as u32, 2 + bucket as u32]);
        }
    }
}
