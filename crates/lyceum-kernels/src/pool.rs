//! One pool of threads for all kernels.
//!
//! [`parallel_for`] hands out task numbers to the caller and the workers, each claiming the next one when it
//! is free, and returns when all are done. A worker that comes late (asleep, or its core taken by another
//! process) is not waited for: only those that joined the job before it was closed. Workers spin for a moment before they sleep, so that a run of
//! small kernels wakes nobody. A call from inside a task, or while another thread holds the pool, runs on
//! the calling thread alone: never nested, never blocked, same result (a task's result may not depend on
//! who runs it).

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Condvar, Mutex, OnceLock};

/// How often a worker looks for work before it sleeps (some tens of microseconds).
const SPINS_BEFORE_SLEEP: u32 = 20_000;
/// More threads than this are never started.
pub const THREADS_MAX: usize = 256;

struct Shared {
    /// The number of the job (high half; workers wait for it to change), whether it is [`OPEN`] to workers,
    /// and how many have joined and not left ([`JOINED`]).
    state: AtomicU64,
    /// The next task to claim, and the number of tasks.
    next: AtomicUsize,
    n_tasks: AtomicUsize,
    /// The job: a `&(dyn Fn(usize) + Sync)` in two words, valid while it is open or a worker has joined.
    job: [AtomicUsize; 2],
    panicked: AtomicBool,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
}

const OPEN: u64 = 1 << 31;
const JOINED: u64 = OPEN - 1;

/// The job's number in a state.
fn number(state: u64) -> u32 {
    (state >> 32) as u32
}

struct Pool {
    shared: &'static Shared,
    /// Held by the thread whose job is running.
    owner: Mutex<()>,
    n_threads: usize,
}

static POOL: OnceLock<Pool> = OnceLock::new();

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Sets the number of threads; only the first call (or first kernel) counts.
///
/// Returns whether the pool now has that number.
pub fn set_threads(n: usize) -> bool {
    let n = n.clamp(1, THREADS_MAX);
    POOL.get_or_init(|| start(n)).n_threads == n
}

/// Threads that work on a kernel, the caller included.
pub fn threads() -> usize {
    pool().n_threads
}

fn pool() -> &'static Pool {
    POOL.get_or_init(|| start(std::thread::available_parallelism().map_or(1, |n| n.get()).min(THREADS_MAX)))
}

/// Runs `f(0), …, f(n_tasks - 1)` in no particular order on all threads and returns when all have ended.
///
/// # Panics
/// When a task panics, after the others have ended.
pub fn parallel_for(n_tasks: usize, f: impl Fn(usize) + Sync) {
    let pool = pool();
    let alone = n_tasks < 2 || pool.n_threads == 1 || INSIDE.get();
    let owner = if alone { None } else { pool.owner.try_lock().ok() };
    let Some(_owner) = owner else {
        (0..n_tasks).for_each(f);
        return;
    };
    let job: &(dyn Fn(usize) + Sync) = &f;
    // SAFETY: a fat reference is two words; it is only turned back by workers that joined, and this function
    // does not return before the job is closed and all of them have left, so the closure outlives every use.
    let words: [usize; 2] = unsafe { std::mem::transmute(job) };
    let shared = pool.shared;
    shared.job[0].store(words[0], Relaxed);
    shared.job[1].store(words[1], Relaxed);
    shared.n_tasks.store(n_tasks, Relaxed);
    shared.next.store(0, Relaxed);
    // The last job is closed and nobody is in it, so nobody else writes the state.
    let job_number = number(shared.state.load(Relaxed)).wrapping_add(1);
    shared.state.store(u64::from(job_number) << 32 | OPEN, SeqCst);
    if shared.sleepers.load(SeqCst) > 0 {
        let _guard = shared.sleep.lock().unwrap_or_else(|e| e.into_inner());
        shared.wake.notify_all();
    }
    INSIDE.set(true);
    let mine = catch_unwind(AssertUnwindSafe(|| claim(shared, job)));
    INSIDE.set(false);
    shared.state.fetch_and(!OPEN, AcqRel);
    let mut spins = 0u32;
    while shared.state.load(Acquire) & JOINED > 0 {
        spins += 1;
        if spins > SPINS_BEFORE_SLEEP { std::thread::yield_now() } else { std::hint::spin_loop() }
    }
    let others_panicked = shared.panicked.swap(false, AcqRel);
    if let Err(panic) = mine {
        resume_unwind(panic);
    }
    assert!(!others_panicked, "a task of a parallel kernel panicked: bug");
}

