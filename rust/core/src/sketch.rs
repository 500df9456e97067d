//! Sketches: a short code of every row, from which a logit is estimated by reading one or two cache lines.
//!
//! A row's aligned coordinates are quantised uniformly, coordinate by coordinate, with 8, 4, 2 or 1 bits each.
//! Groups of 32 neighbouring coordinates share a width; widths are allotted by reverse water-filling, that is,
//! so that the expected squared error of a logit is least for the bytes given. The last four bytes hold the
//! row's base logit (w . mu + b) in f32.

use crate::error::{Error, Result};
use crate::memory::{Block, Buffer};
use crate::sums::largest;

/// Coordinates that share a width.
pub const GROUP: usize = 32;

/// Widths in bits, in the order in which groups of them stand in a sketch.
pub const WIDTHS: [usize; 4] = [8, 4, 2, 1];

/// Bytes that a sketch may have: those of rows one or two cache lines, those in the columns of a region fewer.
const SIZES: [usize; 3] = [36, 64, 128];

/// For each of [`WIDTHS`]: step of the best uniform quantiser of a unit Gaussian, and its squared error
/// (J. Max, 1960).
const QUANTISER: [(f64, f64); 4] =
    [(0.030_80, 0.000_087_7), (0.335_2, 0.011_54), (0.995_7, 0.118_8), (1.596, 0.363_4)];

/// How many groups of each width make a sketch of so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    bytes: usize,
    counts: [usize; 4],
}

impl Layout {
    /// Check that the groups and the base logit fit.
    pub fn new(bytes: usize, counts: [usize; 4]) -> Result<Self> {
        if !SIZES.contains(&bytes) {
            return Err(Error::value("sketch_bytes", "0, 64 or 128", bytes));
        }
        let units =
            counts.iter().zip(WIDTHS).try_fold(0usize, |sum, (n, w)| sum.checked_add(n.checked_mul(w)?));
        if units.is_none_or(|units| units > bytes / 4 - 1) || counts.iter().all(|&n| n == 0) {
            return Err(Error::value(
                "sketch widths",
                format!("between one group and {bytes} bytes"),
                format!("{counts:?}"),
            ));
        }
        Ok(Layout { bytes, counts })
    }

    /// The layout with the least expected squared error for coordinates of these variances (falling).
    pub fn allocate(variances: &[f32], bytes: usize) -> Result<Self> {
        if variances.is_empty() {
            return Err(Error::value("variances", "at least one coordinate", 0));
        }
        if !SIZES.contains(&bytes) {
            return Err(Error::value("sketch_bytes", "0, 64 or 128", bytes));
        }
        let units = bytes / 4 - 1;
        // energy[g]: variance in the first g groups.
        let mut energy = vec![0.0f64];
        for group in variances.chunks(GROUP) {
            energy.push(energy[energy.len() - 1] + group.iter().map(|&v| f64::from(v)).sum::<f64>());
        }
        let groups = energy.len() - 1;
        let mut best = (f64::INFINITY, [0; 4]);
        for n8 in 0..=(units / 8).min(groups) {
            for n4 in 0..=((units - 8 * n8) / 4).min(groups - n8) {
                let left = units - 8 * n8 - 4 * n4;
                for n2 in 0..=(left / 2).min(groups - n8 - n4) {
                    let n1 = (left - 2 * n2).min(groups - n8 - n4 - n2);
                    let counts = [n8, n4, n2, n1];
                    let mut from = 0;
                    let mut error = 0.0;
                    for (n, (_, squared)) in counts.iter().zip(QUANTISER) {
                        error += (energy[from + n] - energy[from]) * squared;
                        from += n;
                    }
                    error += energy[groups] - energy[from];
                    if error < best.0 {
                        best = (error, counts);
                    }
                }
            }
        }
        Layout::new(bytes, best.1)
    }

    /// Bytes of a sketch.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Groups of 8, 4, 2 and 1 bits.
    pub fn counts(&self) -> [usize; 4] {
        self.counts
    }

