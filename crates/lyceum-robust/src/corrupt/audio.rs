//! Noise over sound, at a stated ratio of signal to noise.

use super::Severity;
use crate::error::RobustError;
use lyceum_models::prepare::audio::Clip;
use lyceum_models::space::gaussian;

/// Signal over noise, in decibels, at severities 1 to 5.
const SNR_DB: [f64; 5] = [30.0, 20.0, 15.0, 10.0, 5.0];

/// A clip with white noise of power `P_signal / 10^(SNR/10)`, cut to [−1, 1]. Clip number `row` draws from its own
/// generator.
///
/// # Errors
/// A clip that is silent: it has no ratio to a noise.
pub fn white_noise(clip: &Clip, severity: Severity, seed: u64, row: u64) -> Result<Clip, RobustError> {
    let power =
        clip.samples.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / clip.samples.len().max(1) as f64;
    if power <= 0.0 || power.is_nan() {
        return Err(RobustError::Rows("the clip is silent, so that no noise has a ratio to it".into()));
    }
    let std = (power / 10f64.powf(severity.of(SNR_DB) / 10.0)).sqrt() as f32;
    let rng = &mut crate::generator(seed, row);
    let samples = clip.samples.iter().map(|x| (x + std * gaussian(rng)).clamp(-1.0, 1.0)).collect();
    Ok(Clip { sample_rate: clip.sample_rate, samples })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_noise_has_the_stated_ratio() {
        let samples: Vec<f32> = (0..8000).map(|i| 0.3 * (i as f32 * 0.07).sin()).collect();
        let clip = Clip { sample_rate: 8000, samples };
        let power = |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x).powi(2)).sum::<f64>();
        for (severity, db) in Severity::ALL.into_iter().zip(SNR_DB) {
            let noisy = white_noise(&clip, severity, 1, 0).unwrap();
            let noise = power(&mut noisy.samples.iter().zip(&clip.samples).map(|(a, b)| a - b));
            let ratio = 10.0 * (power(&mut clip.samples.iter().copied()) / noise).log10();
            assert!((ratio - db).abs() < 0.3, "{db}: {ratio}");
        }
        assert!(
            white_noise(&Clip { sample_rate: 1, samples: vec![0.0; 4] }, Severity::ALL[0], 1, 0).is_err()
        );
    }
}
