//! What the tests of kernels share.

use crate::cpu;

/// Runs `f` under every path that this processor has.
pub(crate) fn each_path(f: impl Fn()) {
    for &path in cpu::available() {
        cpu::with_path(path, &f);
    }
}

/// Numbers in `[-1, 1)` from a seed (splitmix64).
pub(crate) fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..n).map(|_| (next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

/// Fails unless `got` is within `tolerance · max(1, |want|)` of `want`.
#[track_caller]
pub(crate) fn close(got: f32, want: f64, tolerance: f64) {
    let error = (got as f64 - want).abs();
    let path = cpu::path();
    assert!(error <= tolerance * want.abs().max(1.0), "{path:?}: {got} is not {want} (error {error:.2e})");
}
