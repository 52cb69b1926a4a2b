//! Damage of sound, in its samples: noise at a stated ratio of signal to noise, gain, and a shift in time.

use super::Severity;
use crate::error::RobustError;
use lyceum_models::prepare::audio::Clip;
use lyceum_models::space::gaussian;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Signal over noise, in decibels, at severities 1 to 5.
const SNR_DB: [f64; 5] = [30.0, 20.0, 15.0, 10.0, 5.0];
/// Louder or quieter by, in decibels.
const GAIN_DB: [f64; 5] = [3.0, 6.0, 12.0, 18.0, 24.0];
/// Later or earlier by this share of the clip; what is left free is silence.
const SHIFT: [f64; 5] = [0.02, 0.05, 0.1, 0.2, 0.3];
/// Rows of Voss and McCartney's pink noise: the slowest changes every 2^15 samples.
const OCTAVES: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// As much power at every frequency.
    White,
    /// As much power in every octave.
    Pink,
    /// Another clip of the run.
    Background,
    Gain,
    Shift,
}

impl Noise {
    pub const ALL: [Noise; 5] = [Noise::White, Noise::Pink, Noise::Background, Noise::Gain, Noise::Shift];

    pub fn name(self) -> &'static str {
        match self {
            Noise::White => "white_noise",
            Noise::Pink => "pink_noise",
            Noise::Background => "background",
            Noise::Gain => "gain",
            Noise::Shift => "time_shift",
        }
    }

    /// The setting in words.
    pub fn setting(self, severity: Severity) -> String {
        match self {
            Noise::White | Noise::Pink | Noise::Background => format!("SNR {} dB", severity.of(SNR_DB)),
            Noise::Gain => format!("{} dB louder or quieter", severity.of(GAIN_DB)),
            Noise::Shift => format!("{} % of the clip", severity.of(SHIFT) * 100.0),
        }
    }
}

/// Clip number `row` with this damage, cut to [−1, 1]. Each row draws from its own generator.
///
/// # Errors
/// A clip (or its background) that is silent has no ratio to a noise; one clip alone has no background.
pub fn damage(
    clips: &[Clip],
    row: usize,
    noise: Noise,
    severity: Severity,
    seed: u64,
) -> Result<Clip, RobustError> {
    let clip = &clips[row];
    let rng = &mut crate::generator(seed, row as u64);
    let n = clip.samples.len();
    let samples = match noise {
        Noise::White => {
            let noise: Vec<f32> = (0..n).map(|_| gaussian(rng)).collect();
            mixed(&clip.samples, &noise, severity)?
        }
        Noise::Pink => mixed(&clip.samples, &pink(n, rng), severity)?,
        Noise::Background => {
            if clips.len() < 2 {
                let text = "one clip alone has no other clip for its background: give more rows";
                return Err(RobustError::Rows(text.into()));
            }
            let other = (row + 1 + rng.random_range(0..clips.len() - 1)) % clips.len();
            let other = &clips[other].samples;
            let start = rng.random_range(0..other.len().max(1));
            let noise: Vec<f32> = (0..n).map(|i| other[(start + i) % other.len()]).collect();
            mixed(&clip.samples, &noise, severity)?
        }
        Noise::Gain => {
            let db = if rng.random::<bool>() { severity.of(GAIN_DB) } else { -severity.of(GAIN_DB) };
            let gain = 10f64.powf(db / 20.0) as f32;
            clip.samples.iter().map(|x| x * gain).collect()
        }
        Noise::Shift => {
            let by = ((n as f64 * severity.of(SHIFT)).round() as usize).min(n);
            let silence = std::iter::repeat_n(0.0, by);
            match rng.random::<bool>() {
                true => silence.chain(clip.samples[..n - by].iter().copied()).collect(),
                false => clip.samples[by..].iter().copied().chain(silence).collect(),
            }
        }
    };
    let samples: Vec<f32> = samples.into_iter().map(|x: f32| x.clamp(-1.0, 1.0)).collect();
    Ok(Clip { sample_rate: clip.sample_rate, samples })
}

