//! Group normalisation: each example's channels in groups, each group normalised alone (Wu & He 2018).
//!
//! Legend: `[B, C, N]`, `G` groups of `C / G` neighbouring channels; mean and biased variance over the
//! `M = C / G · N` numbers of a group; γ and β per channel.

use crate::batch_norm::{ChannelShape, Line, centered_affine, combine, squared_deviations, sums_of, total};
use crate::elementwise::Write;
use crate::row::{Parts, parallel_rows};
use crate::simd::on_path;
use crate::{cpu, pool};

/// `y = γ · (x − mean) · inv_std + β`; `mean` and `inv_std` `[B, G]` are written for the way back.
pub fn group_norm_forward(
    shape: ChannelShape,
    groups: usize,
    eps: f32,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    y: &mut [f32],
    mean: &mut [f32],
    inv_std: &mut [f32],
) {
    let n_groups = check(shape, groups, &[x.len(), y.len()], &[gamma.len(), beta.len()]);
    assert!(mean.len() == n_groups && inv_std.len() == n_groups, "group_norm: statistics of {shape:?}");
    let (per_group, m) = (shape.channels / groups, shape.channels / groups * shape.n);
    let (path, y, mean, inv_std) = (cpu::path(), Parts::new(y), Parts::new(mean), Parts::new(inv_std));
    parallel_rows(n_groups, m, |range| {
        for i in range {
            let of_group = &x[i * m..][..m];
            let mu = on_path!(path, total(of_group: &[f32]) -> f32) / m as f32;
            let squares = on_path!(path, squared_deviations(of_group: &[f32], mu: f32) -> f32);
            let inv = (1.0 / (squares as f64 / m as f64 + eps as f64).sqrt()) as f32;
            // SAFETY: tasks take different groups.
            let y = unsafe {
                mean.part(i, 1)[0] = mu;
                inv_std.part(i, 1)[0] = inv;
                y.part(i * m, m)
            };
            for (j, (x, y)) in of_group.chunks_exact(shape.n).zip(y.chunks_exact_mut(shape.n)).enumerate() {
                let c = i % groups * per_group + j;
                let (factor, beta) = (gamma[c] * inv, beta[c]);
                on_path!(path, centered_affine(x: &[f32], mu: f32, factor: f32, beta: f32, y: &mut [f32]));
            }
        }
    });
}

/// `dx (+)= inv_std · (γ·dy − S/M − x̂ · P/M)`, with `S = Σ γ·dy` and `P = Σ γ·dy·x̂` over the group.
pub fn group_norm_backward_input(
    shape: ChannelShape,
    groups: usize,
    x: &[f32],
    mean: &[f32],
    inv_std: &[f32],
    gamma: &[f32],
    dy: &[f32],
    write: Write,
    dx: &mut [f32],
) {
    let n_groups = check(shape, groups, &[x.len(), dy.len(), dx.len()], &[gamma.len()]);
    let (per_group, n) = (shape.channels / groups, shape.n);
    let m = per_group * n;
    let (path, dx) = (cpu::path(), Parts::new(dx));
    parallel_rows(n_groups, m, |range| {
        for i in range {
            let (x, dy) = (&x[i * m..][..m], &dy[i * m..][..m]);
            // SAFETY: tasks take different groups.
            let dx = unsafe { dx.part(i * m, m) };
            let gammas = &gamma[i % groups * per_group..][..per_group];
            let (mu, inv) = (mean[i], inv_std[i] as f64);
            let (mut sum, mut product) = (0.0f64, 0.0f64);
            for (j, &g) in gammas.iter().enumerate() {
                let (x, dy) = (&x[j * n..][..n], &dy[j * n..][..n]);
                let [s, p] = on_path!(path, sums_of(x: &[f32], mu: f32, dy: &[f32]) -> [f32; 2]);
                sum += g as f64 * s as f64;
                product += g as f64 * p as f64;
            }
            let slope = (-inv * inv * inv * product / m as f64) as f32;
            let offset = (-inv * sum / m as f64) as f32;
            for (j, &g) in gammas.iter().enumerate() {
                let (x, dy, dx) = (&x[j * n..][..n], &dy[j * n..][..n], &mut dx[j * n..][..n]);
                let line = Line { factor: g * inv as f32, slope, mean: mu, offset, write };
                on_path!(path, combine(line: Line, x: &[f32], dy: &[f32], dx: &mut [f32]));
            }
        }
    });
}

