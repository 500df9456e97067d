//! Unions of lists of ids, each id once: of the exemplars in the probed buckets, and of the labels that the
//! nearest of them needed, the candidates.

/// Marks of the ids seen by the current query. An epoch byte an id, so that clearing is rare: one wipe in 255
/// queries.
#[derive(Debug, Default)]
pub struct Union {
    marks: Vec<u8>,
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
        self.epoch = match self.epoch.checked_add(1) {
            Some(epoch) => epoch,
            None => {
                self.marks.fill(0);
                1
            }
        };
        self.len = 0;
    }

    /// Add a list. Ids that are too large (a damaged file can hold some) are left out.
    #[inline(always)]
    pub fn add(&mut self, list: &[u32]) {
        // Make room once, so that the loop below needs no growth check: an id takes one place, a repeat none.
        let room = self.len + list.len() + 1;
        if self.ids.len() < room {
            self.grow(room);
        }
        let (epoch, mut len) = (self.epoch, self.len);
        for &id in list {
            if let Some(mark) = self.marks.get_mut(id as usize) {
                // Write first, keep if new: no branch to mispredict.
                self.ids[len] = id;
                len += usize::from(*mark != epoch);
                *mark = epoch;
            }
        }
        self.len = len;
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
        }
    }
}