/// `signal + g · noise` with `g² = P_signal / (P_noise · 10^(SNR/10))`.
fn mixed(signal: &[f32], noise: &[f32], severity: Severity) -> Result<Vec<f32>, RobustError> {
    let power = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / v.len().max(1) as f64;
    let ratio = power(signal) / power(noise);
    // Of a silent noise it is infinite or not a number.
    if !(ratio > 0.0 && ratio.is_finite()) {
        return Err(RobustError::Rows("the clip is silent, so that no noise has a ratio to it".into()));
    }
    let gain = (ratio / 10f64.powf(severity.of(SNR_DB) / 10.0)).sqrt() as f32;
    Ok(signal.iter().zip(noise).map(|(x, e)| x + gain * e).collect())
}

/// Pink noise by Voss and McCartney: a sum of white noises of which the k-th changes every 2^k samples.
fn pink(n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut rows: Vec<f32> = (0..OCTAVES).map(|_| gaussian(rng)).collect();
    (0..n)
        .map(|i| {
            let changes = ((i as u32 + 1).trailing_zeros()).min(OCTAVES - 1);
            rows[changes as usize] = gaussian(rng);
            rows.iter().sum::<f32>() + gaussian(rng)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn power(v: impl Iterator<Item = f32>) -> f64 {
        v.map(|x| f64::from(x).powi(2)).sum()
    }

    fn clips() -> Vec<Clip> {
        let tone = |w: f32| (0..8000).map(|i| 0.2 * (i as f32 * w).sin()).collect();
        [0.07, 0.21, 0.5].map(|w| Clip { sample_rate: 8000, samples: tone(w) }).into()
    }

    #[test]
    fn every_noise_has_the_stated_ratio() {
        let clips = clips();
        for noise in [Noise::White, Noise::Pink, Noise::Background] {
            for (severity, db) in Severity::ALL.into_iter().zip(SNR_DB) {
                let noisy = damage(&clips, 1, noise, severity, 1).unwrap();
                let added = noisy.samples.iter().zip(&clips[1].samples).map(|(a, b)| a - b);
                let ratio = 10.0 * (power(clips[1].samples.iter().copied()) / power(added)).log10();
                assert!((ratio - db).abs() < 0.3, "{} {db}: {ratio}", noise.name());
                assert_eq!(noisy, damage(&clips, 1, noise, severity, 1).unwrap(), "a seed repeats it");
            }
        }
        let silent = [Clip { sample_rate: 1, samples: vec![0.0; 4] }];
        assert!(damage(&silent, 0, Noise::White, Severity::ALL[0], 1).is_err());
        assert!(damage(&clips[..1], 0, Noise::Background, Severity::ALL[0], 1).is_err());
    }

    /// The mean square of the difference to the mean of blocks, over scales: white noise loses half of what is left
    /// with each doubling, pink noise the same part of the whole.
    #[test]
    fn pink_noise_has_equal_power_in_every_octave() {
        let noise = pink(1 << 16, &mut crate::generator(3, 0));
        let octave = |k: u32| {
            // Haar's detail at scale 2^k.
            let half = 1usize << k;
            let detail = noise.chunks_exact(2 * half).map(|block| {
                let sum = |v: &[f32]| v.iter().sum::<f32>() / half as f32;
                (sum(&block[..half]) - sum(&block[half..])) / 2.0
            });
            power(detail.clone()) / detail.count() as f64
        };
        for k in 1..8 {
            let ratio = octave(k + 1) / octave(k);
            assert!((0.75..1.33).contains(&ratio), "octave {k}: {ratio}");
        }
    }

    #[test]
    fn gain_and_shift_are_what_they_say() {
        let clips = clips();
        let quieter_or_louder = damage(&clips, 0, Noise::Gain, Severity::ALL[1], 1).unwrap();
        let of = |clip: &Clip| power(clip.samples.iter().copied());
        let db = 10.0 * (of(&quieter_or_louder) / of(&clips[0])).log10();
        assert!((db.abs() - 6.0).abs() < 1e-3, "{db}");
        let shifted = damage(&clips, 0, Noise::Shift, Severity::ALL[2], 1).unwrap();
        let later = shifted.samples[800..] == clips[0].samples[..7200];
        let earlier = shifted.samples[..7200] == clips[0].samples[800..];
        assert!(later != earlier && shifted.samples.len() == 8000);
    }
}
