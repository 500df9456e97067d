//! Top-k: the best scores, ties to the lowest id.

use crate::kernels::Kernel;

/// A score as an integer that sorts like it; NaN below all.
#[inline(always)]
fn ordered(score: f32) -> u32 {
    // Adding zero turns -0.0 into 0.0: the two are one score.
    let bits = if score.is_nan() { f32::NAN.to_bits() | 0x8000_0000 } else { (score + 0.0).to_bits() };
    bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000)
}

/// The same as a signed integer: of these every processor compares many at once.
#[inline(always)]
pub(crate) fn signed(score: f32) -> i32 {
    (ordered(score) ^ 0x8000_0000) as i32
}

/// The score that [`signed`] makes this of.
#[inline(always)]
pub(crate) fn from_signed(key: i32) -> f32 {
    from_ordered(key as u32 ^ 0x8000_0000)
}

/// A score and an id as one integer that sorts like (score, lower id first).
#[inline(always)]
fn key(score: f32, id: u32) -> u64 {
    (u64::from(ordered(score)) << 32) | u64::from(!id)
}

/// Scores that are compared at once. Of a run of as many times as many, those that are compared one after the other make a group,
/// whose best stands for all until these are known to matter.
const LANES: usize = 8;
const RUN: usize = LANES * LANES;

/// A choice among some scores, by looking at many at once again and again: no order has to be foreseen.
#[derive(Clone, Debug, Default)]
pub struct Few {
    keys: Vec<i32>,
    best: Vec<f32>,
    groups: Vec<usize>,
    places: Vec<usize>,
    alike: Vec<u32>,
    order: Vec<u64>,
}

/// The score that `rank` others of these exceed or equal; NaN counts as below all. Panics if there are no more than `rank`.
/// Compiled into a kernel, and so of plain loops: [`crate::kernels::Kernel::nth`].
#[inline(always)]
pub(crate) fn nth(scores: &[f32], rank: usize, keys: &mut Vec<i32>) -> f32 {
    // Scores lie more evenly than integers do, but for those far away.
    const BY_SCORES: usize = 12;
    assert!(rank < scores.len(), "more scores than {rank}");
    keys.resize(scores.len(), 0);
    let (mut low, mut high) = (i32::MAX, i32::MIN);
    for (key, &score) in keys.iter_mut().zip(scores) {
        *key = signed(score);
        low = low.min(*key);
        high = high.max(*key);
    }
    if reaching(keys, high) > rank {
        return from_signed(high);
    }
    // More than `rank` reach the lower end, and no more than `rank` the upper one.
    let mut round = 0;
    while high.wrapping_sub(low) as u32 > 1 {
        let between = signed(from_signed(low) / 2.0 + from_signed(high) / 2.0);
        let middle = if round < BY_SCORES && low < between && between < high {
            between
        } else {
            low.wrapping_add((high.wrapping_sub(low) as u32 / 2) as i32)
        };
        round += 1;
        let n = reaching(keys, middle);
        if n > rank {
            low = middle;
            if n == rank + 1 {
                break;
            }
        } else {
            high = middle;
        }
    }
    let mut least = i32::MAX;
    for &key in &*keys {
        least = least.min(if key < low { i32::MAX } else { key });
    }
    from_signed(least)
}

/// How many of the keys are not below a bar.
#[inline(always)]
fn reaching(keys: &[i32], bar: i32) -> usize {
    let mut n = 0;
    for &key in keys {
        n += i32::from(key >= bar);
    }
    n as usize
}

/// As many keys are put in order by counting.
const COUNTED: usize = 64;

/// Put scores and ids, no two alike, in order, the best first, ties to the lowest id; NaN counts as below all. Few without a branch: the place of
/// one is how many others are better. Compiled into a kernel, and so of plain loops: [`crate::kernels::Kernel::order`].
#[inline(always)]
pub(crate) fn order(scores: &mut [f32], ids: &mut [u32], keys: &mut Vec<u64>) {
    let n = scores.len().min(ids.len());
    keys.clear();
    keys.extend(scores.iter().zip(&*ids).map(|(&score, &id)| key(score, id)));
    if n > COUNTED {
        keys.sort_unstable_by(|a, b| b.cmp(a));
        for (place, &key) in keys.iter().enumerate() {
            (scores[place], ids[place]) = (score(key), id(key));
        }
        return;
    }
    // Zero is below all keys.
    keys.resize(n.next_multiple_of(LANES), 0);
    for &one in &keys[..n] {
        let mut better = 0;
        for &key in &**keys {
            better += u64::from(key > one);
        }
        (scores[better as usize], ids[better as usize]) = (score(one), id(one));
    }
}

