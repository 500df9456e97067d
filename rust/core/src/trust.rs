//! Trust: how likely an answer is the full layer's, from what the search has computed anyway.
//!
//! An exemplar's labels are those that it needed, its t largest logits. Between it and a query the logits of rows
//! differ by a spread that the aligned coordinates give: over rows, a standard deviation of the distance d between
//! the two. So a row that no near exemplar needed is among the query's best only if its logit rose, against the
//! mean of all rows, by more than the answer's k-th stands above it: the k-th logit in units of d says how
//! unlikely that is. Sketches lose rows in a second way: one whose estimate fell below those rescored, while its
//! logit is above the k-th answer. Estimates err by what the rescored rows show.
//!
//! From these few numbers a logistic function, fitted on queries that the index was not filled from, makes a
//! probability. It is about as many answers as it was fitted for, whatever number a search asks for.

use crate::error::{Error, Result};

/// What a search by tables shows of itself, in this order: a constant; the logarithm of the distance to the nearest
/// exemplar and to the last of the neighbours; the k-th logit above the mean of all rows in units of the latter
/// distance, and the best logit above the k-th; the k-th logit above the last estimate kept, in units of its error.
pub const TABLES: usize = 6;

/// What a scan shows: a constant, and the last of the above.
pub const SCAN: usize = 2;

/// Answers that trust can be about.
const MOST_ANSWERS: usize = 1 << 16;

/// Beyond so many standard deviations there is nothing to tell apart.
const FAR: f32 = 30.0;

/// Keeps logarithms and quotients finite; distances are in units of the largest coordinate's logit deviation.
const NEAR: f32 = 1e-3;
/// The same from above, and the distance where no exemplar is met.
pub const NOWHERE: f32 = 1e3;

/// What sums of single precision are exact to, with room to spare.
const EXACT: f32 = 1e-5;

/// Numbers of a [`Trust`].
pub const NUMBERS: usize = 1 + TABLES + SCAN;

/// Two logistic functions of what the best `k` answers show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trust {
    /// How many answers are to be the full layer's, whatever number a search asks for.
    pub k: usize,
    /// Of an answer by tables.
    pub tables: [f32; TABLES],
    /// Of an answer by a scan of all sketches.
    pub scan: [f32; SCAN],
}

impl Trust {
    /// `k` and all weights in a row, as a file holds them.
    pub fn to_array(self) -> [f32; NUMBERS] {
        let mut all = [0.0; NUMBERS];
        let (tables, scan) = all[1..].split_at_mut(TABLES);
        tables.copy_from_slice(&self.tables);
        scan.copy_from_slice(&self.scan);
        all[0] = self.k as f32;
        all
    }

    /// The inverse of [`Trust::to_array`]; panics if there are not as many.
    pub fn from_array(all: &[f32]) -> Self {
        let (mut tables, mut scan) = ([0.0; TABLES], [0.0; SCAN]);
        tables.copy_from_slice(&all[1..][..TABLES]);
        scan.copy_from_slice(&all[1 + TABLES..]);
        Trust { k: all[0] as usize, tables, scan }
    }

    /// Refuse what is not finite, and answers that nobody counts.
    pub fn check(self) -> Result<Self> {
        if !(1..=MOST_ANSWERS).contains(&self.k) {
            return Err(Error::value("trust", format!("about 1..={MOST_ANSWERS} answers"), self.k));
        }
        match self.tables.iter().chain(&self.scan).copied().find(|value| !value.is_finite()) {
            Some(value) => Err(Error::value("trust", "finite", value)),
            None => Ok(self),
        }
    }

    /// Probability that an answer by tables is the full layer's; `level` is the mean of the rows' base logits.
    pub fn of_tables(&self, seen: &Seen, level: f32) -> f32 {
        logistic(&self.tables, &seen.tables(level))
    }

    /// Probability that an answer by a scan is the full layer's.
    pub fn of_scan(&self, seen: &Seen) -> f32 {
        logistic(&self.scan, &seen.scan())
    }
}

/// What a search has computed of one query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Distance to the nearest exemplar, and to the last of the neighbours.
    pub nearest: f32,
    /// The same for the last.
    pub last: f32,
    /// Best and k-th logit of the answer.
    pub best: f32,
    /// k-th logit of the answer.
    pub kth: f32,
    /// What exact logits are above estimates, the same for all rows, and the deviation around it.
    pub shift: f32,
    /// Deviation of exact logits from estimates.
    pub error: f32,
    /// The least estimate kept; -inf if none was cut.
    pub cut: f32,
}

impl Seen {
    fn tables(&self, level: f32) -> [f32; TABLES] {
        let [nearest, last] = [self.nearest, self.last]
            .map(|distance| if distance.is_nan() { NOWHERE } else { distance.clamp(NEAR, NOWHERE) });
        [
            1.0,
            nearest.ln(),
            last.ln(),
            bounded((self.kth - self.shift - level) / last),
            bounded((self.best - self.kth) / last),
            self.margin(),
        ]
    }

    fn scan(&self) -> [f32; SCAN] {
        [1.0, self.margin()]
    }

    /// How far the k-th logit is above the last estimate kept.
    fn margin(&self) -> f32 {
        let above = self.kth - self.shift - self.cut;
        // Less than sums of such numbers are exact to is nothing.
        let exact_to = EXACT * (self.kth.abs() + self.shift.abs() + self.cut.abs());
        if self.cut == f32::NEG_INFINITY && self.kth > f32::NEG_INFINITY {
            FAR
        } else if above > exact_to {
            bounded(above / self.error.max(exact_to))
        } else {
            0.0
        }
    }
}

/// Numbers that logistic functions are fitted on, one of each a query.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Features {
    /// Of the answer by tables.
    pub tables: [f32; TABLES],
    /// Of the answer by a scan.
    pub scan: [f32; SCAN],
}

impl Features {
    /// Of an answer by tables and of one by a scan; `level` is the mean of the rows' base logits.
    pub fn new(tables: &Seen, scan: &Seen, level: f32) -> Self {
        Features { tables: tables.tables(level), scan: scan.scan() }
    }
}

fn bounded(x: f32) -> f32 {
    if x.is_nan() { -FAR } else { x.clamp(-FAR, FAR) }
}

fn logistic<const N: usize>(weights: &[f32; N], features: &[f32; N]) -> f32 {
    let sum: f32 = weights.iter().zip(features).map(|(w, x)| w * x).sum();
    1.0 / (1.0 + (-sum).exp())
}
