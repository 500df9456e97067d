//! Exemplars: the training queries that an index keeps, each with a sketch, to tell how near it is to a query, and
//! the labels that it needed, which are what a query near it needs, too.
//!
//! Two queries are near each other if all rows' logits are: over rows, the logits of queries with aligned
//! coordinates z and x differ by sum_j e_j (z_j - x_j)^2 on average, e_j being the logit variance of coordinate j.
//! What varies with the exemplar x in that, halved, is an inner product and a constant,
//! sum_j z_j (e_j x_j) - sum_j e_j x_j^2 / 2, so that an exemplar is sketched and scored as a row is, with
//! coordinates e_j x_j and the constant as its base logit.
//!
//! The constant is that of the x which the sketch stands for, not of the exemplar itself. The score is then the
//! distance to a point beside the exemplar, and its error is small where the query is near; with the exemplar's own
//! constant it would be as large as the query is far from the mean.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::kernels::{prefetch, prefetch_far};
use crate::memory::{Block, Buffer, LINE};
use crate::sketch::{GROUP, Layout, Sketcher, Sketches, level, unpack_group};

/// Bytes of an exemplar's sketch.
pub const SKETCH_BYTES: usize = 64;

/// What training queries (item i) needed: `labels[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Copy)]
pub struct Lists<'a> {
    /// One more than there are items, rising from 0.
    pub offsets: &'a [usize],
    /// All labels.
    pub labels: &'a [u32],
}

impl<'a> Lists<'a> {
    /// Refuse what are not lists of labels below `m` for `n` queries.
    pub fn check(self, n: usize, m: usize) -> Result<()> {
        let (offsets, labels) = (self.offsets, self.labels);
        if offsets.len() != n + 1 || offsets[0] != 0 || offsets[n] != labels.len() {
            return Err(Error::value(
                "Y",
                format!("a list for each of {n} queries"),
                offsets.len().saturating_sub(1),
            ));
        }
        if offsets.windows(2).any(|pair| pair[0] > pair[1]) {
            return Err(Error::value("Y", "rising offsets", "falling ones"));
        }
        match labels.iter().find(|&&id| id as usize >= m) {
            Some(&id) => Err(Error::value("Y", format!("labels in 0..{m}"), id)),
            None => Ok(()),
        }
    }

    /// The labels of one item.
    pub fn get(&self, item: usize) -> &'a [u32] {
        &self.labels[self.offsets[item]..self.offsets[item + 1]]
    }
}

/// Lists one after the other, and where each begins and the last one ends: what [`Lists`] reads.
pub fn concat(lists: &[Vec<u32>]) -> (Vec<usize>, Vec<u32>) {
    let mut offsets = vec![0];
    offsets.extend(lists.iter().scan(0, |end, list| {
        *end += list.len();
        Some(*end)
    }));
    (offsets, lists.concat())
}

/// Training queries kept.
#[derive(Clone)]
pub struct Exemplars {
    sketched: (Sketcher, Sketches),
    /// Logit variances of the coordinates in a sketch, by the largest.
    weights: Block<f32>,
    offsets: Block<u32>,
    labels: Block<u32>,
}

impl Exemplars {
    /// Keep the items of `order`, in this order. `sketches` holds [`SKETCH_BYTES`] an item.
    pub fn build(
        sketcher: &ExemplarSketcher,
        sketches: &[u8],
        lists: Lists<'_>,
        order: &[u32],
    ) -> Result<Self> {
        let (sketcher, weights) = (sketcher.sketcher.clone(), sketcher.covered());
        let mut codes = Sketches::buffer(sketcher.layout(), order.len());
        let mut offsets = Buffer::zeroed(order.len() + 1);
        let mut labels = Vec::with_capacity(lists.labels.len());
        let mut list = Vec::new();
        for (place, &item) in order.iter().enumerate() {
            let item = item as usize;
            codes[place * SKETCH_BYTES..][..SKETCH_BYTES]
                .copy_from_slice(&sketches[item * SKETCH_BYTES..][..SKETCH_BYTES]);
            list.clear();
            list.extend_from_slice(lists.get(item));
            list.sort_unstable();
            list.dedup();
            labels.extend_from_slice(&list);
            offsets[place + 1] = u32::try_from(labels.len()).map_err(|_| {
                Error::value("teacher_top", "so that all lists hold fewer than 2**32 labels", "more")
            })?;
        }
        let sketches = Sketches::new(*sketcher.layout(), codes.freeze(), order.len())?;
        Ok(Exemplars {
            sketched: (sketcher, sketches),
            weights: Block::copy_of(&weights),
            offsets: offsets.freeze(),
            labels: Block::copy_of(&labels),
        })
    }