/// Stretches of [`parallel_stretches`] at most; more threads share them.
const STRETCHES_MAX: usize = 32;

/// What is left of a stretch of tasks: the first in the low half, the end in the high half; on a cache line of its own.
#[repr(align(64))]
struct Stretch(AtomicU64);

impl Stretch {
    fn set(&self, first: usize, end: usize) {
        self.0.store((end as u64 * HALF) | first as u64, Relaxed);
    }

    /// The first task that is left, or the last.
    fn take(&self, is_owner: bool) -> Option<usize> {
        let mut now = self.0.load(Relaxed);
        loop {
            let (first, end) = (now % HALF, now / HALF);
            if first >= end {
                return None;
            }
            let (task, left) = if is_owner { (first, now + 1) } else { (end - 1, now - HALF) };
            match self.0.compare_exchange_weak(now, left, Relaxed, Relaxed) {
                Ok(_) => return Some(task as usize),
                Err(changed) => now = changed,
            }
        }
    }
}

const HALF: u64 = 1 << 32;

/// [`parallel_for`] where each thread goes through a stretch of consecutive tasks, and takes from the ends of the
/// others' when it is done: for tasks that read a long stream piece by piece, so that what is fetched ahead of one is
/// the next one's.
pub fn parallel_stretches(n_tasks: usize, f: impl Fn(usize) + Sync) {
    let n = threads().min(n_tasks).min(STRETCHES_MAX);
    if n < 2 || n_tasks as u64 >= HALF {
        return parallel_for(n_tasks, f);
    }
    let stretches = [const { Stretch(AtomicU64::new(0)) }; STRETCHES_MAX];
    for (i, stretch) in stretches[..n].iter().enumerate() {
        stretch.set(i * n_tasks / n, (i + 1) * n_tasks / n);
    }
    parallel_for(n, |own| {
        for i in 0..n {
            let stretch = &stretches[(own + i) % n];
            while let Some(task) = stretch.take(i == 0) {
                f(task);
            }
        }
    });
}

/// Cuts `out` into pieces of `chunk_len` (the last may be shorter) and runs `f(piece index, piece)` on all
/// threads.
pub fn for_each_chunk<T: Send>(out: &mut [T], chunk_len: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if out.is_empty() {
        return;
    }
    let len = out.len();
    let base = SendPtr(out.as_mut_ptr());
    parallel_for(len.div_ceil(chunk_len), |i| {
        let start = i * chunk_len;
        let n = chunk_len.min(len - start);
        // SAFETY: pieces of different `i` do not overlap, each `i` runs once, and `out` is borrowed mutably
        // until `parallel_for` has returned.
        let piece = unsafe { std::slice::from_raw_parts_mut(base.get().add(start), n) };
        f(i, piece);
    });
}

/// A pointer that tasks of one kernel may share, each writing its own part.
#[derive(Clone, Copy)]
pub(crate) struct SendPtr<T>(pub(crate) *mut T);
// SAFETY: whoever uses the pointer inside a task writes a part that no other task touches.
unsafe impl<T> Send for SendPtr<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for SendPtr<T> {}
impl<T> SendPtr<T> {
    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

fn start(n_threads: usize) -> Pool {
    let shared: &'static Shared = Box::leak(Box::new(Shared {
        state: AtomicU64::new(0),
        next: AtomicUsize::new(0),
        n_tasks: AtomicUsize::new(0),
        job: [AtomicUsize::new(0), AtomicUsize::new(0)],
        panicked: AtomicBool::new(false),
        sleepers: AtomicUsize::new(0),
        sleep: Mutex::new(()),
        wake: Condvar::new(),
    }));
    for i in 1..n_threads {
        std::thread::Builder::new()
            .name(format!("kernel-{i}"))
            .spawn(move || work(shared))
            .expect("the system gives threads for the kernel pool");
    }
    Pool { shared, owner: Mutex::new(()), n_threads }
}

