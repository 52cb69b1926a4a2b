//! Damage to pictures `[channels, height, width]` in `[0, 1]`, after Hendrycks & Dietterich 2019 (arXiv:1903.12261)
//! with the strengths of its small-picture variant where it has one. Lengths are in parts of the picture, so that
//! 8 by 8 pixels are damaged as 224 by 224 are.

use super::Severity;
use crate::error::RobustError;
use lyceum_models::space::Layout;
use lyceum_models::space::gaussian;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    GaussianNoise,
    /// Photons: Poisson counts.
    ShotNoise,
    /// Salt and pepper.
    ImpulseNoise,
    Blur,
    Brightness,
    Contrast,
    Pixelate,
    Rotate,
    Translate,
    /// A grey square.
    Occlude,
}

impl Corruption {
    pub const ALL: [Corruption; 10] = [
        Corruption::GaussianNoise,
        Corruption::ShotNoise,
        Corruption::ImpulseNoise,
        Corruption::Blur,
        Corruption::Brightness,
        Corruption::Contrast,
        Corruption::Pixelate,
        Corruption::Rotate,
        Corruption::Translate,
        Corruption::Occlude,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Corruption::GaussianNoise => "gaussian_noise",
            Corruption::ShotNoise => "shot_noise",
            Corruption::ImpulseNoise => "impulse_noise",
            Corruption::Blur => "blur",
            Corruption::Brightness => "brightness",
            Corruption::Contrast => "contrast",
            Corruption::Pixelate => "pixelate",
            Corruption::Rotate => "rotate",
            Corruption::Translate => "translate",
            Corruption::Occlude => "occlude",
        }
    }
}

/// Pictures `u` `[n, channels · height · width]`, damaged.
///
/// # Errors
/// Rows that are no pictures.
pub fn corrupt(
    layout: Layout,
    u: &[f32],
    corruption: Corruption,
    severity: Severity,
    seed: u64,
) -> Result<Vec<f32>, RobustError> {
    let Layout::Image { channels, height, width } = layout else {
        let fix = "use tabular or text perturbations for other inputs";
        return Err(RobustError::unsupported(
            "a picture corruption",
            "the model's inputs are no pictures",
            fix,
        ));
    };
    if let Some(at) = u.iter().position(|u| !(0.0..=1.0).contains(u)) {
        return Err(RobustError::Rows(format!("pixel {at} is {}, outside 0 to 1", u[at])));
    }
    let plane = Plane { height, width };
    let mut out = Vec::with_capacity(u.len());
    for (i, row) in u.chunks_exact(layout.len()).enumerate() {
        let rng = &mut crate::generator(seed, i as u64);
        // What moves or hides does so in all channels alike.
        let place = Place { angle: rng.random(), x: rng.random(), y: rng.random() };
        for channel in row.chunks_exact(height * width).take(channels) {
            let damaged = plane.damage(channel, corruption, severity, &place, rng);
            out.extend(damaged.into_iter().map(|x| x.clamp(0.0, 1.0)));
        }
    }
    Ok(out)
}

struct Plane {
    height: usize,
    width: usize,
}

/// Random numbers in `[0, 1)` that say where.
struct Place {
    angle: f32,
    x: f32,
    y: f32,
}

