//! Columns: a short sketch of every row, laid out for a scan that reads them all.
//!
//! Where all rows are read, they can lie side by side: [`BLOCK`] rows make a block, in which the first bytes of their
//! codes lie together, then the second bytes, and at the end their base logits. Half a byte of code has 16 values,
//! so that a table of 16 entries says what it adds to a row's score, and one instruction looks it up for as many rows as
//! a vector has bytes (F. André, A.-M. Kermarrec, N. Le Scouarnec, "Cache locality is not enough: high-performance
//! nearest neighbor search with product quantization fast scan", PVLDB 9(4), 2015).
//!
//! The codes are those of sketches of 64 bytes, made from the rows' own: what they promise is for ranking alone, and
//! the sketches of the most promising rows are read after that.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::memory::{Block, Buffer};
use crate::sketch::{
    GROUP, Layout, SketchView, Sketcher, Sketches, WIDTHS, encode_one, level, pack, round_to_u16,
    unpack_group,
};
use crate::sums::largest;

/// Rows of a block: as many as the widest vectors have bytes.
pub const BLOCK: usize = 64;

/// Bytes of a row's sketch, of which four are the base logit; at most, for columns of other kinds.
const BYTES: usize = 64;

/// What half bytes of most tables add, in steps: four entries make a byte, of which each is the sum of two numbers that are
/// rounded.
const NARROW: f32 = 62.0;

/// The most that half bytes add. What is above [`NARROW`] has tables of its own, whose entries make a byte together: no more
/// than one half byte in `SPREAD` squared has such a table.
pub(crate) const MOST: f32 = 2046.0;

/// A half byte may add so many times what half bytes add, as a root mean square, before it gets tables of its own:
/// coordinates in which rows differ most would else make the steps of all tables coarse.
const SPREAD: f64 = 4.0;

/// The columns of all rows.
#[derive(Clone)]
pub struct Columns {
    sketcher: Sketcher,
    codes: Block<u8>,
}

impl Columns {
    /// Make columns of sketches.
    pub fn build(of_rows: &Sketcher, sketches: &Sketches) -> Result<Self> {
        let sketcher = shorter(of_rows)?;
        let view = SketchView { layout: sketches.layout(), codes: sketches.codes() };
        let m = view.codes.len() / view.layout.bytes();
        let recode = Recode::new(of_rows, &sketcher);
        let mut codes = Buffer::zeroed(bytes_of(sketcher.layout(), m));
        lay(sketcher.layout(), m, &mut codes, |id, short| {
            let long = view.get(id as u32);
            recode.codes(long, short);
            view.layout.base(long)
        });
        Ok(Columns { sketcher, codes: codes.freeze() })
    }

    /// As a file holds them, beside the sketches of `m` rows.
    pub fn beside(of_rows: &Sketcher, codes: Block<u8>, m: usize) -> Result<Self> {
        Self::from_parts(shorter(of_rows)?, codes, m)
    }

    /// The columns of `m` rows.
    pub fn from_parts(sketcher: Sketcher, codes: Block<u8>, m: usize) -> Result<Self> {
        let expected = m.div_ceil(BLOCK).checked_mul(stride(code_bytes(sketcher.layout())));
        // Base logits are read as they lie.
        let aligned = (codes.as_ptr() as usize).is_multiple_of(align_of::<f32>());
        if Some(codes.len()) != expected || !aligned {
            return Err(Error::format(format!("columns of {m} rows"), format!("{} bytes", codes.len())));
        }
        Ok(Columns { sketcher, codes })
    }

    /// What codes stand for.
    pub fn sketcher(&self) -> &Sketcher {
        &self.sketcher
    }

    /// All blocks.
    pub fn codes(&self) -> &Block<u8> {
        &self.codes
    }

    /// As the kernels see them.
    #[inline]
    pub fn view(&self) -> ColumnsView<'_> {
        ColumnsView { n: code_bytes(self.sketcher.layout()), codes: &self.codes }
    }
}