fn work(shared: &'static Shared) {
    INSIDE.set(true);
    let mut seen = 0;
    loop {
        seen = join_next_job(shared, seen);
        let words = [shared.job[0].load(Relaxed), shared.job[1].load(Relaxed)];
        // SAFETY: the words were made from such a reference by `parallel_for`, which does not return before
        // this worker has left the job.
        let job: &(dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(words) };
        if catch_unwind(AssertUnwindSafe(|| claim(shared, job))).is_err() {
            shared.panicked.store(true, Release);
        }
        shared.state.fetch_sub(1, AcqRel);
    }
}

/// Waits for a job other than `seen` that is open, joins it, and returns its number.
fn join_next_job(shared: &Shared, mut seen: u32) -> u32 {
    loop {
        let state = wait_for_job(shared, seen);
        seen = number(state);
        let mut now = state;
        while number(now) == seen && now & OPEN > 0 {
            match shared.state.compare_exchange_weak(now, now + 1, AcqRel, Acquire) {
                Ok(_) => return seen,
                Err(changed) => now = changed,
            }
        }
    }
}

fn wait_for_job(shared: &Shared, seen: u32) -> u64 {
    for _ in 0..SPINS_BEFORE_SLEEP {
        let state = shared.state.load(Acquire);
        if number(state) != seen {
            return state;
        }
        std::hint::spin_loop();
    }
    shared.sleepers.fetch_add(1, SeqCst);
    let mut guard = shared.sleep.lock().unwrap_or_else(|e| e.into_inner());
    while number(shared.state.load(SeqCst)) == seen {
        guard = shared.wake.wait(guard).unwrap_or_else(|e| e.into_inner());
    }
    drop(guard);
    shared.sleepers.fetch_sub(1, SeqCst);
    shared.state.load(Acquire)
}

fn claim(shared: &Shared, job: &(dyn Fn(usize) + Sync)) {
    let n_tasks = shared.n_tasks.load(Relaxed);
    loop {
        let i = shared.next.fetch_add(1, Relaxed);
        if i >= n_tasks {
            return;
        }
        job(i);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for n in [0, 1, 2, 7, 1000] {
            let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
            let count = |i: usize| {
                counts[i].fetch_add(1, Relaxed);
            };
            parallel_for(n, count);
            parallel_stretches(n, count);
            assert!(counts.iter().all(|c| c.load(Relaxed) == 2));
        }
    }

    #[test]
    fn a_stretch_is_taken_from_both_ends() {
        let stretch = Stretch(AtomicU64::new(0));
        stretch.set(3, 6);
        let taken = [true, false, false, true].map(|is_owner| stretch.take(is_owner));
        assert_eq!(taken, [Some(3), Some(5), Some(4), None]);
    }

    #[test]
    fn nested_and_concurrent_calls_end() {
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        parallel_for(3, |_| {
                            parallel_for(5, |_| {
                                total.fetch_add(1, Relaxed);
                            })
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(Relaxed), 4 * 200 * 15);
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_lives_on() {
        let result = catch_unwind(|| parallel_for(16, |i| assert!(i != 9)));
        assert!(result.is_err());
        every_task_runs_once();
    }

    #[test]
    fn chunks_cover_the_slice() {
        let mut v = vec![0usize; 103];
        for_each_chunk(&mut v, 10, |i, piece| piece.iter_mut().for_each(|x| *x = i + 1));
        assert_eq!(v.iter().filter(|&&x| x == 11).count(), 3);
        assert!(v.iter().all(|&x| x > 0));
    }
}
