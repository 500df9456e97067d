//! Blocks: aligned, bounds-checked, shared; matrices padded with zeros; pools of the size asked for.

mod common;

use common::{Rng, cases};
use lss_core::memory::{Block, Buffer, Bytes, LINE, Matrix, padded};
use lss_core::{Error, threads};
use proptest::prelude::*;

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn blocks_hold_what_they_were_given(values in prop::collection::vec(any::<u16>(), 0..=200)) {
        let block = Block::copy_of(&values);
        prop_assert_eq!(&block[..], &values[..]);
        prop_assert_eq!(block.as_ptr() as usize % LINE, 0);
        prop_assert_eq!(block.nbytes(), 2 * values.len());
        let clone = block.clone();
        prop_assert_eq!(clone.as_ptr(), block.as_ptr(), "clones share memory");
        drop(block);
        prop_assert_eq!(&clone[..], &values[..]);
    }

    /// Every cut is inside and aligned, or refused.
    #[test]
    fn cuts_are_checked(n in 0usize..=100, offset in 0usize..=110, len in 0usize..=40) {
        let bytes: Vec<u8> = (0..n as u8).collect();
        let whole = Bytes::copy_of(&bytes);
        prop_assert_eq!(&whole[..], &bytes[..]);
        match whole.block::<u32>(offset, len) {
            Ok(block) => {
                prop_assert!(offset + 4 * len <= n && offset % 4 == 0);
                prop_assert_eq!(bytemuck::cast_slice::<u32, u8>(&block), &bytes[offset..][..4 * len]);
            }
            Err(error) => {
                prop_assert!(offset + 4 * len > n || offset % 4 != 0);
                let format = matches!(error, Error::Format { .. });
                prop_assert!(format, "{error:?}");
            }
        }
        for (offset, len) in [(offset, usize::MAX), (usize::MAX, len), (usize::MAX, usize::MAX), (4, usize::MAX / 4), (0, usize::MAX / 4 + 1)] {
            prop_assert!(whole.block::<u32>(offset, len).is_err());
        }
    }

    #[test]
    fn matrices_are_padded_with_zeros(seed: u64, rows in 0usize..=9, cols in 0usize..=100) {
        let values = Rng(seed).vector(rows * cols, Rng::normal);
        let matrix = Matrix::new(rows, cols, &values);
        prop_assert_eq!((matrix.rows(), matrix.cols(), matrix.stride()), (rows, cols, padded(cols)));
        prop_assert_eq!(matrix.values().len(), rows * padded(cols));
        for i in 0..rows {
            let row = &matrix.values()[i * matrix.stride()..][..matrix.stride()];
            prop_assert_eq!(&row[..cols], &values[i * cols..][..cols]);
            prop_assert!(row[cols..].iter().all(|&value| value == 0.0));
        }
        let again = Matrix::from_padded(rows, cols, matrix.values().clone()).unwrap();
        prop_assert_eq!(again.values().as_ptr(), matrix.values().as_ptr());
        prop_assert!(Matrix::from_padded(rows + 1, cols.max(1), matrix.values().clone()).is_err());
        prop_assert!(Matrix::from_padded(usize::MAX, cols.max(1), matrix.values().clone()).is_err());
    }
}

#[test]
fn buffers_become_blocks() {
    let mut buffer = Buffer::<f32>::zeroed(33);
    assert!(buffer.iter().all(|&value| value == 0.0) && buffer.len() == 33);
    buffer[32] = 2.5;
    let at = buffer.as_ptr();
    let block = buffer.freeze();
    assert_eq!((block.as_ptr(), block[32], block.len()), (at, 2.5, 33), "without a copy");
}

#[test]
fn reading_too_little_is_an_error() {
    assert_eq!(&Bytes::read(&b"abc"[..], 3).unwrap()[..], b"abc");
    assert_eq!(&Bytes::read(&b"abc"[..], 2).unwrap()[..], b"ab");
    assert!(Bytes::read(&b"abc"[..], 4).is_err());
}

#[test]
fn pools_have_the_threads_asked_for() {
    for n in [1, 2, 5] {
        assert_eq!(threads::install(n, rayon::current_num_threads).unwrap(), n);
    }
    // A pool may be entered from another.
    assert_eq!(threads::install(2, || threads::install(3, rayon::current_num_threads).unwrap()).unwrap(), 3);
    for n in [4097, usize::MAX] {
        assert!(matches!(threads::install(n, || ()), Err(Error::Value { arg: "num_threads", .. })));
        assert!(matches!(threads::set_num_threads(n), Err(Error::Value { arg: "n", .. })));
    }
    // The only test of this process that changes the default.
    let default = threads::get_num_threads();
    threads::set_num_threads(3).unwrap();
    assert_eq!(threads::get_num_threads(), 3);
    assert_eq!(threads::install(0, rayon::current_num_threads).unwrap(), 3);
    threads::set_num_threads(0).unwrap();
    assert_eq!(threads::get_num_threads(), default);
}

/// Run by the test below in processes of their own.
#[test]
fn threads_are_as_many_as_asked_for() {
    if let Ok(expected) = std::env::var("LSS_EXPECT_THREADS") {
        assert_eq!(threads::get_num_threads().to_string(), expected);
    }
}

#[test]
fn the_environment_chooses_the_number_of_threads() {
    let cores = std::thread::available_parallelism().unwrap().get().to_string();
    for (asked, expected) in
        [("3", "3"), ("0", &cores), ("", &cores), ("-1", &cores), ("many", &cores), ("99999", &cores)]
    {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "threads_are_as_many_as_asked_for"]);
        let output =
            child.env("LSS_NUM_THREADS", asked).env("LSS_EXPECT_THREADS", expected).output().unwrap();
        assert!(
            output.status.success(),
            "LSS_NUM_THREADS={asked}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the child ran its test");
    }
}