/// Bytes of the columns of `m` rows.
pub(crate) fn bytes_of(layout: &Layout, m: usize) -> usize {
    m.div_ceil(BLOCK) * stride(code_bytes(layout))
}

/// Lay `m` rows out: `sketch` writes the codes of one into zeros and returns its base logit.
pub(crate) fn lay(layout: &Layout, m: usize, to: &mut [u8], sketch: impl Fn(usize, &mut [u8]) -> f32 + Sync) {
    let n = code_bytes(layout);
    to.par_chunks_exact_mut(stride(n)).enumerate().for_each(|(block, out)| {
        let (codes, bases) = out.split_at_mut(n * BLOCK);
        for (row, base) in bases.chunks_exact_mut(4).enumerate() {
            let id = block * BLOCK + row;
            if id >= m {
                break;
            }
            let mut short = [0; BYTES];
            base.copy_from_slice(&sketch(id, &mut short[..layout.bytes()]).to_le_bytes());
            for (column, &code) in codes.chunks_exact_mut(BLOCK).zip(&short) {
                column[place(row)] = code;
            }
        }
    });
}

/// How codes of sketches become those of shorter ones: the codes of the values that they stand for.
struct Recode {
    /// The width of each group in both, and what becomes of each code of its coordinates.
    groups: Vec<([usize; 2], Vec<[u8; 256]>)>,
}

impl Recode {
    fn new(from: &Sketcher, to: &Sketcher) -> Self {
        let mut groups = Vec::new();
        let steps = from.half_steps().chunks(GROUP).zip(to.half_steps().chunks(GROUP));
        for ((from, to), (long, short)) in from.layout().widths().zip(to.layout().widths()).zip(steps) {
            let table = |(&long, &short): (&f32, &f32)| {
                std::array::from_fn(|code| {
                    let value = if long > 0.0 { level(code as u8, long, from) as f32 } else { 0.0 };
                    encode_one(value, short, to)
                })
            };
            groups.push(([from, to], long.iter().zip(short).map(table).collect()));
        }
        Recode { groups }
    }

    fn codes(&self, mut long: &[u8], mut short: &mut [u8]) {
        for ([from, to], tables) in &self.groups {
            let mut codes = unpack_group(*from, long);
            for (code, table) in codes.iter_mut().zip(tables) {
                *code = table[usize::from(*code)];
            }
            let packed;
            (packed, short) = std::mem::take(&mut short).split_at_mut(to * GROUP / 8);
            pack(*to, &codes, packed);
            long = &long[from * GROUP / 8..];
        }
    }
}

/// How rows with such sketches are sketched in columns: by the variances that their steps suit, which are larger where
/// steps were widened to cover all rows.
fn shorter(of_rows: &Sketcher) -> Result<Sketcher> {
    let variances = of_rows.variances();
    Ok(Sketcher::with_layout(Layout::allocate(&variances, BYTES)?, &variances))
}

/// Bytes of a row's codes, without its base logit.
fn code_bytes(layout: &Layout) -> usize {
    layout.counts().iter().zip(WIDTHS).map(|(groups, width)| groups * width * GROUP / 8).sum()
}

/// Bytes of a block of rows with so many bytes of codes each.
#[inline(always)]
fn stride(n: usize) -> usize {
    (n + 4) * BLOCK
}

/// Where the byte of a row lies among those of its block: rows of both halves in turns, because sums of 16 bits are
/// made of the even bytes and of the odd ones.
pub(crate) fn place(row: usize) -> usize {
    2 * (row % (BLOCK / 2)) + row / (BLOCK / 2)
}

/// The columns as the kernels see them.
#[derive(Clone, Copy)]
pub struct ColumnsView<'a> {
    /// Bytes of a row's codes.
    pub n: usize,
    /// All blocks.
    pub codes: &'a [u8],
}

