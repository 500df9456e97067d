//! Jobs that threads share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lss_core::threads::Team;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Each job is done once, whoever does it, and however many are done before others are asked.
    #[test]
    fn every_job_is_done_once(jobs in 0usize..200, threads in 1usize..=4, slow in 0u64..3, alone: bool) {
        let team = Team::new(threads).unwrap();
        let done: Vec<AtomicUsize> = (0..jobs).map(|_| AtomicUsize::new(0)).collect();
        let job = |at: usize| {
            std::thread::sleep(Duration::from_micros(slow));
            done[at].fetch_add(1, Ordering::Relaxed);
        };
        let mut left = 0..jobs;
        if alone {
            team.begin_alone(&mut left, job);
            prop_assert!(threads == 1 || jobs > 16 || jobs == 0 || left.start > 0, "few jobs are begun");
        }
        let before = left.start;
        prop_assert!(done[..before].iter().all(|times| times.load(Ordering::Relaxed) == 1));
        team.share_out(left, job);
        prop_assert!(done.iter().all(|times| times.load(Ordering::Relaxed) == 1));
    }
}

#[test]
fn one_thread_does_jobs_in_order() {
    let order = std::sync::Mutex::new(Vec::new());
    Team::new(1).unwrap().share_out(0..50, |at| order.lock().unwrap().push(at));
    assert_eq!(order.into_inner().unwrap(), (0..50).collect::<Vec<usize>>());
}

#[test]
fn a_job_that_panics_is_heard_of() {
    let team = Team::new(2).unwrap();
    let bad = |at| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            team.share_out(0..40, |job| assert!(job != at, "job {job}"));
        }))
    };
    assert!((0..40).all(|at| bad(at).is_err()));
    assert!(bad(40).is_ok());
}

#[test]
fn too_many_threads_are_refused() {
    assert!(Team::new(1 << 20).is_err());
}
