//! The thread pool: how many threads batches and builds use. One query never comes here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

struct Pools {
    /// A forked child has the pools' memory but not their threads.
    process: u32,
    default: usize,
    by_size: BTreeMap<(Use, usize), Arc<ThreadPool>>,
}

/// What pools are for: no search should wait for a fit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Builds,
    Searches,
}

static POOLS: Mutex<Pools> = Mutex::new(Pools { process: 0, default: 0, by_size: BTreeMap::new() });

/// More threads than any machine has.
const MAX_THREADS: usize = 4096;

/// Where nothing is set. Asking the system takes as long as several searches, and so it is asked once.
static BY_ENVIRONMENT: LazyLock<usize> = LazyLock::new(|| {
    let asked = std::env::var("LSS_NUM_THREADS").ok().and_then(|n| n.parse().ok());
    asked
        .filter(|n| (1..=MAX_THREADS).contains(n))
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get))
});

/// What it takes until another thread has come, about: less work is not shared.
const UNTIL_OTHERS_COME: Duration = Duration::from_micros(100);

/// So long a thread waits for others before it sleeps.
const AWAKE: Duration = Duration::from_micros(200);

/// Of more jobs than these it is not asked whether they are worth being shared.
const FEW_JOBS: usize = 16;

/// Lock, whatever became of the thread that held it last.
pub(crate) fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pools() -> MutexGuard<'static, Pools> {
    let mut pools = lock(&POOLS);
    let process = std::process::id();
    if pools.process != process {
        // Dropping a pool would wait for threads that this process does not have.
        std::mem::forget(std::mem::take(&mut pools.by_size));
        pools.process = process;
    }
    pools
}

/// The number of threads that batches use unless a call says otherwise: what was set, else `LSS_NUM_THREADS` as it was when it was
/// first asked for, else one a core.
pub fn get_num_threads() -> usize {
    match pools().default {
        0 => *BY_ENVIRONMENT,
        set => set,
    }
}

/// Set it; 0 goes back to the environment's choice.
pub fn set_num_threads(n: usize) -> Result<()> {
    if n > MAX_THREADS {
        return Err(Error::value("n", format!("at most {MAX_THREADS} threads"), n));
    }
    pools().default = n;
    Ok(())
}

/// Run `job` on a pool of `n` threads (0: the default number).
pub fn install<R: Send>(n: usize, job: impl FnOnce() -> R + Send) -> Result<R> {
    Ok(pool(Use::Builds, or_default(n)?)?.install(job))
}

fn or_default(n: usize) -> Result<usize> {
    match n {
        0 => Ok(get_num_threads()),
        1..=MAX_THREADS => Ok(n),
        _ => Err(Error::value("num_threads", format!("at most {MAX_THREADS}"), n)),
    }
}

fn pool(of: Use, n: usize) -> Result<Arc<ThreadPool>> {
    let mut pools = pools();
    if let Some(pool) = pools.by_size.get(&(of, n)) {
        return Ok(Arc::clone(pool));
    }
    let pool = ThreadPoolBuilder::new()
        .num_threads(n)
        .thread_name(|i| format!("lss-{i}"))
        .build()
        .map_err(|error| Error::Io(std::io::Error::other(error)))?;
    let pool = Arc::new(pool);
    pools.by_size.insert((of, n), Arc::clone(&pool));
    Ok(pool)
}

/// The calling thread, and others that it can ask for help.
pub struct Team {
    threads: usize,
    /// The others; none of one thread.
    pool: Option<Arc<ThreadPool>>,
}

impl Team {
    /// Of `n` threads in all (0: the default number).
    pub fn new(n: usize) -> Result<Self> {
        let threads = or_default(n)?;
        let pool = if threads > 1 { Some(pool(Use::Searches, threads - 1)?) } else { None };
        Ok(Team { threads, pool })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Where there are few jobs do them alone, until what they take says that others are worth being asked for the rest.
    pub fn begin_alone<J>(&self, jobs: &mut impl ExactSizeIterator<Item = J>, job: impl Fn(J)) {
        if self.threads == 1 || jobs.len() > FEW_JOBS {
            return;
        }
        let begin = Instant::now();
        for done in 1.. {
            let Some(next) = jobs.next() else { return };
            job(next);
            if begin.elapsed() * jobs.len() as u32 > UNTIL_OTHERS_COME * done {
                return;
            }
        }
    }

    /// Do all of these jobs: this thread the first, the others the last, so that what each does lies together.
    pub fn share_out<J>(
        &self,
        jobs: impl DoubleEndedIterator<Item = J> + ExactSizeIterator + Send,
        job: impl Fn(J) + Sync,
    ) {
        let (Some(pool), 2..) = (&self.pool, jobs.len()) else { return jobs.for_each(job) };
        let others = jobs.len().min(self.threads) - 1;
        let (jobs, job) = (&Mutex::new(jobs), &job);
        let first = || lock(jobs).next();
        let last = || lock(jobs).next_back();
        let working = &AtomicUsize::new(others);
        pool.in_place_scope(|scope| {
            for _ in 0..others {
                scope.spawn(|_| {
                    std::iter::from_fn(last).for_each(job);
                    working.fetch_sub(1, Ordering::Release);
                });
            }
            std::iter::from_fn(first).for_each(job);
            // They are about to be done; who sleeps meanwhile wakes late.
            let begin = Instant::now();
            while working.load(Ordering::Acquire) > 0 && begin.elapsed() < AWAKE {
                std::hint::spin_loop();
            }
        });
    }
}