/// List where values are of which that is so, rising. Without a branch.
#[inline(always)]
fn list_where<T: Copy>(values: &[T], is: impl Fn(T) -> bool, places: &mut Vec<usize>) {
    places.resize(values.len(), 0);
    let mut n = 0;
    for (at, &value) in values.iter().enumerate() {
        places[n] = at;
        n += usize::from(is(value));
    }
    places.truncate(n);
}

impl Few {
    /// The score that `rank` others of these exceed or equal; NaN counts as below all. Panics if there are no more than `rank`.
    pub fn nth(&mut self, kernel: Kernel, rank: usize, scores: &[f32]) -> f32 {
        kernel.nth(scores, rank, &mut self.keys)
    }

    /// A score that more than `rank` of these reach, and hardly more: that of rank `rank` among the best of groups of eight. Where
    /// there are not so many groups, the least of these. Fills up `scores` with NaN, which counts as below all.
    pub fn floor(&mut self, kernel: Kernel, rank: usize, scores: &mut Vec<f32>) -> f32 {
        scores.resize(scores.len().next_multiple_of(RUN), f32::NAN);
        let Few { keys, best, .. } = self;
        best.resize(scores.len() / LANES, 0.0);
        for (best, run) in best.as_chunks_mut::<LANES>().0.iter_mut().zip(scores.as_chunks::<RUN>().0) {
            *best = [f32::NEG_INFINITY; LANES];
            for part in run.as_chunks::<LANES>().0 {
                for (best, &score) in best.iter_mut().zip(part) {
                    *best = if score > *best { score } else { *best };
                }
            }
        }
        kernel.nth(best, rank.min(best.len() - 1), keys)
    }

    /// Where those of the scores stand that exceed a floor, of those that [`Few::floor`] looked at last.
    pub fn above(&mut self, scores: &[f32], floor: f32) -> &[usize] {
        let Few { best, groups, places, .. } = self;
        list_where(best, |best| best > floor, groups);
        places.resize(LANES * groups.len(), 0);
        let mut above = 0;
        for &group in &*groups {
            let first = group / LANES * RUN + group % LANES;
            for place in (first..first + RUN).step_by(LANES) {
                places[above] = place;
                above += usize::from(scores[place] > floor);
            }
        }
        &places[..above]
    }

    /// Leave the best `n` of these, ties to the lowest id, in no order; returns the least score left. NaN counts as below all.
    /// Panics if there are fewer, or none are to be left.
    pub fn leave(&mut self, kernel: Kernel, n: usize, scores: &mut Vec<f32>, ids: &mut Vec<u32>) -> f32 {
        let least = self.nth(kernel, n - 1, scores);
        let Few { keys, places, alike, .. } = self;
        let bar = signed(least);
        list_where(keys, |key| key >= bar, places);
        if places.len() > n {
            alike.clear();
            alike.extend(places.iter().filter(|&&at| keys[at] == bar).map(|&at| ids[at]));
            let most = alike.len() - (places.len() - n) - 1;
            let last = *alike.select_nth_unstable(most).1;
            places.retain(|&at| keys[at] > bar || ids[at] <= last);
        }
        for (to, &at) in places.iter().enumerate() {
            (scores[to], ids[to]) = (scores[at], ids[at]);
        }
        scores.truncate(n);
        ids.truncate(n);
        least
    }

    /// Put these in order, the best first, ties to the lowest id; no two ids are alike. NaN counts as below all.
    pub fn order(&mut self, kernel: Kernel, scores: &mut [f32], ids: &mut [u32]) {
        kernel.order(scores, ids, &mut self.order);
    }
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

    /// Offer ids with these scores, skipping whole runs below the floor.
    #[inline(always)]
    pub fn extend(&mut self, scores: &[f32], ids: &[u32]) {
        self.extend_each(&scores[..scores.len().min(ids.len())], |at| ids[at]);
    }

    /// The same with the ids `first..`.
    #[inline(always)]
    pub fn extend_range(&mut self, scores: &[f32], first: u32) {
        self.extend_each(scores, |at| first + at as u32);
    }

    /// The same with the id of each place.
    #[inline(always)]
    pub fn extend_each(&mut self, scores: &[f32], id: impl Fn(usize) -> u32) {
        const RUN: usize = 16;
        let (runs, left) = scores.as_chunks::<RUN>();
        for (run, scores) in runs.iter().enumerate() {
            // NaN counts as below everything, but is not below a floor that is not there yet.
            let floor = self.floor();
            let mut below = 0;
            for &score in scores {
                below += u32::from(score < floor);
            }
            if below < RUN as u32 {
                self.push_each(scores, |at| id(run * RUN + at));
            }
        }
        self.push_each(left, |at| id(runs.len() * RUN + at));
    }

    #[inline(always)]
    fn push_each(&mut self, scores: &[f32], id: impl Fn(usize) -> u32) {
        for (at, &score) in scores.iter().enumerate() {
            self.push(score, id(at));
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