impl<'a> ColumnsView<'a> {
    /// The codes of a block, column by column, and its base logits. Panics if there is no such block.
    #[inline(always)]
    pub fn block(&self, block: usize) -> (&'a [[u8; BLOCK]], &'a [f32; BLOCK]) {
        let stride = stride(self.n);
        let (codes, bases) = self.codes[block.saturating_mul(stride)..][..stride].split_at(self.n * BLOCK);
        let (bases, _) = bytemuck::cast_slice(bases).as_chunks::<BLOCK>();
        (codes.as_chunks::<BLOCK>().0, &bases[0])
    }
}

/// What columns promise of the rows of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Promised {
    /// Scores, but for what is the same for all rows.
    pub scores: [f32; BLOCK],
    /// Bit r is set where score r is not at or below the floor that was asked for.
    pub above: u64,
}

impl Promised {
    /// Nothing yet.
    pub const NOTHING: Self = Promised { scores: [0.0; BLOCK], above: 0 };
}

/// A query as tables: what each half byte of code adds to a row's score, in units of a common step.
#[derive(Clone, Debug, Default)]
pub struct ColumnQuery {
    /// For each column the tables of its lower and its upper half: the lower six bits of what is added.
    tables: Vec<[[u8; 16]; 2]>,
    /// Halves (two a column) that may add more, and tables of the bits above.
    wide: Vec<(usize, [u8; 16])>,
    scale: f32,
    values: Vec<f32>,
    /// What each bit of the columns' bytes adds.
    bits: [Vec<f32>; 8],
    /// What the lower and the upper halves add at most.
    ranges: [Vec<f32>; 2],
}

/// Columns of which tables are made together.
pub(crate) const TOGETHER: usize = 8;

/// Coordinates whose codes begin in neighbouring bytes, whatever their width.
const NEIGHBORS: usize = 4;

impl ColumnQuery {
    /// Make tables for a query with coordinates `z`; missing ones count as zero. Compiled into a kernel, and so of plain loops,
    /// with the kernel's own way to do what [`tables`] does: [`crate::kernels::Kernel::prepare_columns`].
    #[inline(always)]
    pub(crate) fn prepare(
        &mut self,
        columns: &Columns,
        z: &[f32],
        together: impl Fn([&[f32; TOGETHER]; 4], f32) -> [[u8; 16]; TOGETHER],
    ) {
        let half_steps = columns.sketcher.half_steps();
        let ColumnQuery { tables, wide, scale, values, bits, ranges } = self;
        values.clear();
        values.resize(half_steps.len(), 0.0);
        for ((value, z), half_step) in values.iter_mut().zip(z).zip(half_steps) {
            *value = 2.0 * (z * half_step);
        }
        let n = code_bytes(columns.sketcher.layout());
        let whole = n.next_multiple_of(TOGETHER);
        each_bit(values, columns.sketcher.layout(), whole, bits);
        let (mut most, mut squares) = (0.0f32, [0.0f64; TOGETHER]);
        for (bits, ranges) in bits.as_chunks::<4>().0.iter().zip(&mut *ranges) {
            ranges.resize(whole, 0.0);
            let [a, b, c, d] = bits;
            for ((((range, a), b), c), d) in ranges.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *range = (a.abs() + b.abs()) + (c.abs() + d.abs());
            }
            most = most.max(largest(ranges));
            for ranges in ranges.as_chunks::<TOGETHER>().0 {
                for (sum, &range) in squares.iter_mut().zip(ranges) {
                    *sum += f64::from(range) * f64::from(range);
                }
            }
        }
        let usual = SPREAD * (squares.iter().sum::<f64>() / (2 * n).max(1) as f64).sqrt();
        let narrow = (usual as f32).min(most).max(most * (NARROW / MOST));
        // Values too small to scale add nothing.
        let step = narrow / NARROW;
        let (step, inverse) = if step > 1e-30 { (step, 1.0 / step) } else { (0.0, 0.0) };
        *scale = step;
        tables.resize(whole, [[0; 16]; 2]);
        wide.clear();
        for (half, (bits, ranges)) in bits.as_chunks::<4>().0.iter().zip(ranges).enumerate() {
            let parts = bits.each_ref().map(|bits| bits.as_chunks::<TOGETHER>().0);
            for (i, tables) in tables.as_chunks_mut::<TOGETHER>().0.iter_mut().enumerate() {
                let made = together([&parts[0][i], &parts[1][i], &parts[2][i], &parts[3][i]], inverse);
                for (table, made) in tables.iter_mut().zip(made) {
                    table[half] = made;
                }
            }
            for (at, &range) in ranges.iter().enumerate() {
                if range > narrow {
                    let [low, high] = [0, 2].map(|bit| in_steps(bits[bit][at], bits[bit + 1][at], inverse));
                    let above = |code: usize| ((low[code % 4] + high[code / 4]) >> 6) as u8;
                    wide.push((2 * at + half, std::array::from_fn(above)));
                }
            }
        }
        tables.truncate(n);
    }

    /// One pair of tables a column, two columns together: codes have whole words.
    #[inline(always)]
    pub fn tables(&self) -> &[[[[u8; 16]; 2]; 2]] {
        self.tables.as_chunks().0
    }

    /// Of some halves, tables of what is to be multiplied by 64.
    #[inline(always)]
    pub fn wide(&self) -> &[(usize, [u8; 16])] {
        &self.wide
    }

    /// What the sums of entries are to be multiplied by.
    #[inline(always)]
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Whether this was prepared for such columns.
    pub(crate) fn fits(&self, columns: &ColumnsView<'_>) -> bool {
        self.tables.len() == columns.n
    }
}