    /// Check the shape alone; [`Exemplars::validate`] checks the contents.
    pub fn from_parts(
        sketched: (Sketcher, Sketches),
        weights: Block<f32>,
        offsets: Block<u32>,
        labels: Block<u32>,
    ) -> Result<Self> {
        let (size, n) = (sketched.1.codes().len(), offsets.len().saturating_sub(1));
        if sketched.1.layout().bytes() != SKETCH_BYTES || Some(size) != n.checked_mul(SKETCH_BYTES) {
            return Err(Error::format(
                format!("sketches of {SKETCH_BYTES} bytes for {n} exemplars"),
                format!("{size} bytes"),
            ));
        }
        let coordinates = sketched.0.half_steps().len();
        if weights.len() != coordinates {
            return Err(Error::format(format!("{coordinates} weights"), weights.len()));
        }
        if offsets.is_empty() {
            return Err(Error::format("offsets of exemplars", "none"));
        }
        Ok(Exemplars { sketched, weights, offsets, labels })
    }

    /// Prove that offsets rise and cover the labels, and that every exemplar has rising labels below `m`.
    pub fn validate(&self, m: usize) -> Result<()> {
        let bad = |what: String| Err(Error::format("valid exemplars", what));
        if self.offsets.first() != Some(&0)
            || self.offsets.last().is_none_or(|&end| end as usize != self.labels.len())
        {
            return bad("offsets that do not cover the labels".into());
        }
        if let Some(at) = self.offsets.windows(2).position(|pair| pair[0] > pair[1]) {
            return bad(format!("falling offsets at exemplar {at}"));
        }
        let view = self.view();
        for exemplar in 0..self.len() {
            let labels = view.labels(exemplar as u32);
            if labels.windows(2).any(|pair| pair[0] >= pair[1]) {
                return bad(format!("labels that do not rise at exemplar {exemplar}"));
            }
            if let Some(&id) = labels.last().filter(|&&id| id as usize >= m) {
                return bad(format!("label {id} of {m} at exemplar {exemplar}"));
            }
        }
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The leading aligned coordinates of an exemplar, as far as its sketch knows them.
    pub fn coordinates(&self, exemplar: usize, out: &mut [f32]) {
        let (sketcher, sketches) = &self.sketched;
        let packed = &sketches.codes()[exemplar * SKETCH_BYTES..][..SKETCH_BYTES];
        decode(sketcher, packed, out);
        for (value, &weight) in out.iter_mut().zip(self.weights.iter()) {
            *value = if weight > 0.0 { (f64::from(*value) / f64::from(weight)) as f32 } else { 0.0 };
        }
    }

    /// What writes sketches such as theirs.
    pub fn sketcher(&self) -> ExemplarSketcher {
        ExemplarSketcher { sketcher: self.sketched.0.clone(), weights: self.weights.to_vec() }
    }

    /// Their sketches and how to read them.
    pub fn sketched(&self) -> &(Sketcher, Sketches) {
        &self.sketched
    }

    /// Logit variances of the coordinates in a sketch, by the largest.
    pub fn weights(&self) -> &Block<f32> {
        &self.weights
    }

    /// Ask for the sketches of these, which lie one after the other: the first of them, where there are many. Of so few exemplars
    /// that they lie in caches it saves less than it takes.
    #[inline(always)]
    pub fn prefetch_sketches(&self, places: Range<u32>) {
        const MOST: usize = 64;
        const CACHED: usize = 32 << 20;
        let codes = self.sketched.1.codes();
        if codes.len() < CACHED {
            return;
        }
        places.take(MOST).for_each(|place| prefetch_far(codes, place as usize * SKETCH_BYTES));
    }

    /// Square of a query's distance to the mean query, as far as sketches know it. That to an exemplar is this less
    /// twice the exemplar's score.
    pub fn square(&self, z: &[f32]) -> f32 {
        self.weights.iter().zip(z).map(|(weight, z)| weight * z * z).sum()
    }

    /// One more than there are exemplars.
    pub fn offsets(&self) -> &Block<u32> {
        &self.offsets
    }

    /// The labels of all exemplars.
    pub fn labels(&self) -> &Block<u32> {
        &self.labels
    }

    /// The labels as a search reads them, resolved once.
    pub fn view(&self) -> ExemplarsView<'_> {
        ExemplarsView { offsets: &self.offsets, labels: &self.labels }
    }
}

