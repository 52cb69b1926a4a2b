//! Where a convolutional network looks: `L = max(0, Σ_k α_k A_k)`, `α_k` the mean over pixels of `∂f/∂A_k`
//! (Selvaraju et al. 2016), stretched to the input bilinearly (as `interpolate(align_corners = False)` does).
//!
//! The map says where, not which channel: each channel of a pixel gets an equal part, so that sums over groups
//! are sums of the map.

use super::Attributed;
use super::conductance::choose;
use crate::session::Session;
use crate::{ExplainError, Wanted};
use lyceum_models::batch::Input;

pub(super) fn attribute(session: &mut Session<'_>, layer: Option<&str>) -> Result<Attributed, ExplainError> {
    let planes = |dims: &[usize]| dims.len() >= 3 && dims[2..].iter().product::<usize>() > 1;
    let (name, dims) = choose(session, layer, planes)?;
    let (entry, target) = (session.entry.clone(), session.target.clone());
    let result = session.pass(Some(entry), vec![target], Wanted::Layer(name))?;
    let layer = result.layers.first().ok_or(ExplainError::NotFinite { what: "the layer" })?;
    let [h, w] = [if dims.len() == 4 { dims[2] } else { 1 }, dims[dims.len() - 1]];
    let map = combine(&layer.values, &layer.gradients, h * w);
    let Input::Dense { shape, .. } = &session.subject.input else {
        return Err(ExplainError::request("input", "not planes of numbers"));
    };
    let elements = match shape[..] {
        [channels, height, width] => {
            let stretched = stretch(&map, [h, w], [height, width]);
            let part = |i: usize| stretched[i % (height * width)] / channels as f32;
            (0..channels * height * width).map(part).collect()
        }
        // A series has its channels innermost.
        [steps, channels] => {
            let stretched = stretch(&map, [1, w], [1, steps]);
            (0..steps * channels).map(|i| stretched[i / channels] / channels as f32).collect()
        }
        _ => return Err(ExplainError::request("input", "neither an image nor a series")),
    };
    Ok(Attributed::of_elements(session, elements))
}

/// `max(0, Σ_k α_k A_k)` over planes of `n` pixels.
fn combine(values: &[f32], gradients: &[f32], n: usize) -> Vec<f32> {
    let mut map = vec![0.0f32; n];
    for (plane, gradient) in values.chunks_exact(n).zip(gradients.chunks_exact(n)) {
        let alpha = gradient.iter().sum::<f32>() / n as f32;
        map.iter_mut().zip(plane).for_each(|(m, a)| *m += alpha * a);
    }
    map.iter_mut().for_each(|m| *m = m.max(0.0));
    map
}

/// Bilinear, pixel centres at half numbers.
fn stretch(map: &[f32], [h, w]: [usize; 2], [height, width]: [usize; 2]) -> Vec<f32> {
    let place = |i: usize, from: usize, to: usize| {
        let x = ((i as f32 + 0.5) * from as f32 / to as f32 - 0.5).max(0.0);
        let low = (x as usize).min(from - 1);
        (low, (low + 1).min(from - 1), x - low as f32)
    };
    let mut out = Vec::with_capacity(height * width);
    for y in 0..height {
        let (y0, y1, fy) = place(y, h, height);
        for x in 0..width {
            let (x0, x1, fx) = place(x, w, width);
            let row = |y: usize| map[y * w + x0] * (1.0 - fx) + map[y * w + x1] * fx;
            out.push(row(y0) * (1.0 - fy) + row(y1) * fy);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretched_map_keeps_its_mean_and_its_corners() {
        let map = [1.0, 0.0, 0.0, 3.0];
        let out = stretch(&map, [2, 2], [4, 4]);
        assert_eq!([out[0], out[3], out[12], out[15]], [1.0, 0.0, 0.0, 3.0]);
        assert!((out.iter().sum::<f32>() / 16.0 - 1.0).abs() < 1e-6);
        assert_eq!(stretch(&[2.0, 4.0], [1, 2], [1, 4]), [2.0, 2.5, 3.5, 4.0]);
    }

    #[test]
    fn planes_are_weighed_by_their_mean_gradient_and_rectified() {
        assert_eq!(combine(&[1.0, 2.0, 3.0, 1.0], &[1.0, 3.0, -2.0, 0.0], 2), [0.0, 3.0]);
    }
}