    /// Number of groups.
    pub fn groups(&self) -> usize {
        self.counts.iter().sum()
    }

    /// The width of each group, in order.
    pub fn widths(&self) -> impl Iterator<Item = usize> {
        let counts = self.counts;
        (0..4).flat_map(move |i| std::iter::repeat_n(WIDTHS[i], counts[i]))
    }

    /// The base logit at the end of a sketch.
    #[inline(always)]
    pub(crate) fn base(&self, sketch: &[u8]) -> f32 {
        let [.., a, b, c, d] = *sketch else { return 0.0 };
        f32::from_le_bytes([a, b, c, d])
    }
}

/// Pack the codes of a group as [`unpack`] reads them.
pub(crate) fn pack(width: usize, codes: &[u8; GROUP], packed: &mut [u8]) {
    packed.fill(0);
    for (field, codes) in codes.chunks_exact(packed.len()).enumerate() {
        for (byte, code) in packed.iter_mut().zip(codes) {
            *byte |= code << (field * width);
        }
    }
}

/// [`unpack`] with a width that is not known before.
pub(crate) fn unpack_group(width: usize, packed: &[u8]) -> [u8; GROUP] {
    match width {
        8 => unpack::<8>(packed),
        4 => unpack::<4>(packed),
        2 => unpack::<2>(packed),
        _ => unpack::<1>(packed),
    }
}

/// The codes of a group: position p of width w lies in byte p mod 4w, p / 4w fields up.
#[inline(always)]
pub(crate) fn unpack<const WIDTH: usize>(packed: &[u8]) -> [u8; GROUP] {
    std::array::from_fn(|position| {
        let bytes = WIDTH * GROUP / 8;
        packed[position % bytes] >> (position / bytes * WIDTH) & (u8::MAX >> (8 - WIDTH))
    })
}

/// The layout and the size of a code's half step in each coordinate.
#[derive(Clone)]
pub struct Sketcher {
    layout: Layout,
    half_steps: Vec<f32>,
}

impl Sketcher {
    /// Fit steps to the variances of the coordinates.
    pub fn new(variances: &[f32], bytes: usize) -> Result<Self> {
        Ok(Self::with_layout(Layout::allocate(variances, bytes)?, variances))
    }

    /// The same with a layout that other considerations chose.
    pub fn with_layout(layout: Layout, variances: &[f32]) -> Self {
        let mut half_steps = vec![0.0; layout.groups() * GROUP];
        for ((half_steps, variances), step) in
            half_steps.chunks_exact_mut(GROUP).zip(variances.chunks(GROUP)).zip(layout.widths().map(step))
        {
            for (half_step, &variance) in half_steps.iter_mut().zip(variances) {
                // Of an infinite variance the largest step: files take no infinity.
                *half_step =
                    (0.5 * step * f64::from(variance.max(0.0)).min(f64::from(f32::MAX)).sqrt()) as f32;
            }
        }
        Sketcher { layout, half_steps }
    }

    /// How many leading coordinates have so many bits that their steps can follow [`Sketcher::cover`].
    pub fn covering(&self) -> usize {
        self.layout.counts[0] * GROUP
    }

    /// Widen the steps of 8 bits until the levels reach these absolute values, one a [`Sketcher::covering`]
    /// coordinate. Rows with a tail heavier than a Gaussian's are those with large logits: cutting them off loses
    /// just what is looked for, while 256 levels leave room. No step gets larger than that of 4 bits.
    pub fn cover(&mut self, reach: &[f32]) {
        let most = (QUANTISER[1].0 / QUANTISER[0].0) as f32;
        for (half_step, reach) in self.half_steps.iter_mut().zip(reach) {
            *half_step = half_step.max((reach / 256.0).min(most * *half_step));
        }
    }

