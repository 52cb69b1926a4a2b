//! Whether the likeliest token is the right one. Legend: `V` vocabulary.

use lyceum_kernels::pool;
use std::sync::atomic::{AtomicU64, Ordering};

/// Rows that one thread looks through at once.
const ROWS_AT_ONCE: usize = 8;
/// Numbers that are compared before an early end is looked for.
const COMPARED_AT_ONCE: usize = 256;

/// Whether no other of the logits `[V]` is above that of `target`; never, where one is not a number.
pub(crate) fn is_likeliest(logits: &[f32], target: i32) -> bool {
    let own = logits[target as usize];
    // Without an end within a stretch its comparisons run side by side.
    logits.chunks(COMPARED_AT_ONCE).all(|some| some.iter().fold(true, |all, other| all & (*other <= own)))
}

/// How many rows of `logits`, `[targets, V]`, have their target as the likeliest.
pub(crate) fn count(logits: &[f32], targets: &[i32]) -> u64 {
    let (width, n) = (logits.len() / targets.len().max(1), AtomicU64::new(0));
    pool::parallel_for(targets.len().div_ceil(ROWS_AT_ONCE), |part| {
        let rows = part * ROWS_AT_ONCE..targets.len().min((part + 1) * ROWS_AT_ONCE);
        let right = rows.filter(|row| is_likeliest(&logits[row * width..(row + 1) * width], targets[*row]));
        n.fetch_add(right.count() as u64, Ordering::Relaxed);
    });
    n.into_inner()
}

#[cfg(test)]
mod tests {
    use super::{count, is_likeliest};

    #[test]
    fn rows_are_right_where_nothing_is_above_their_target() {
        let width = 600;
        let targets: Vec<i32> = (0..40).map(|row| row * 14).collect();
        let mut logits = vec![0.0; targets.len() * width];
        for (row, target) in targets.iter().enumerate() {
            logits[row * width + *target as usize] = 1.0;
        }
        assert_eq!(count(&logits, &targets), 40);
        logits[width - 1] = 1.5;
        logits[3 * width] = f32::NAN;
        assert_eq!(count(&logits, &targets), 38);
        assert!(is_likeliest(&[0.5, 0.5], 1), "as likely as another");
        assert_eq!(count(&[], &[]), 0);
    }
}