/// The leading coordinates that a sketch stands for; zero where it knows none.
pub fn decode(sketcher: &Sketcher, mut packed: &[u8], out: &mut [f32]) {
    out.fill(0.0);
    let groups = sketcher.layout().widths().zip(sketcher.half_steps().chunks(GROUP));
    for (out, (width, half_steps)) in out.chunks_mut(GROUP).zip(groups) {
        let codes = unpack_group(width, packed);
        packed = &packed[width * GROUP / 8..];
        for (value, (&code, &half_step)) in out.iter_mut().zip(codes.iter().zip(half_steps)) {
            *value = if half_step > 0.0 { level(code, half_step, width) as f32 } else { 0.0 };
        }
    }
}

/// The labels of [`Exemplars`] as slices. A damaged file can hold anything in them: what makes no sense reads as
/// no labels.
#[derive(Clone, Copy)]
pub struct ExemplarsView<'a> {
    offsets: &'a [u32],
    labels: &'a [u32],
}

impl<'a> ExemplarsView<'a> {
    /// What an exemplar needed.
    #[inline(always)]
    pub fn labels(&self, exemplar: u32) -> &'a [u32] {
        let at = exemplar as usize;
        match self.offsets.get(at..at + 2) {
            Some(&[from, to]) => self.labels.get(from as usize..to as usize).unwrap_or(&[]),
            _ => &[],
        }
    }

    /// Ask for the place where an exemplar's labels begin.
    #[inline(always)]
    pub fn prefetch_offset(&self, exemplar: u32) {
        prefetch(self.offsets, exemplar as usize);
    }

    /// Ask for an exemplar's labels.
    #[inline(always)]
    pub fn prefetch_labels(&self, exemplar: u32) {
        let labels = self.labels(exemplar);
        for at in (0..labels.len()).step_by(LINE / size_of::<u32>()) {
            prefetch(labels, at);
        }
    }
}

/// Writes the sketches of exemplars.
pub struct ExemplarSketcher {
    sketcher: Sketcher,
    weights: Vec<f32>,
}

impl ExemplarSketcher {
    /// For aligned coordinates with these logit variances.
    pub fn new(variances: &[f32]) -> Result<Self> {
        // Only ratios matter, and squares of the variances themselves might not be floats.
        let largest = variances.first().copied().unwrap_or(0.0);
        let weights: Vec<f32> =
            variances.iter().map(|&e| if largest > 0.0 { e.max(0.0) / largest } else { 1.0 }).collect();
        let squares: Vec<f32> = weights.iter().map(|e| e * e).collect();
        // Bits go where a distance has its variance: e_j a coordinate, as all x_j have the same.
        let layout = Layout::allocate(&weights, SKETCH_BYTES)?;
        Ok(ExemplarSketcher { sketcher: Sketcher::with_layout(layout, &squares), weights })
    }

    /// Sketch a query with aligned coordinates `x`.
    pub fn encode(&self, x: &[f32], sketch: &mut [u8]) {
        let weighted: Vec<f32> = x.iter().zip(&self.weights).map(|(x, e)| e * x).collect();
        let mut base = 0.0f64;
        for (stands_for, &weight) in self.sketcher.values(&weighted).zip(&self.weights) {
            if stands_for != 0.0 {
                base -= stands_for * stands_for / (2.0 * f64::from(weight));
            }
        }
        self.sketcher.encode(&weighted, base as f32, sketch);
    }

    /// Weights of the coordinates that a sketch has, none of those that do not exist.
    fn covered(&self) -> Vec<f32> {
        let mut weights = self.weights.clone();
        weights.resize(self.sketcher.half_steps().len(), 0.0);
        weights
    }

    /// How the sketches are read.
    pub fn sketcher(&self) -> &Sketcher {
        &self.sketcher
    }
}
