//! Trust: how likely a search has met what the full layer would answer, from what it has computed anyway.
//!
//! An exemplar's labels are those that it needed, its t largest logits. Between it and a query the logits of rows
//! differ by a spread that the aligned coordinates give: over rows, a standard deviation of the distance d between
//! the two. So a row that no near exemplar needed is among the query's best only if its logit rose, against the
//! mean of all rows, by more than the answer's k-th stands above it: the k-th logit in units of d says how
//! unlikely that is. And as one meets a species once before one has met it often (Good, 1953), answers that few of
//! the neighbours needed say that there are others which none of them did. From these few numbers a logistic
//! function, fitted on queries that the index was not filled from, makes the probability that all of the full
//! layer's best k labels are candidates.
//!
//! Sketches lose rows in a second way, also in a scan of all of them: one whose estimate fell below those rescored,
//! while its logit is above the k-th answer. Estimates err by what the rescored rows show. A second function makes
//! of this the probability that a scan's answer is the full layer's.
//!
//! An answer from the list of a region has a third one, of how near the region's center is, how far down the list its labels
//! stand, and, as for a scan, of what columns may have lost: there estimates are what columns promise, and logits those of
//! rows in bytes. Where lists are read in two parts, the first has one of its own.
//!
//! All are about as many answers as they were fitted for, whatever number a search asks for; where it asks for more, more
//! rows are scored, and their errors are known a little better.

use crate::elementary::{exp, ln};
use crate::error::{Error, Result};

/// What a search by tables shows of itself, in this order: a constant; the logarithms of the query's distance to
/// the nearest exemplar, to the last of the neighbours, and to the mean query; the k-th logit above the mean of all
/// rows, and the best above the k-th, in units of the second distance; the logarithm of the share of the neighbours
/// that needed the best label, and its mean over all k.
pub const TABLES: usize = 8;

/// What a scan shows: a constant, and the k-th logit above the largest estimate of a row that was not scored (or the least of
/// those kept), in units of estimates' error.
pub const SCAN: usize = 2;

/// What an answer from the list of a region shows, in this order: a constant; the logarithms of the query's distance to
/// the region's center, to the second nearest center, and to the mean query; the k-th logit above the mean of all rows, and
/// the best above the k-th, in units of the first distance; the logarithm of the best label's rank in the list, and its mean
/// over all k; and what a scan shows, of what columns promise.
pub const LISTED: usize = 9;

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
    /// How many of the full layer's answers it is about, whatever number a search asks for.
    pub k: usize,
    /// Of a search by tables.
    pub tables: [f32; TABLES],
    /// Of a scan of all rows.
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

    /// Probability that the candidates hold the full layer's best.
    pub fn of_tables(&self, met: &Met) -> f32 {
        logistic(&self.tables, &met.features())
    }

    /// Probability that an answer by a scan is the full layer's.
    pub fn of_scan(&self, scanned: &Scanned) -> f32 {
        logistic(&self.scan, &scanned.features())
    }
}

/// What a search by tables has computed of one query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Met {
    /// Distance to the nearest exemplar.
    pub nearest: f32,
    /// Distance to the last of the neighbours.
    pub last: f32,
    /// Distance to the mean query.
    pub mean: f32,
    /// Best logit of the answer above its k-th.
    pub spread: f32,
    /// k-th logit of the answer above the mean of all rows.
    pub kth: f32,
    /// Logarithm of the share of the neighbours that needed the best label.
    pub needed_best: f32,
    /// Its mean over all k.
    pub needed: f32,
}

impl Met {
    fn features(&self) -> [f32; TABLES] {
        let [nearest, last, mean] = [self.nearest, self.last, self.mean].map(bounded_distance);
        [
            1.0,
            ln(nearest),
            ln(last),
            ln(mean),
            bounded(self.kth / last),
            bounded(self.spread / last),
            self.needed_best,
            self.needed,
        ]
    }
}

/// Logarithm of the share of `n` neighbours that needed a label, where `count` did: halves keep it finite.
pub fn share_needed(count: u16, n: usize) -> f32 {
    ln((f32::from(count) + 0.5) / (n as f32 + 1.0))
}

/// What a search in the list of a region has computed of one query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Listed {
    /// Distances to the region's center, to the second nearest center, and to the mean query.
    pub distances: [f32; 3],
    /// Best logit of the answer above its k-th.
    pub spread: f32,
    /// k-th logit of the answer above the mean of all rows.
    pub kth: f32,
    /// Logarithm of the rank of the best label in the list, from one.
    pub rank_best: f32,
    /// Its mean over all k.
    pub rank: f32,
    /// What estimates show.
    pub scanned: Scanned,
}

impl Listed {
    /// Numbers that a logistic function is fitted on.
    pub fn features(&self) -> [f32; LISTED] {
        let [near, second, mean] = self.distances.map(bounded_distance);
        let [_, margin] = self.scanned.features();
        [
            1.0,
            ln(near),
            ln(second),
            ln(mean),
            bounded(self.kth / near),
            bounded(self.spread / near),
            self.rank_best,
            self.rank,
            margin,
        ]
    }
}

/// Probability that an answer from a list is the full layer's.
pub fn trust_in_list(weights: &[f32; LISTED], listed: &Listed) -> f32 {
    logistic(weights, &listed.features())
}

/// What a scan has computed of one query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scanned {
    /// k-th logit of the answer.
    pub kth: f32,
    /// What exact logits are above estimates, the same for all rows.
    pub shift: f32,
    /// Deviation of exact logits from estimates, around that.
    pub error: f32,
    /// The largest estimate of a row that was not scored, or the least of those that were kept, or one that none exceeds; -inf
    /// if none was cut.
    pub cut: f32,
}

impl Scanned {
    fn features(&self) -> [f32; SCAN] {
        // What sums of such numbers are exact to is nothing.
        let exact_to = EXACT * (self.kth.abs() + self.shift.abs() + self.cut.abs());
        let above = self.kth - self.shift - self.cut - exact_to;
        let margin = if self.cut == f32::NEG_INFINITY && self.kth > f32::NEG_INFINITY {
            FAR
        } else if above > 0.0 {
            bounded(above / self.error.max(exact_to))
        } else {
            0.0
        };
        [1.0, margin]
    }
}

/// Numbers that logistic functions are fitted on, of one query.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Features {
    /// Of the search by tables.
    pub tables: [f32; TABLES],
    /// Of the scan.
    pub scan: [f32; SCAN],
    /// Whether the candidates of the tables hold all of the full layer's best.
    pub held: bool,
}

impl Features {
    /// Of a search by tables, a scan, and what is known of the full layer's answer.
    pub fn new(met: &Met, scanned: &Scanned, held: bool) -> Self {
        Features { tables: met.features(), scan: scanned.features(), held }
    }
}

/// A distance whose logarithm is finite.
pub(crate) fn bounded_distance(distance: f32) -> f32 {
    if distance.is_nan() { NOWHERE } else { distance.clamp(NEAR, NOWHERE) }
}

fn bounded(x: f32) -> f32 {
    if x.is_nan() { -FAR } else { x.clamp(-FAR, FAR) }
}

fn logistic<const N: usize>(weights: &[f32; N], features: &[f32; N]) -> f32 {
    let sum: f32 = weights.iter().zip(features).map(|(w, x)| w * x).sum();
    1.0 / (1.0 + exp(-sum))
}
