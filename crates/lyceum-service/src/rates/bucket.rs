//! A token bucket in whole numbers: what it holds is exact, whatever the order and the moments of the questions.

use std::time::Duration;

/// Fills evenly, `limit` in each window, and holds `limit` at most.
///
/// The level is counted in limit · window parts (`level = tokens · window_ms`), so a millisecond adds exactly
/// `limit` and nothing is ever rounded.
#[derive(Clone, Debug)]
pub struct Bucket {
    window_ms: i128,
    level: i128,
    limit: i128,
    filled_at_ms: u64,
}

impl Bucket {
    /// A full one.
    pub fn new(window: Duration, limit: u64, now_ms: u64) -> Self {
        let window_ms = window.as_millis() as i128;
        let limit = i128::from(limit);
        Self { window_ms, level: limit * window_ms, limit, filled_at_ms: now_ms }
    }

    /// Fills it up to `now`, with the limit that holds from now on: what was used of the old one is used of the new one.
    pub fn fill(&mut self, limit: u64, now_ms: u64) {
        let elapsed = i128::from(now_ms.saturating_sub(self.filled_at_ms));
        self.level = (self.level + self.limit * elapsed).min(self.limit * self.window_ms);
        self.filled_at_ms = self.filled_at_ms.max(now_ms);
        self.level += (i128::from(limit) - self.limit) * self.window_ms;
        self.limit = i128::from(limit);
    }

    /// How long until `n` can be taken; zero: now; None: never.
    pub fn wait(&self, n: u64) -> Option<Duration> {
        let needed = i128::from(n) * self.window_ms;
        if n == 0 || needed <= self.level {
            return Some(Duration::ZERO);
        }
        if i128::from(n) > self.limit {
            return None;
        }
        Some(self.time_for(needed - self.level))
    }

    /// Takes `n`, also below nothing: a correction is not asked for.
    pub fn take(&mut self, n: u64) {
        self.level -= i128::from(n) * self.window_ms;
    }

    /// Gives back what was taken and not used.
    pub fn give_back(&mut self, n: u64) {
        self.level = (self.level + i128::from(n) * self.window_ms).min(self.limit * self.window_ms);
    }

    /// Whole ones that can be taken now.
    pub fn remaining(&self) -> u64 {
        u64::try_from(self.level.max(0) / self.window_ms).unwrap_or(u64::MAX)
    }

    /// How long until it is full.
    pub fn reset(&self) -> Duration {
        self.time_for(self.limit * self.window_ms - self.level)
    }

    pub fn is_full(&self) -> bool {
        self.level >= self.limit * self.window_ms
    }

    fn time_for(&self, missing: i128) -> Duration {
        if missing <= 0 {
            return Duration::ZERO;
        }
        if self.limit == 0 {
            return Duration::from_millis(self.window_ms as u64);
        }
        let ms = (missing + self.limit - 1) / self.limit;
        Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn it_fills_evenly_and_holds_its_limit_at_most() {
        let mut bucket = Bucket::new(MINUTE, 3, 0);
        assert_eq!((bucket.remaining(), bucket.reset()), (3, Duration::ZERO));
        for left in [2, 1, 0] {
            assert_eq!(bucket.wait(1), Some(Duration::ZERO));
            bucket.take(1);
            assert_eq!(bucket.remaining(), left);
        }
        assert_eq!((bucket.wait(1), bucket.reset()), (Some(Duration::from_secs(20)), MINUTE));
        bucket.fill(3, 19_999);
        assert_eq!((bucket.remaining(), bucket.wait(1)), (0, Some(Duration::from_millis(1))));
        bucket.fill(3, 20_000);
        assert_eq!(bucket.remaining(), 1);
        bucket.fill(3, 1 << 40);
        assert_eq!((bucket.remaining(), bucket.is_full(), bucket.wait(4)), (3, true, None));
    }

    #[test]
    fn what_is_used_stays_used_when_the_limit_moves() {
        let mut bucket = Bucket::new(MINUTE, 10, 0);
        bucket.take(4);
        bucket.fill(20, 0);
        assert_eq!(bucket.remaining(), 16);
        bucket.fill(5, 0);
        assert_eq!(bucket.remaining(), 1);
        bucket.fill(1, 0);
        assert_eq!((bucket.remaining(), bucket.wait(1)), (0, Some(Duration::from_secs(240))));
        bucket.fill(0, 0);
        assert_eq!((bucket.remaining(), bucket.wait(1), bucket.wait(0)), (0, None, Some(Duration::ZERO)));
        bucket.take(7);
        assert_eq!(bucket.remaining(), 0);
        bucket.give_back(100);
        assert_eq!(bucket.remaining(), 0);
    }

    proptest! {
        /// The slow twin keeps every taking and sums fractions of tokens as exact ratios: in any interval no more
        /// passes than the limit and what flowed in.
        #[test]
        fn no_interval_passes_more_than_its_limit_and_what_flowed_in(
            limit in 1u64..50,
            steps in proptest::collection::vec((0u64..20_000, 1u64..8), 1..60),
        ) {
            let mut bucket = Bucket::new(MINUTE, limit, 0);
            let (mut now, mut taken) = (0u64, Vec::new());
            for (wait, n) in steps {
                now += wait;
                bucket.fill(limit, now);
                if bucket.wait(n) == Some(Duration::ZERO) {
                    bucket.take(n);
                    taken.push((now, n));
                } else if n <= limit {
                    // What it says is the first moment at which it can be taken.
                    let wait = bucket.wait(n).unwrap().as_millis() as u64;
                    let mut early = bucket.clone();
                    early.fill(limit, now + wait - 1);
                    prop_assert!(early.wait(n) != Some(Duration::ZERO));
                    early.fill(limit, now + wait);
                    prop_assert_eq!(early.wait(n), Some(Duration::ZERO));
                }
                for (i, &(from, _)) in taken.iter().enumerate() {
                    let passed: u64 = taken[i..].iter().map(|(_, n)| n).sum();
                    prop_assert!(u128::from(passed) * 60_000 <= u128::from(limit) * (60_000 + u128::from(now - from)));
                }
            }
        }
    }
}