/// What each bit of a row's `n` bytes of codes adds, where a step of a coordinate's code adds `values`.
#[inline(always)]
fn each_bit(values: &[f32], layout: &Layout, n: usize, bits: &mut [Vec<f32>; 8]) {
    for bits in &mut *bits {
        // Columns may be fewer than those of the last query: nothing of it is left beyond them.
        bits.clear();
        bits.resize(n, 0.0);
    }
    let mut at = 0;
    for (values, width) in values.as_chunks::<GROUP>().0.iter().zip(layout.widths()) {
        // Codes are packed so that coordinate p lies in byte p mod 4w, p / 4w fields up.
        let values = values.as_chunks::<NEIGHBORS>().0;
        for (bit, bits) in bits.iter_mut().enumerate() {
            let times = (1 << (bit % width)) as f32;
            let bits = &mut bits.as_chunks_mut::<NEIGHBORS>().0[at..][..width];
            for (bits, values) in bits.iter_mut().zip(&values[bit / width * width..][..width]) {
                let [a, b, c, d] = *values;
                *bits = [times * a, times * b, times * c, times * d];
            }
        }
        at += width;
    }
}

/// What the four values of two bits add above the least of it, in whole steps.
#[inline(always)]
fn in_steps(a: f32, b: f32, inverse: f32) -> [u32; 4] {
    let least = (if a < 0.0 { a } else { 0.0 }) + (if b < 0.0 { b } else { 0.0 });
    [0.0, a, b, a + b].map(|value| {
        let steps = (value - least) * inverse;
        u32::from(round_to_u16(if steps < MOST { steps } else { MOST }))
    })
}

/// Of some half bytes, whose bits add so much, the tables of what they add above the least of it, in steps of which the inverse is
/// given: the lower six bits.
#[inline(always)]
pub(crate) fn tables([a, b, c, d]: [&[f32; TOGETHER]; 4], inverse: f32) -> [[u8; 16]; TOGETHER] {
    std::array::from_fn(|at| {
        let (low, high) = (in_steps(a[at], b[at], inverse), in_steps(c[at], d[at], inverse));
        std::array::from_fn(|code| ((low[code % 4] + high[code / 4]) & 0x3f) as u8)
    })
}
