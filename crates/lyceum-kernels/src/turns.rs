//! How long a thread keeps its core when others want it.
//!
//! A server's threads that read requests and write answers need a core for microseconds, beside kernels that would
//! keep theirs for as long as the system lets them. Knows nothing of what its callers do.

/// What the shortest turn is on Linux, in nanoseconds.
#[cfg(target_os = "linux")]
const SHORTEST: u64 = 100_000;

/// Asks that the calling thread be given a core at once when it wakes, and leave it again soon; its share of the
/// time stays what it was. Threads that it starts have the system's usual turns.
///
/// Returns whether the system took the wish: Linux from 6.12 on follows it (EEVDF's custom slices, `sched(7)`), an
/// older one takes it and does nothing, any other system refuses. A process of a negative niceness is left alone: its
/// threads' children would lose it.
#[cfg(target_os = "linux")]
pub fn short() -> bool {
    let size = size_of::<libc::sched_attr>();
    // SAFETY: a structure of integers; zero is a value of each.
    let mut wish: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes into `wish`, which lives until the call has returned; 0 is the
    // calling thread.
    let read = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut wish, size, 0) };
    if read != 0 || wish.sched_policy != libc::SCHED_OTHER as u32 || wish.sched_nice < 0 {
        return false;
    }
    wish.sched_runtime = SHORTEST;
    wish.sched_flags |= libc::SCHED_FLAG_RESET_ON_FORK as u64;
    // SAFETY: the kernel reads `wish.size` bytes of `wish`, as many as it wrote.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wish, 0) == 0 }
}

/// There is no such wish on this system.
#[cfg(not(target_os = "linux"))]
pub fn short() -> bool {
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    fn slice() -> (u64, i32) {
        // SAFETY: as in `short`.
        unsafe {
            let mut now: libc::sched_attr = std::mem::zeroed();
            let size = size_of::<libc::sched_attr>();
            assert_eq!(libc::syscall(libc::SYS_sched_getattr, 0, &raw mut now, size, 0), 0);
            (now.sched_runtime, now.sched_nice)
        }
    }

    /// Linux from 6.12 on.
    fn has_turns() -> bool {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut numbers = release.split(['.', '-']).map_while(|number| number.trim().parse::<u32>().ok());
        (numbers.next(), numbers.next()) >= (Some(6), Some(12))
    }

    /// Also that what such a thread starts is not hurried: kernels' threads are started by whoever computes first.
    #[test]
    fn a_thread_gets_short_turns_and_its_children_usual_ones() {
        let run = || {
            let (usual, nice) = slice();
            if nice < 0 || !has_turns() {
                eprintln!("skipped: this system has no turns of a thread's own, or the test is hurried");
                return;
            }
            assert!(super::short());
            assert_eq!(slice(), (super::SHORTEST, nice));
            let child = std::thread::spawn(slice).join().unwrap();
            assert_eq!(child, (usual, nice));
        };
        std::thread::spawn(run).join().unwrap();
    }
}