impl Plane {
    fn damage(
        &self,
        x: &[f32],
        corruption: Corruption,
        severity: Severity,
        place: &Place,
        rng: &mut ChaCha8Rng,
    ) -> Vec<f32> {
        match corruption {
            Corruption::GaussianNoise => {
                let std = severity.of([0.04, 0.06, 0.08, 0.09, 0.10]);
                x.iter().map(|x| x + std * gaussian(rng)).collect()
            }
            Corruption::ShotNoise => {
                let photons = severity.of([500.0, 250.0, 100.0, 75.0, 50.0]);
                x.iter().map(|x| poisson(x * photons, rng) / photons).collect()
            }
            Corruption::ImpulseNoise => {
                let share = severity.of([0.01, 0.02, 0.03, 0.05, 0.07]);
                let hit = |x: &f32| match rng.random::<f32>() {
                    at if at < share / 2.0 => 0.0,
                    at if at < share => 1.0,
                    _ => *x,
                };
                x.iter().map(hit).collect()
            }
            Corruption::Blur => {
                let std = severity.of([0.025, 0.04, 0.06, 0.08, 0.1]) * self.height.min(self.width) as f32;
                self.blurred(x, std)
            }
            Corruption::Brightness => {
                let more = severity.of([0.05, 0.1, 0.15, 0.2, 0.3]);
                x.iter().map(|x| x + more).collect()
            }
            Corruption::Contrast => {
                let kept = severity.of([0.75, 0.5, 0.4, 0.3, 0.15]);
                let mean = x.iter().sum::<f32>() / x.len() as f32;
                x.iter().map(|x| mean + (x - mean) * kept).collect()
            }
            Corruption::Pixelate => {
                let share = severity.of([0.95, 0.9, 0.85, 0.75, 0.65]);
                self.pixelated(x, share)
            }
            Corruption::Rotate => {
                let most = severity.of([5.0, 10.0, 15.0, 20.0, 30.0f32]).to_radians();
                let (sin, cos) = ((place.angle * 2.0 - 1.0) * most).sin_cos();
                let (cy, cx) = ((self.height - 1) as f32 / 2.0, (self.width - 1) as f32 / 2.0);
                self.moved(x, |y, x| {
                    (cy + (y - cy) * cos - (x - cx) * sin, cx + (y - cy) * sin + (x - cx) * cos)
                })
            }
            Corruption::Translate => {
                let most = severity.of([0.03, 0.06, 0.09, 0.12, 0.15]);
                let dy = (place.y * 2.0 - 1.0) * most * self.height as f32;
                let dx = (place.x * 2.0 - 1.0) * most * self.width as f32;
                self.moved(x, |y, x| (y + dy, x + dx))
            }
            Corruption::Occlude => {
                let side = severity.of([0.1, 0.15, 0.2, 0.25, 0.3]);
                let (h, w) = (self.part(self.height, side), self.part(self.width, side));
                let top = (place.y * (self.height - h + 1) as f32) as usize;
                let left = (place.x * (self.width - w + 1) as f32) as usize;
                let mut out = x.to_vec();
                for y in top..top + h {
                    out[y * self.width + left..y * self.width + left + w].fill(0.5);
                }
                out
            }
        }
    }

    /// At least one pixel.
    fn part(&self, whole: usize, share: f32) -> usize {
        ((whole as f32 * share).round() as usize).clamp(1, whole)
    }

    /// The picture looked at from other places, straight between pixels, 0 outside.
    fn moved(&self, x: &[f32], from: impl Fn(f32, f32) -> (f32, f32)) -> Vec<f32> {
        let pixel = |y: f32, c: f32| {
            let inside = y >= 0.0 && c >= 0.0 && (y as usize) < self.height && (c as usize) < self.width;
            if inside { x[y as usize * self.width + c as usize] } else { 0.0 }
        };
        let mut out = Vec::with_capacity(x.len());
        for row in 0..self.height {
            for column in 0..self.width {
                let (y, c) = from(row as f32, column as f32);
                let (top, left) = (y.floor(), c.floor());
                let (fy, fx) = (y - top, c - left);
                out.push(
                    pixel(top, left) * (1.0 - fy) * (1.0 - fx)
                        + pixel(top, left + 1.0) * (1.0 - fy) * fx
                        + pixel(top + 1.0, left) * fy * (1.0 - fx)
                        + pixel(top + 1.0, left + 1.0) * fy * fx,
                );
            }
        }
        out
    }

    /// A Gaussian of this spread, cut at three of it; beyond the edge the edge repeats.
    fn blurred(&self, x: &[f32], std: f32) -> Vec<f32> {
        let reach = (3.0 * std).ceil().max(1.0) as isize;
        let kernel: Vec<f32> =
            (-reach..=reach).map(|d| (-(d * d) as f32 / (2.0 * std * std)).exp()).collect();
        let total: f32 = kernel.iter().sum();
        let along = |x: &[f32], n: usize, at: &dyn Fn(usize, usize) -> usize, lines: usize| {
            let mut out = vec![0.0; x.len()];
            for line in 0..lines {
                for i in 0..n {
                    let taken = |(d, k): (usize, &f32)| {
                        let j = (i as isize + d as isize - reach).clamp(0, n as isize - 1) as usize;
                        x[at(line, j)] * k
                    };
                    out[at(line, i)] = kernel.iter().enumerate().map(taken).sum::<f32>() / total;
                }
            }
            out
        };
        let rows = along(x, self.width, &|line, i| line * self.width + i, self.height);
        along(&rows, self.height, &|line, i| i * self.width + line, self.width)
    }

