//! The ceiling that products are measured against: multiply-adds on registers, nothing else.

use super::Precision;
use super::tile::{PeakFn, peak_of};
use crate::cpu::CpuPath;

/// Runs `steps` multiply-adds on each of twelve vectors and returns the operations done (two per
/// multiply-add), for a benchmark to divide by the time it took. With [`Precision::Bf16`] the instruction of
/// AVX512_BF16 where the processor has it, else the f32 one.
pub fn multiply_adds(path: CpuPath, precision: Precision, steps: usize) -> f64 {
    let (lanes, run): (usize, PeakFn) = peak_of(path, precision);
    // SAFETY: `peak_of` gives a function of this processor, `path` being one of its paths.
    std::hint::black_box(unsafe { run(steps, std::hint::black_box(0.5)) });
    (steps * 12 * lanes * 2) as f64
}
