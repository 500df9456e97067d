//! Immutable, shared memory: on the heap, aligned to cache lines, mapped from a file, or lent by a caller.

use std::any::Any;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use memmap2::{Mmap, MmapMut};

use crate::error::{Error, Result};

/// Bytes of a cache line, and the alignment of every block in memory and in files.
pub const LINE: usize = 64;

/// From so many bytes on memory comes in huge pages, where the system has them: a search reads here and there, and
/// would else wait for the address of every small page.
const HUGE: usize = 2 << 20;

/// Bytes of rows that stay in the second-level cache while queries are scored against them.
pub(crate) const BLOCK_BYTES: usize = 256 * 1024;

/// A cache line of memory.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; LINE]);

#[derive(Clone)]
enum Owner {
    Heap(Arc<Vec<Line>>),
    Pages(Arc<MmapMut>),
    Map(Arc<Mmap>),
    Lent(Arc<Lent>),
}

/// Memory of a caller's, and what keeps it alive.
struct Lent {
    at: *const u8,
    len: usize,
    _keep: Box<dyn Any + Send + Sync>,
}

// SAFETY: this memory is only read, and what keeps it alive can go to other threads.
unsafe impl Send for Lent {}
// SAFETY: as above.
unsafe impl Sync for Lent {}

impl Owner {
    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            Owner::Heap(lines) => bytemuck::cast_slice(lines),
            Owner::Pages(pages) => pages,
            Owner::Map(map) => map,
            // SAFETY: whoever lent it has promised that so many bytes are there, and stay what they are.
            Owner::Lent(lent) => unsafe { std::slice::from_raw_parts(lent.at, lent.len) },
        }
    }
}

/// A whole file or buffer from which blocks are cut.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    len: usize,
}

impl Bytes {
    /// Copy `bytes` into aligned memory.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Buffer::<u8>::zeroed(bytes.len());
        buffer.copy_from_slice(bytes);
        let block = buffer.freeze();
        Bytes { owner: block.owner, len: bytes.len() }
    }

    /// Read `len` bytes into aligned memory.
    pub fn read(mut from: impl std::io::Read, len: usize) -> std::io::Result<Self> {
        let mut buffer = Buffer::<u8>::zeroed(len);
        from.read_exact(&mut buffer)?;
        Ok(Bytes { owner: buffer.freeze().owner, len })
    }

    /// Keep a mapped file alive.
    pub fn mapped(map: Mmap) -> Self {
        let len = map.len();
        Bytes { owner: Owner::Map(Arc::new(map)), len }
    }

    /// Use memory of a caller's in place.
    ///
    /// # Safety
    /// The bytes are there, and nobody writes to them, for as long as `keep` is not dropped.
    pub unsafe fn lent(bytes: *const [u8], keep: impl Any + Send + Sync) -> Self {
        let len = bytes.len();
        Bytes { owner: Owner::Lent(Arc::new(Lent { at: bytes.cast(), len, _keep: Box::new(keep) })), len }
    }

    /// Cut out `len` elements of `T` that begin `offset` bytes in.
    pub fn block<T: Pod>(&self, offset: usize, len: usize) -> Result<Block<T>> {
        let size = len.checked_mul(size_of::<T>()).and_then(|size| size.checked_add(offset));
        if size.is_none_or(|end| end > self.len) {
            return Err(Error::format(
                format!("{len} elements at byte {offset}"),
                format!("{} bytes", self.len),
            ));
        }
        if !(self[offset..].as_ptr() as usize).is_multiple_of(align_of::<T>()) {
            return Err(Error::format("aligned blocks", format!("a block at byte {offset}")));
        }
        Ok(Block { owner: self.owner.clone(), offset, len, element: PhantomData })
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.owner.bytes()[..self.len]
    }
}

/// An immutable array that begins on a cache line when built here. Clones share memory.
#[derive(Clone)]
pub struct Block<T> {
    owner: Owner,
    offset: usize,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Pod> Block<T> {
    /// Copy `values` into aligned memory.
    pub fn copy_of(values: &[T]) -> Self {
        let mut buffer = Buffer::zeroed(values.len());
        buffer.copy_from_slice(values);
        buffer.freeze()
    }

    /// Bytes held.
    pub fn nbytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// `len` elements from `first` on, in the same memory. Panics if there are fewer.
    pub fn part(&self, first: usize, len: usize) -> Self {
        assert!(first.checked_add(len).is_some_and(|end| end <= self.len), "elements that exist");
        Block { offset: self.offset + first * size_of::<T>(), len, ..self.clone() }
    }
}

impl<T: Pod> Deref for Block<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        let bytes = self.owner.bytes();
        bytemuck::cast_slice(&bytes[self.offset..self.offset + self.len * size_of::<T>()])
    }
}