    /// Fewer, larger pixels: means over blocks.
    fn pixelated(&self, x: &[f32], share: f32) -> Vec<f32> {
        let (h, w) = (self.part(self.height, share), self.part(self.width, share));
        let (mut sum, mut count) = (vec![0.0; h * w], vec![0.0; h * w]);
        let block = |y: usize, c: usize| y * h / self.height * w + c * w / self.width;
        for y in 0..self.height {
            for c in 0..self.width {
                sum[block(y, c)] += x[y * self.width + c];
                count[block(y, c)] += 1.0;
            }
        }
        (0..x.len()).map(|i| block(i / self.width, i % self.width)).map(|b| sum[b] / count[b]).collect()
    }
}

/// A Poisson count: by products of uniform numbers (Knuth) for small means, by its normal limit for large ones.
fn poisson(mean: f32, rng: &mut ChaCha8Rng) -> f32 {
    if mean > 50.0 {
        return (mean + mean.sqrt() * gaussian(rng)).round().max(0.0);
    }
    let (limit, mut product, mut count) = ((-f64::from(mean)).exp(), rng.random::<f64>(), 0.0);
    while product > limit {
        product *= rng.random::<f64>();
        count += 1.0;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout::Image { channels: 2, height: 10, width: 12 };

    fn pictures() -> Vec<f32> {
        (0..3 * LAYOUT.len()).map(|i| (i * 37 % 101) as f32 / 100.0).collect()
    }

    #[test]
    fn damage_grows_with_severity_stays_inside_and_a_row_has_its_own() {
        let u = pictures();
        for corruption in Corruption::ALL {
            let distance = |severity: Severity| -> f32 {
                let out = corrupt(LAYOUT, &u, corruption, severity, 7).unwrap();
                assert_eq!(out.len(), u.len());
                assert!(out.iter().all(|x| (0.0..=1.0).contains(x)), "{}", corruption.name());
                let again = corrupt(LAYOUT, &u[..LAYOUT.len()], corruption, severity, 7).unwrap();
                assert_eq!(out[..LAYOUT.len()], again, "{}", corruption.name());
                out.iter().zip(&u).map(|(a, b)| (a - b).abs()).sum()
            };
            let (least, most) = (distance(Severity::ALL[0]), distance(Severity::ALL[4]));
            assert!(least > 0.0 && most > least, "{}: {least} {most}", corruption.name());
        }
        assert!(
            corrupt(Layout::Features { n: 4 }, &[0.5; 4], Corruption::Blur, Severity::ALL[0], 0).is_err()
        );
        assert!(corrupt(LAYOUT, &vec![2.0; LAYOUT.len()], Corruption::Blur, Severity::ALL[0], 0).is_err());
        assert!(Severity::new(0).is_err() && Severity::new(6).is_err());
    }

    #[test]
    fn what_only_moves_keeps_a_flat_middle_and_blur_keeps_flat_pictures() {
        let flat = vec![0.25; LAYOUT.len()];
        for corruption in [Corruption::Blur, Corruption::Contrast, Corruption::Pixelate] {
            let out = corrupt(LAYOUT, &flat, corruption, Severity::ALL[4], 1).unwrap();
            assert!(out.iter().all(|x| (x - 0.25).abs() < 1e-5), "{}", corruption.name());
        }
        for corruption in [Corruption::Rotate, Corruption::Translate] {
            let out = corrupt(LAYOUT, &flat, corruption, Severity::ALL[0], 1).unwrap();
            assert!((out[5 * 12 + 6] - 0.25).abs() < 1e-5, "{}", corruption.name());
        }
    }

    #[test]
    fn counts_have_their_mean_on_both_sides_of_the_limit() {
        let mut rng = crate::generator(1, 0);
        for mean in [3.0, 80.0] {
            let found = (0..4000).map(|_| poisson(mean, &mut rng)).sum::<f32>() / 4000.0;
            assert!((found / mean - 1.0).abs() < 0.03, "{mean}: {found}");
        }
    }
}