/// `dgamma (+)= Σ dy · x̂`, `dbeta (+)= Σ dy`, over examples and positions.
pub fn group_norm_backward_weight(
    shape: ChannelShape,
    groups: usize,
    x: &[f32],
    mean: &[f32],
    inv_std: &[f32],
    dy: &[f32],
    dgamma: Option<(&mut [f32], Write)>,
    dbeta: Option<(&mut [f32], Write)>,
) {
    check(shape, groups, &[x.len(), dy.len()], &[]);
    let (per_group, n, path) = (shape.channels / groups, shape.n, cpu::path());
    let slots = [dgamma, dbeta].map(|slot| {
        slot.map(|(d, write)| {
            assert_eq!(d.len(), shape.channels, "group_norm: gradients of {shape:?}");
            (Parts::new(d), write)
        })
    });
    pool::parallel_for(shape.channels, |c| {
        let (mut sum, mut product) = (0.0f64, 0.0f64);
        for b in 0..shape.batch {
            let (at, group) = ((b * shape.channels + c) * n, b * groups + c / per_group);
            let (x, dy, mu) = (&x[at..][..n], &dy[at..][..n], mean[group]);
            let [s, p] = on_path!(path, sums_of(x: &[f32], mu: f32, dy: &[f32]) -> [f32; 2]);
            sum += s as f64;
            product += p as f64 * inv_std[group] as f64;
        }
        for (slot, value) in slots.iter().zip([product, sum]) {
            if let Some((parts, write)) = slot {
                // SAFETY: each channel is one task.
                let d = unsafe { parts.part(c, 1) };
                d[0] = value as f32 + if *write == Write::Add { d[0] } else { 0.0 };
            }
        }
    });
}

/// Asserts lengths; the number of groups in the batch.
fn check(shape: ChannelShape, groups: usize, full: &[usize], per_channel: &[usize]) -> usize {
    assert!(groups > 0 && shape.channels.is_multiple_of(groups), "group_norm: {groups} groups of {shape:?}");
    assert!(full.iter().all(|&len| len == shape.len()), "group_norm: tensors of {shape:?}");
    assert!(per_channel.iter().all(|&len| len == shape.channels), "group_norm: weights of {shape:?}");
    shape.batch * groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, each_path, numbers};

    #[test]
    fn forward_and_backward_agree_with_the_formula_on_every_path() {
        for (batch, channels, n, groups) in [(3, 4, 35, 2), (2, 6, 1, 3), (4, 5, 9, 5), (2, 6, 17, 1)] {
            let s = ChannelShape { batch, channels, n };
            let (x, dy) = (numbers(s.len(), 1), numbers(s.len(), 2));
            let (gamma, beta) = (numbers(channels, 3), numbers(channels, 4));
            let (m, eps) = (channels / groups * n, 1e-5);
            each_path(|| {
                let (mut y, mut dx) = (vec![0.0; s.len()], vec![1.0; s.len()]);
                let (mut mean, mut inv) = (vec![0.0; batch * groups], vec![0.0; batch * groups]);
                group_norm_forward(s, groups, eps, &x, &gamma, &beta, &mut y, &mut mean, &mut inv);
                group_norm_backward_input(s, groups, &x, &mean, &inv, &gamma, &dy, Write::Add, &mut dx);
                let (mut dg, mut db) = (vec![f32::NAN; channels], vec![1.0; channels]);
                let slots = (Some((&mut dg[..], Write::Overwrite)), Some((&mut db[..], Write::Add)));
                group_norm_backward_weight(s, groups, &x, &mean, &inv, &dy, slots.0, slots.1);
                let (mut want_dg, mut want_db) = (vec![0.0; channels], vec![1.0; channels]);
                for g in 0..batch * groups {
                    let at = |i: usize| (g * m + i, (g * m + i) / n % channels);
                    let mu = (0..m).map(|i| x[at(i).0] as f64).sum::<f64>() / m as f64;
                    let var = (0..m).map(|i| (x[at(i).0] as f64 - mu).powi(2)).sum::<f64>() / m as f64;
                    let inv = 1.0 / (var + eps as f64).sqrt();
                    let hat = |i: usize| (x[at(i).0] as f64 - mu) * inv;
                    let scaled = |i: usize| (dy[at(i).0] * gamma[at(i).1]) as f64;
                    let sum: f64 = (0..m).map(scaled).sum();
                    let product: f64 = (0..m).map(|i| scaled(i) * hat(i)).sum();
                    for i in 0..m {
                        let (j, c) = at(i);
                        close(y[j], gamma[c] as f64 * hat(i) + beta[c] as f64, 1e-4);
                        let want = inv * (scaled(i) - sum / m as f64 - hat(i) * product / m as f64);
                        // One number a group has variance 0: everything is divided by √ε.
                        close(dx[j], 1.0 + want, if m == 1 { 1e-2 } else { 1e-4 });
                        want_dg[c] += dy[j] as f64 * hat(i);
                        want_db[c] += dy[j] as f64;
                    }
                }
                for c in 0..channels {
                    close(dg[c], want_dg[c], 1e-4);
                    close(db[c], want_db[c], 1e-5);
                }
            });
        }
    }

    #[test]
    fn an_example_never_depends_on_its_neighbours() {
        let s = ChannelShape { batch: 3, channels: 6, n: 11 };
        let (x, gamma, beta) = (numbers(s.len(), 1), numbers(6, 3), numbers(6, 4));
        let run = |s: ChannelShape, x: &[f32]| {
            let (mut y, mut mean, mut inv) =
                (vec![0.0; s.len()], vec![0.0; 2 * s.batch], vec![0.0; 2 * s.batch]);
            group_norm_forward(s, 2, 1e-5, x, &gamma, &beta, &mut y, &mut mean, &mut inv);
            y
        };
        each_path(|| {
            let all = run(s, &x);
            for b in 0..3 {
                let alone = run(ChannelShape { batch: 1, ..s }, &x[b * 66..][..66]);
                assert_eq!(alone, all[b * 66..][..66]);
            }
        });
    }
}