    /// As a file holds them.
    pub fn from_parts(layout: Layout, half_steps: Vec<f32>) -> Result<Self> {
        if half_steps.len() != layout.groups() * GROUP {
            return Err(Error::format(format!("{} half steps", layout.groups() * GROUP), half_steps.len()));
        }
        if let Some(bad) = half_steps.iter().find(|step| !(step.is_finite() && **step >= 0.0)) {
            return Err(Error::format("half steps that are finite and not negative", bad));
        }
        Ok(Sketcher { layout, half_steps })
    }

    /// The layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Half steps, zero for coordinates that do not exist.
    pub fn half_steps(&self) -> &[f32] {
        &self.half_steps
    }

    /// The variances that these steps suit.
    pub fn variances(&self) -> Vec<f32> {
        let steps = self.layout.widths().flat_map(|width| std::iter::repeat_n(step(width), GROUP));
        let variance = |(&half_step, step): (&f32, f64)| (2.0 * f64::from(half_step) / step).powi(2) as f32;
        self.half_steps.iter().zip(steps).map(variance).collect()
    }

    /// Write the sketch of a row with coordinates `z` (missing ones are zero) and base logit `base`.
    pub fn encode(&self, z: &[f32], base: f32, sketch: &mut [u8]) {
        let mut codes = [0u8; GROUP];
        let mut at = 0;
        for (group, width) in self.layout.widths().enumerate() {
            for (i, code) in codes.iter_mut().enumerate() {
                let coordinate = group * GROUP + i;
                let value = z.get(coordinate).copied().unwrap_or(0.0);
                *code = encode_one(value, self.half_steps[coordinate], width);
            }
            let bytes = width * GROUP / 8;
            pack(width, &codes, &mut sketch[at..at + bytes]);
            at += bytes;
        }
        let end = self.layout.bytes - 4;
        sketch[at..end].fill(0);
        sketch[end..].copy_from_slice(&base.to_le_bytes());
    }

    /// What the codes of coordinates `z` stand for; zero where there is no step.
    pub fn values(&self, z: &[f32]) -> impl Iterator<Item = f64> {
        let widths = self.layout.widths().flat_map(|width| [width; GROUP]);
        let value = |((&z, &half_step), width): ((&f32, &f32), usize)| {
            level(encode_one(z, half_step, width), half_step, width)
        };
        z.iter().zip(&self.half_steps).zip(widths).map(value)
    }
}

/// The step of a width's quantiser of a unit Gaussian.
fn step(width: usize) -> f64 {
    QUANTISER[WIDTHS.iter().position(|&w| w == width).unwrap_or(0)].0
}

/// The code c whose level (2c + 1 - 2^width) half steps is nearest to `value`.
pub(crate) fn encode_one(value: f32, half_step: f32, width: usize) -> u8 {
    if half_step <= 0.0 {
        return 0;
    }
    // Within the levels before it is rounded down (NaN to the lowest): then an integer will do, which every CPU makes.
    let half = (1i32 << width) / 2;
    let steps = (value / (2.0 * half_step)).max(-half as f32).min((half - 1) as f32);
    let whole = steps as i32;
    (whole - i32::from(whole as f32 > steps) + half) as u8
}

/// The value that a code stands for.
pub(crate) fn level(code: u8, half_step: f32, width: usize) -> f64 {
    (2.0 * f64::from(code) + 1.0 - f64::from(1u32 << width)) * f64::from(half_step)
}

/// The sketches of all rows.
#[derive(Clone)]
pub struct Sketches {
    layout: Layout,
    codes: Block<u8>,
}

impl Sketches {
    /// Check the size.
    pub fn new(layout: Layout, codes: Block<u8>, m: usize) -> Result<Self> {
        if Some(codes.len()) != m.checked_mul(layout.bytes) {
            return Err(Error::format(
                format!("{m} sketches of {} bytes", layout.bytes),
                format!("{} bytes", codes.len()),
            ));
        }
        Ok(Sketches { layout, codes })
    }

    /// Room for `m` sketches, to be encoded into.
    pub fn buffer(layout: &Layout, m: usize) -> Buffer<u8> {
        Buffer::zeroed(m * layout.bytes)
    }

