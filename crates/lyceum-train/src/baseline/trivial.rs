//! The answers that need no learning.

use super::BaselineError;

/// Answers with the classes' frequencies, and so with the most frequent class.
#[derive(Clone, Debug, PartialEq)]
pub struct Majority {
    /// Training rows of each class.
    pub(super) counts: Vec<u64>,
}

impl Majority {
    /// # Errors
    /// No rows.
    pub fn fit(labels: &[u32], n_classes: usize) -> Result<Self, BaselineError> {
        if labels.is_empty() {
            return Err(BaselineError::Empty { baseline: "majority" });
        }
        let mut counts = vec![0u64; n_classes];
        for label in labels {
            counts[*label as usize] += 1;
        }
        Ok(Majority { counts })
    }

    /// `[n, n_classes]`: frequencies with one row added to each class, so that a class that training did not
    /// have is unlikely and not impossible.
    pub fn log_probs(&self, n: usize) -> Vec<f64> {
        let whole = self.counts.iter().map(|count| count + 1).sum::<u64>() as f64;
        let row: Vec<f64> = self.counts.iter().map(|count| ((count + 1) as f64 / whole).ln()).collect();
        row.repeat(n)
    }
}

/// Answers with the mean of each output.
#[derive(Clone, Debug, PartialEq)]
pub struct Mean {
    pub(super) means: Vec<f64>,
}

impl Mean {
    /// `targets`: `[n, n_outputs]`.
    ///
    /// # Errors
    /// No rows.
    pub fn fit(targets: &[f32], n_outputs: usize) -> Result<Self, BaselineError> {
        let n = targets.len() / n_outputs.max(1);
        if n == 0 {
            return Err(BaselineError::Empty { baseline: "mean" });
        }
        let mean =
            |output| targets.iter().skip(output).step_by(n_outputs).map(|v| f64::from(*v)).sum::<f64>();
        Ok(Mean { means: (0..n_outputs).map(|output| mean(output) / n as f64).collect() })
    }

    /// `[n, n_outputs]`
    pub fn predict(&self, n: usize) -> Vec<f64> {
        self.means.repeat(n)
    }
}

/// Forecasts that nothing changes. `windows`: `[n, window, channels]`; `target_channels`: which channels are
/// forecast. Returns `[n, horizon, targets]`.
pub fn last_value(
    windows: &[f32],
    window: usize,
    channels: usize,
    target_channels: &[usize],
    horizon: usize,
) -> Vec<f64> {
    repeat_season(windows, window, channels, target_channels, horizon, 1)
}

/// Forecasts that the last season comes again: step `h` is what was one season before it. Shapes as
/// [`last_value`], which is a season of one step.
///
/// # Errors
/// A season that is 0 or longer than the window.
pub fn seasonal_naive(
    windows: &[f32],
    window: usize,
    channels: usize,
    target_channels: &[usize],
    horizon: usize,
    season: usize,
) -> Result<Vec<f64>, BaselineError> {
    if season == 0 || season > window {
        return Err(BaselineError::Season { season, window });
    }
    Ok(repeat_season(windows, window, channels, target_channels, horizon, season))
}

fn repeat_season(
    windows: &[f32],
    window: usize,
    channels: usize,
    target_channels: &[usize],
    horizon: usize,
    season: usize,
) -> Vec<f64> {
    let mut out = Vec::with_capacity(windows.len() / (window * channels) * horizon * target_channels.len());
    for steps in windows.chunks_exact(window * channels) {
        for h in 0..horizon {
            let step = window - season + h % season;
            out.extend(target_channels.iter().map(|channel| f64::from(steps[step * channels + channel])));
        }
    }
    out
}
