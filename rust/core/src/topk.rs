//! Top-k: the best scores, ties to the lowest id.

/// A score as an integer that sorts like it; NaN below all.
#[inline(always)]
fn ordered(score: f32) -> u32 {
    // Adding zero turns -0.0 into 0.0: the two are one score.
    let bits = if score.is_nan() { f32::NAN.to_bits() | 0x8000_0000 } else { (score + 0.0).to_bits() };
    bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000)
}

/// A score and an id as one integer that sorts like (score, lower id first).
#[inline(always)]
fn key(score: f32, id: u32) -> u64 {
    (u64::from(ordered(score)) << 32) | u64::from(!id)
}

/// The score that `rank` others of these exceed or equal; NaN counts as below all. Panics if there are no more than `rank`.
pub fn nth(keys: &mut Vec<u32>, scores: &[f32], rank: usize) -> f32 {
    // As many groups have a best that is as good as the score looked for: few others are.
    const LANES: usize = 8;
    keys.clear();
    for run in scores.as_chunks::<{ LANES * LANES }>().0 {
        let mut best = [f32::NEG_INFINITY; LANES];
        for part in run.as_chunks::<LANES>().0 {
            for (best, &score) in best.iter_mut().zip(part) {
                *best = if score > *best { score } else { *best };
            }
        }
        keys.extend(best.map(|score| !ordered(score)));
    }
    if rank < keys.len() {
        let floor = from_ordered(!*keys.select_nth_unstable(rank).1);
        keys.clear();
        for part in scores.chunks(LANES) {
            if part.iter().fold(false, |any, &score| any | (score >= floor)) {
                keys.extend(part.iter().filter(|&&score| score >= floor).map(|&score| !ordered(score)));
            }
        }
    }
    if keys.len() <= rank {
        keys.clear();
        keys.extend(scores.iter().map(|&score| !ordered(score)));
    }
    from_ordered(!*keys.select_nth_unstable(rank).1)
}

#[inline(always)]
fn id(key: u64) -> u32 {
    !(key as u32)
}

#[inline(always)]
fn score(key: u64) -> f32 {
    from_ordered((key >> 32) as u32)
}

/// The score that [`ordered`] makes this of.
#[inline(always)]
fn from_ordered(ordered: u32) -> f32 {
    f32::from_bits(if ordered & 0x8000_0000 != 0 { ordered ^ 0x8000_0000 } else { !ordered })
}

/// Selects the best `k` of a stream. Keeps up to 2k and cuts back to k when full, so that nearly every element
/// costs one comparison with the score of the k-th best so far.
#[derive(Clone, Debug, Default)]
pub struct TopK {
    k: usize,
    keys: Vec<u64>,
    floor: u64,
}

impl TopK {
    /// Forget everything; select the best `k` from now on.
    pub fn reset(&mut self, k: usize) {
        self.k = k;
        self.floor = 0;
        self.keys.clear();
        self.keys.reserve(self.room());
    }

    fn room(&self) -> usize {
        2 * self.k.max(16)
    }

    /// Offer candidates.
    #[inline]
    pub fn extend(&mut self, scores: &[f32], ids: &[u32]) {
        for (&score, &id) in scores.iter().zip(ids) {
            self.push(score, id);
        }
    }

    /// Offer candidates of which a good part is among the best.
    pub fn extend_few(&mut self, scores: &[f32], ids: &[u32]) {
        let floor = self.floor;
        let keys = scores.iter().zip(ids).map(|(&score, &id)| key(score, id));
        self.keys.extend(keys.filter(|&key| key > floor));
        self.cut();
    }

    /// Offer one candidate.
    #[inline(always)]
    pub fn push(&mut self, score: f32, id: u32) {
        let key = key(score, id);
        if key > self.floor {
            self.keys.push(key);
            if self.keys.len() == self.room() {
                self.cut();
            }
        }
    }

    /// Offer the ids `first..` with these scores, skipping whole runs below the floor.
    pub fn extend_range(&mut self, scores: &[f32], first: u32) {
        const RUN: usize = 16;
        for (run, scores) in scores.chunks(RUN).enumerate() {
            // NaN counts as below everything; `max` ignores it.
            let best = scores.iter().fold(f32::NEG_INFINITY, |best, &score| best.max(score));
            if key(best, 0) > self.floor {
                for (i, &score) in scores.iter().enumerate() {
                    self.push(score, first + (run * RUN + i) as u32);
                }
            }
        }
    }

    /// Keep only what scores above this, of all that is offered from now on.
    pub fn raise(&mut self, floor: f32) {
        self.floor = self.floor.max(key(floor, u32::MAX));
    }

    /// Whether as many have been found as were asked for.
    pub fn full(&self) -> bool {
        self.keys.len() >= self.k
    }

    /// Scores at or below this are not among the best, unless an id is lower than all before. NaN while all are.
    #[inline(always)]
    pub fn floor(&self) -> f32 {
        if self.floor == 0 { f32::NAN } else { score(self.floor) }
    }

    #[cold]
    fn cut(&mut self) {
        if self.k == 0 {
            self.keys.clear();
        } else if self.keys.len() > self.k {
            let (_, kth, _) = self.keys.select_nth_unstable_by(self.k - 1, |a, b| b.cmp(a));
            self.floor = *kth;
            self.keys.truncate(self.k);
        }
    }

    /// The ids selected so far, at most k, the best first, and their scores.
    pub fn ordered(&mut self, ids: &mut Vec<u32>, scores: &mut Vec<f32>) {
        self.cut();
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
        self.unordered(ids, scores);
    }

    /// The least score of the k best so far, if there are so many.
    pub fn kth(&mut self) -> Option<f32> {
        self.cut();
        if self.keys.len() < self.k {
            return None;
        }
        self.keys.iter().min().map(|&key| score(key))
    }

    /// The ids selected so far, at most k, in no order, and their scores.
    pub fn unordered(&mut self, ids: &mut Vec<u32>, scores: &mut Vec<f32>) {
        self.cut();
        ids.clear();
        ids.extend(self.keys.iter().map(|&key| id(key)));
        scores.clear();
        scores.extend(self.keys.iter().map(|&key| score(key)));
    }

    /// Write the best first and return how many there are; the rest of the outputs becomes -1 and -inf.
    pub fn write(&mut self, labels: &mut [i64], scores: &mut [f32]) -> usize {
        self.cut();
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
        for (&key, (label, out)) in self.keys.iter().zip(labels.iter_mut().zip(scores.iter_mut())) {
            *label = i64::from(id(key));
            *out = score(key);
        }
        let found = self.keys.len().min(labels.len());
        labels[found..].fill(-1);
        scores[found..].fill(f32::NEG_INFINITY);
        found
    }
}