    /// The layout.
    #[inline(always)]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// All codes, `layout().bytes()` a row.
    #[inline(always)]
    pub fn codes(&self) -> &Block<u8> {
        &self.codes
    }
}

/// The sketches as the kernels see them: typed slices resolved once, not once a row.
#[derive(Clone, Copy)]
pub struct SketchView<'a> {
    /// The layout.
    pub layout: &'a Layout,
    /// All codes.
    pub codes: &'a [u8],
}

impl<'a> SketchView<'a> {
    /// The sketch of row `id`. Panics if there is none.
    #[inline(always)]
    pub fn get(&self, id: u32) -> &'a [u8] {
        &self.codes[id as usize * self.layout.bytes..][..self.layout.bytes]
    }
}

/// A query as integers: one i8 weight a coordinate, one scale for all groups of a width.
#[derive(Clone, Debug, Default)]
pub struct SketchQuery {
    weights: Vec<i8>,
    scales: [f32; 4],
    offset: f32,
    values: Vec<f32>,
}

impl SketchQuery {
    /// Quantise the query's aligned coordinates `z`; missing ones count as zero.
    pub fn prepare(&mut self, sketcher: &Sketcher, z: &[f32]) {
        let half_steps = &sketcher.half_steps;
        self.values.clear();
        self.values.extend(z.iter().zip(half_steps).map(|(z, half_step)| z * half_step));
        self.values.resize(half_steps.len(), 0.0);
        self.weights.resize(half_steps.len(), 0);
        self.offset = 0.0;
        let mut from = 0;
        for ((&groups, width), kept) in sketcher.layout.counts.iter().zip(WIDTHS).zip(&mut self.scales) {
            let to = from + groups * GROUP;
            let values = &self.values[from..to];
            let (scale, inverse) = byte_step(values);
            let mut sum = 0i32;
            for (weight, value) in self.weights[from..to].iter_mut().zip(values) {
                *weight = round_to_byte(value * inverse);
                sum += i32::from(*weight);
            }
            // Codes c stand for 2c + 1 - 2^width half steps: fold the 2 into the scale, the rest into the offset.
            *kept = 2.0 * scale;
            self.offset += scale * ((1 - (1i32 << width)) * sum) as f32;
            from = to;
        }
    }

    /// One weight a coordinate, within -127..=127.
    #[inline(always)]
    pub fn weights(&self) -> &[i8] {
        &self.weights
    }

    /// One scale for each of [`WIDTHS`].
    #[inline(always)]
    pub fn scales(&self) -> &[f32; 4] {
        &self.scales
    }

    /// What is added to every row's score.
    #[inline(always)]
    pub fn offset(&self) -> f32 {
        self.offset
    }

    /// Whether this was prepared for `layout`.
    pub(crate) fn fits(&self, layout: &Layout) -> bool {
        self.weights.len() == layout.groups() * GROUP
    }
}

/// The largest byte.
pub(crate) const LARGEST_BYTE: f32 = 127.0;

/// The step of which the largest of the values has [`LARGEST_BYTE`], and its inverse. Values too small to scale contribute
/// nothing: both are zero then.
#[inline(always)]
pub(crate) fn byte_step(values: &[f32]) -> (f32, f32) {
    let largest = largest(values);
    if largest > 1e-30 { (largest / LARGEST_BYTE, LARGEST_BYTE / largest) } else { (0.0, 0.0) }
}

/// Beside numbers so large there are no fractions.
pub(crate) const SHIFT: f32 = 12_582_912.0;

/// Round half to even to an integer, for 0 <= x < 65536, in one addition: it is in the last bits.
#[inline(always)]
pub(crate) fn round_to_u16(x: f32) -> u16 {
    (x + SHIFT).to_bits() as u16
}

/// The same for |x| < 128.
#[inline(always)]
pub(crate) fn round_to_byte(x: f32) -> i8 {
    (x + SHIFT).to_bits() as i8
}
