//! The quantiser to Q4_K: a scale and a minimum for each 32 numbers by weighted least squares, then both in
//! six bits.
//!
//! A part of 32 numbers `x` is approximated by `scale · q − least` with `q` in 0..=15. For given `q` the best
//! `scale` and `least` are the solution of a 2 × 2 system; the `q` are those of twenty-one trial scales, and the trial
//! with the smallest weighted error wins. Large numbers weigh more (their size plus the root mean square):
//! they carry more of a product. After `scale` and `least` are rounded to six bits their neighbours are tried
//! too.

use super::quantise::inverse;
use half::f16;

/// Numbers of a part, parts of a block.
const PART: usize = 32;
const N_PARTS: usize = 8;
const Q_MAX: f32 = 15.0;
/// Scales and minima have six bits.
const SIX_BITS: f32 = 63.0;
/// Trial scales reach from `Q_MAX − 1` to `Q_MAX + 1` steps over the range of the part.
const N_TRIALS: usize = 21;
const TRIAL_FIRST: f32 = -1.0;
const TRIAL_STEP: f32 = 0.1;

/// Appends one block of 256 numbers.
pub(super) fn q4_k(x: &[f32], out: &mut Vec<u8>) {
    let mut fits = [Fit { scale: 0.0, least: 0.0 }; N_PARTS];
    for (fit, part) in fits.iter_mut().zip(x.chunks_exact(PART)) {
        *fit = best_fit(part);
    }
    let largest = |f: fn(&Fit) -> f32| fits.iter().map(f).fold(0.0f32, f32::max);
    let (scale_max, least_max) = (largest(|fit| fit.scale), largest(|fit| fit.least));
    let (d, d_least) = (f16::from_f32(scale_max / SIX_BITS), f16::from_f32(least_max / SIX_BITS));
    let six = |x: f32, max: f32| (x * inverse(max) * SIX_BITS).round_ties_even().min(SIX_BITS) as u8;
    let (d_of, least_of) = (d.to_f32(), d_least.to_f32());
    let (mut scales, mut leasts, mut q) = ([0u8; N_PARTS], [0u8; N_PARTS], [0u8; PART * N_PARTS]);
    for (j, (q, x)) in q.chunks_exact_mut(PART).zip(x.chunks_exact(PART)).enumerate() {
        let near = (six(fits[j].scale, scale_max), six(fits[j].least, least_max));
        let fit_of = |(s, l): (u8, u8)| Fit { scale: d_of * f32::from(s), least: least_of * f32::from(l) };
        let best = best_neighbour(near, |codes| error(x, fit_of(codes)));
        (scales[j], leasts[j]) = best;
        let fit = fit_of(best);
        let inverse = inverse(fit.scale);
        for (q, x) in q.iter_mut().zip(x) {
            *q = nearest((x + fit.least) * inverse) as u8;
        }
    }
    out.extend(d.to_le_bytes());
    out.extend(d_least.to_le_bytes());
    out.extend(pack_scales(&scales, &leasts));
    for pair in q.chunks_exact(2 * PART) {
        out.extend((0..PART).map(|i| pair[i] | pair[PART + i] << 4));
    }
}

/// `scale · q − least`, both of them at least 0.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    least: f32,
}

fn nearest(x: f32) -> f32 {
    x.round_ties_even().clamp(0.0, Q_MAX)
}

/// The pair of six-bit codes with the smallest error among `near` and those beside it.
fn best_neighbour(near: (u8, u8), error: impl Fn((u8, u8)) -> f32) -> (u8, u8) {
    let (mut best, mut best_error) = (near, error(near));
    for scale in near.0.saturating_sub(1)..=(near.0 + 1).min(63) {
        for least in near.1.saturating_sub(1)..=(near.1 + 1).min(63) {
            let error = error((scale, least));
            if error < best_error {
                (best, best_error) = ((scale, least), error);
            }
        }
    }
    best
}

/// What a number's error counts: its size, and the part's root mean square.
fn weights(x: &[f32]) -> impl Fn(f32) -> f32 + Copy {
    let root = (x.iter().map(|x| x * x).sum::<f32>() / PART as f32).sqrt();
    move |x| root + x.abs()
}

/// The weighted squared error of a part under a fit.
fn error(x: &[f32], fit: Fit) -> f32 {
    let (weight, inverse) = (weights(x), inverse(fit.scale));
    let one = |&x: &f32| {
        let difference = fit.scale * nearest((x + fit.least) * inverse) - fit.least - x;
        weight(x) * difference * difference
    };
    x.iter().map(one).sum()
}

fn best_fit(x: &[f32]) -> Fit {
    let weight = weights(x);
    let low = x.iter().copied().fold(0.0f32, f32::min);
    let high = x.iter().copied().fold(f32::MIN, f32::max);
    if high <= low {
        return Fit { scale: 0.0, least: -low };
    }
    let mut best = Fit { scale: (high - low) / Q_MAX, least: -low };
    let mut best_error = error(x, best);
    for trial in 0..N_TRIALS {
        let inverse = (TRIAL_FIRST + TRIAL_STEP * trial as f32 + Q_MAX) / (high - low);
        let Some(fit) = least_squares(x, weight, |x| nearest((x - low) * inverse)) else { continue };
        let error = error(x, fit);
        if error < best_error {
            (best, best_error) = (fit, error);
        }
    }
    best
}

/// The scale and minimum that fit `x` best for given `q`, if they exist.
fn least_squares(x: &[f32], weight: impl Fn(f32) -> f32, q: impl Fn(f32) -> f32) -> Option<Fit> {
    let (mut w, mut wq, mut wqq, mut wx, mut wqx) = (0.0f32, 0.0f32, 0.0f32, 0.0f32, 0.0f32);
    for &x in x {
        let (weight, q) = (weight(x), q(x));
        w += weight;
        wq += weight * q;
        wqq += weight * q * q;
        wx += weight * x;
        wqx += weight * q * x;
    }
    let determinant = w * wqq - wq * wq;
    if determinant <= 0.0 {
        return None;
    }
    let scale = (w * wqx - wx * wq) / determinant;
    let constant = (wqq * wx - wq * wqx) / determinant;
    // A positive constant cannot be stored: the best without one.
    let fit =
        if constant > 0.0 { Fit { scale: wqx / wqq, least: 0.0 } } else { Fit { scale, least: -constant } };
    (fit.scale > 0.0).then_some(fit)
}

/// Six bits each of eight scales and minima in twelve bytes.
fn pack_scales(scales: &[u8; 8], leasts: &[u8; 8]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..4 => scales[i] | scales[i + 4] >> 4 << 6,
        4..8 => leasts[i - 4] | leasts[i] >> 4 << 6,
        _ => scales[i - 4] & 15 | (leasts[i - 4] & 15) << 4,
    })
}
