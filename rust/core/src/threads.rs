//! The thread pool: how many threads batches and builds use. One query never comes here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

struct Pools {
    /// A forked child has the pools' memory but not their threads.
    process: u32,
    default: usize,
    by_size: BTreeMap<usize, Arc<ThreadPool>>,
}

static POOLS: Mutex<Pools> = Mutex::new(Pools { process: 0, default: 0, by_size: BTreeMap::new() });

/// More threads than any machine has.
const MAX_THREADS: usize = 4096;

fn pools() -> std::sync::MutexGuard<'static, Pools> {
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if pools.process != process {
        // Dropping a pool would wait for threads that this process does not have.
        std::mem::forget(std::mem::take(&mut pools.by_size));
        pools.process = process;
    }
    pools
}

/// The number of threads that batches use unless a call says otherwise: what was set, else `LSS_NUM_THREADS`,
/// else one a core.
pub fn get_num_threads() -> usize {
    let set = pools().default;
    if set > 0 {
        return set;
    }
    let asked = std::env::var("LSS_NUM_THREADS").ok().and_then(|n| n.parse().ok());
    asked
        .filter(|n| (1..=MAX_THREADS).contains(n))
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get))
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
    let n = if n == 0 { get_num_threads() } else { n };
    if n > MAX_THREADS {
        return Err(Error::value("num_threads", format!("at most {MAX_THREADS}"), n));
    }
    let pool = {
        let mut pools = pools();
        match pools.by_size.get(&n) {
            Some(pool) => Arc::clone(pool),
            None => {
                let pool = ThreadPoolBuilder::new()
                    .num_threads(n)
                    .thread_name(|i| format!("lss-{i}"))
                    .build()
                    .map_err(|error| Error::Io(std::io::Error::other(error)))?;
                let pool = Arc::new(pool);
                pools.by_size.insert(n, Arc::clone(&pool));
                pool
            }
        }
    };
    Ok(pool.install(job))
}
