//! What happens when a part is absent: one feature at a time, or a window that moves over the input.

use super::Attributed;
use crate::session::Session;
use crate::{Baseline, ExplainError, Groups, Subject, Wanted};
use lyceum_models::batch::Input;

/// `φ_i = f(x) − f(x without i)`.
pub(super) fn ablate(session: &mut Session<'_>, baseline: &Baseline) -> Result<Attributed, ExplainError> {
    let n = session.subject.groups.n();
    session.require(n as u64 * session.cost(baseline))?;
    let without: Vec<Vec<bool>> = (0..n).map(|i| (0..n).map(|j| j != i).collect()).collect();
    let target = session.target.clone();
    let output = session.output;
    let values = session.values(baseline, &target, &without)?;
    let mut found = Attributed::of_features(values.into_iter().map(|v| output - v).collect());
    found.exact = true;
    Ok(found)
}

/// Each unit gets the mean fall over the windows that cover it; features get the sum over their units.
pub(super) fn occlude(
    session: &mut Session<'_>,
    baseline: &Baseline,
    window: [usize; 2],
    stride: [usize; 2],
) -> Result<Attributed, ExplainError> {
    let windows = windows(session.subject, session.entry.len(), window, stride)?;
    let bases = session.baselines(baseline)?;
    let [base] = &bases[..] else {
        return Err(ExplainError::request("baseline", "a window shows one thing: give one baseline"));
    };
    let (entry, output) = (session.entry.clone(), session.output);
    let (mut sums, mut counts) = (vec![0.0f64; entry.len()], vec![0u32; entry.len()]);
    session.over(
        windows.len(),
        &Wanted::Scores,
        |session, i, out| {
            let start = out.len();
            out.extend_from_slice(&session.entry);
            windows[i].iter().for_each(|&at| out[start + at] = base[at]);
        },
        |first, result| {
            for (i, score) in result.scores.iter().enumerate() {
                for &at in &windows[first + i] {
                    sums[at] += output - score;
                    counts[at] += 1;
                }
            }
        },
    )?;
    let mean = |(sum, count): (&f64, &u32)| (sum / f64::from((*count).max(1))) as f32;
    let elements: Vec<f32> = sums.iter().zip(&counts).map(mean).collect();
    let mut found = match &session.subject.input {
        Input::Dense { .. } => Attributed::of_elements(session, elements),
        // A token is one unit: its numbers all say the same.
        _ => {
            let size = session.subject.groups.unit_size(entry.len());
            let units: Vec<f32> = elements.iter().step_by(size.max(1)).copied().collect();
            Attributed::of_features(Groups::sums(&session.subject.groups, &units))
        }
    };
    found.exact = true;
    Ok(found)
}

/// The numbers of the entry under each window; as in Captum the last one is cut at the end.
fn windows(
    subject: &Subject,
    len: usize,
    window: [usize; 2],
    stride: [usize; 2],
) -> Result<Vec<Vec<usize>>, ExplainError> {
    let starts = |size: usize, window: usize, stride: usize| {
        let n = size.saturating_sub(window).div_ceil(stride) + 1;
        (0..n).map(move |i| i * stride)
    };
    let too_large = || ExplainError::request("window", "larger than the input");
    match &subject.input {
        Input::Dense { shape, .. } if shape.len() == 3 => {
            let [channels, height, width] = [shape[0], shape[1], shape[2]];
            if window[0] > height || window[1] > width {
                return Err(too_large());
            }
            let mut all = Vec::new();
            for y in starts(height, window[0], stride[0]) {
                for x in starts(width, window[1], stride[1]) {
                    let rows = y..(y + window[0]).min(height);
                    let pixels =
                        rows.flat_map(|r| (x..(x + window[1]).min(width)).map(move |c| r * width + c));
                    let pixels: Vec<usize> = pixels.collect();
                    let of = |c: usize| pixels.iter().map(move |p| c * height * width + p);
                    all.push((0..channels).flat_map(of).collect());
                }
            }
            Ok(all)
        }
        // Steps of a series or a text.
        input => {
            let steps = match input {
                Input::Dense { shape, .. } => shape[0],
                _ => subject.groups.n_units(),
            };
            if window[1] > steps {
                return Err(too_large());
            }
            let size = len / steps.max(1);
            let fixed: Vec<bool> = subject.groups.of_elements(len).map(|g| g.is_none()).collect();
            let of = |start: usize| {
                let end = (start + window[1]).min(steps);
                (start * size..end * size).filter(|&i| !fixed[i]).collect()
            };
            Ok(starts(steps, window[1], stride[1]).map(of).collect())
        }
    }
}