/// A block while it is being written.
pub struct Buffer<T> {
    room: Room,
    len: usize,
    element: PhantomData<T>,
}

enum Room {
    Lines(Vec<Line>),
    Pages(MmapMut),
}

impl Room {
    fn zeroed(bytes: usize) -> Self {
        if bytes >= HUGE
            && let Ok(pages) = MmapMut::map_anon(bytes.next_multiple_of(LINE))
        {
            // A wish: where there are no huge pages small ones do.
            #[cfg(target_os = "linux")]
            let _ = pages.advise(memmap2::Advice::HugePage);
            return Room::Pages(pages);
        }
        Room::Lines(vec![Line::zeroed(); bytes.div_ceil(LINE)])
    }
}

impl<T: Pod> Buffer<T> {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        Buffer { room: Room::zeroed(len * size_of::<T>()), len, element: PhantomData }
    }

    /// Stop writing, start sharing.
    pub fn freeze(self) -> Block<T> {
        let owner = match self.room {
            Room::Lines(lines) => Owner::Heap(Arc::new(lines)),
            Room::Pages(pages) => Owner::Pages(Arc::new(pages)),
        };
        Block { owner, offset: 0, len: self.len, element: PhantomData }
    }
}

impl<T: Pod> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match &self.room {
            Room::Lines(lines) => &bytemuck::cast_slice(lines)[..self.len],
            Room::Pages(pages) => &bytemuck::cast_slice(pages)[..self.len],
        }
    }
}

impl<T: Pod> std::ops::DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.room {
            Room::Lines(lines) => &mut bytemuck::cast_slice_mut(lines)[..self.len],
            Room::Pages(pages) => &mut bytemuck::cast_slice_mut(pages)[..self.len],
        }
    }
}

/// A small matrix whose rows are zero-padded to whole dot-product steps, so that kernels see no tail.
#[derive(Clone)]
pub struct Matrix<T = f32> {
    rows: usize,
    cols: usize,
    values: Block<T>,
}

impl<T: Pod> Matrix<T> {
    /// Lay out `rows` x `cols` row-major values.
    pub fn new(rows: usize, cols: usize, values: &[T]) -> Self {
        debug_assert_eq!(values.len(), rows * cols);
        let stride = padded(cols);
        let mut buffer = Buffer::zeroed(rows * stride);
        if cols > 0 {
            for (to, from) in buffer.chunks_exact_mut(stride).zip(values.chunks_exact(cols)) {
                to[..cols].copy_from_slice(from);
            }
        }
        Matrix { rows, cols, values: buffer.freeze() }
    }

    /// Take rows that are padded already (as a file holds them).
    pub fn from_padded(rows: usize, cols: usize, values: Block<T>) -> Result<Self> {
        let stride = cols.checked_next_multiple_of(crate::kernels::LANES);
        if Some(values.len()) != stride.and_then(|stride| rows.checked_mul(stride)) {
            return Err(Error::format(
                format!("{rows} padded rows of {cols}"),
                format!("{} values", values.len()),
            ));
        }
        let dirty = |padding: &[T]| bytemuck::cast_slice::<T, u8>(padding).iter().any(|&byte| byte != 0);
        if values.chunks(padded(cols).max(1)).any(|row| dirty(&row[cols..])) {
            return Err(Error::format("padding of zeros", "other values"));
        }
        Ok(Matrix { rows, cols, values })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns without padding.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Values from one row to the next.
    pub fn stride(&self) -> usize {
        padded(self.cols)
    }

    /// All values, padded.
    pub fn values(&self) -> &Block<T> {
        &self.values
    }
}

/// The length of a vector once zero-padded to whole dot-product steps.
#[inline]
pub fn padded(len: usize) -> usize {
    len.next_multiple_of(crate::kernels::LANES)
}

/// Make `out` this vector, and zeros up to its padded length.
pub fn pad(vector: &[f32], out: &mut Vec<f32>) {
    out.clear();
    out.extend_from_slice(vector);
    out.resize(padded(vector.len()), 0.0);
}
