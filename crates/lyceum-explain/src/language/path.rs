//! Integrated gradients of a language model, and where on the path the nodes stand.
//!
//! ```text
//! φ = x · ∫₀¹ ∂f/∂x (x′ + α (x − x′)) dα,    Σ φ = f(1) − f(0)
//! ```
//!
//! Where the path begins the parts have no embedding, and there an RMS norm is all slope: `αx / √(α² mean x² + ε)` goes from
//! nothing to its full length while α goes from 0 to a few times `√(ε / mean x²)`, about 0.003 for tiny models and 0.03 for
//! real ones. Norms behind one another multiply: where a row has seen nothing but rows of parts (the first words of a prompt
//! without a template, words that a sliding window keeps from it), the second norm turns at a thousandth of that α, the third
//! at a thousandth of this. So what happens on the path happens in `ln α`, over many decades: Mistral's tiny model changes
//! by 1.1 nats between 1e-8 and 1e-7, Gemma 3's, with six norms a layer, below 1e-12. Nodes in α, or in a power of it, miss
//! that, however many they are.
//!
//! In a prompt whose first token is a part there is nothing else to be read where the path begins, every layer multiplies,
//! and a deep model turns as far down as f32 goes (SmolLM2-135M missed 3.8 of 10.5 nats after 1,000 passes). There the path begins
//! at the vocabulary's mean embedding ([`Base`]): parts that say nothing in particular in the place of parts that are not there.
//!
//! Pieces of the path are therefore integrated in `ln α` (`α = a (b/a)^x`, in which one norm is analytic as far as π/2 from
//! the path), but for the one that begins at 0. And the sum rule holds on every piece: what the parts get between `a` and `b`
//! adds up to `f(b) − f(a)`, which one pass a border tells. So it is known where nodes are missing, and only there pieces are
//! halved, the worst ones first; what is good stays.

use super::walk::Walker;
use super::{COMPLETENESS, Found};
use crate::quadrature::gauss_legendre;
use crate::{ExplainError, Of, Steps};
use std::time::{Duration, Instant};

/// Borders of the pieces to begin with, and nodes of each piece.
const BORDERS: [f64; 6] = [0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0];
const NODES: usize = 6;
/// Where the piece that begins at 0 is cut: embeddings and their gradients are f32, and end at 1e-38.
const DECADES: f64 = 1e-4;
const LEAST: f64 = 1e-32;
/// Halvings in a row that do not help, after which what is missing on a piece is rounding; one, where what is missing is no
/// more than some times what rounding makes of the value at the end of the path, `1 − k · NEAR` of it.
const HALVINGS_IN_VAIN: usize = 3;
const ROUNDINGS: f64 = 4.0;
const NEAR: f64 = 2.4e-7;
const N_NEAR: usize = 3;

/// What is integrated.
pub(super) trait Path<'a> {
    /// Passes that a node takes.
    fn passes(&self) -> usize;

    /// The number that is explained, here on the path.
    fn value(&mut self, walker: &mut Walker<'a>, alpha: f64) -> Result<f64, ExplainError>;

    /// What each part gets by these nodes, each `(α, weight)`.
    fn weighed(&mut self, walker: &mut Walker<'a>, nodes: &[(f64, f64)]) -> Result<Vec<f64>, ExplainError>;
}

/// Where the path begins: no embedding, or the vocabulary's mean.
pub(super) enum Base {
    Nothing,
    Mean(Vec<f32>),
}

impl Base {
    /// That of a question.
    pub(super) fn of(walker: &mut Walker<'_>) -> Result<Self, ExplainError> {
        match walker.question.begins_with_a_part() {
            true => walker.mean_embedding().map(Base::Mean),
            false => Ok(Base::Nothing),
        }
    }

    /// A number of an entry, here on the path of what moves.
    pub(super) fn at(&self, alpha: f64, (i, x): (usize, f32)) -> f32 {
        let base = self.number(i);
        (base + (f64::from(x) - base) * alpha) as f32
    }

    /// How far it moves in all.
    pub(super) fn way(&self, (i, x): (usize, f32)) -> f64 {
        f64::from(x) - self.number(i)
    }

    fn number(&self, i: usize) -> f64 {
        match self {
            Base::Nothing => 0.0,
            Base::Mean(row) => f64::from(row[i % row.len()]),
        }
    }
}

/// A place on the path and the value there.
#[derive(Clone, Copy)]
struct Border {
    alpha: f64,
    value: f64,
}

/// A piece of the path.
struct Piece {
    ends: [Border; 2],
    /// What each part gets.
    values: Vec<f64>,
    in_vain: usize,
}

impl Piece {
    fn of<'a>(
        path: &mut impl Path<'a>,
        walker: &mut Walker<'a>,
        ends: [Border; 2],
    ) -> Result<Piece, ExplainError> {
        let [a, b] = ends.map(|end| end.alpha);
        let node = |(x, weight): (f64, f64)| match a > 0.0 {
            true => {
                let alpha = a * (b / a).powf(x);
                (alpha, weight * alpha * (b / a).ln())
            }
            false => (b * x, weight * b),
        };
        let nodes: Vec<(f64, f64)> = gauss_legendre(NODES).into_iter().map(node).collect();
        Ok(Piece { ends, values: path.weighed(walker, &nodes)?, in_vain: 0 })
    }

    /// By how much its parts do not add up.
    fn gap(&self) -> f64 {
        self.ends[1].value - self.ends[0].value - self.values.iter().sum::<f64>()
    }

    /// Where it is cut, unless that is in vain.
    fn middle(&self, rounding: f64) -> Option<f64> {
        let [a, b] = self.ends.map(|end| end.alpha);
        match a > 0.0 {
            true => {
                let most = if self.gap().abs() > ROUNDINGS * rounding { HALVINGS_IN_VAIN } else { 1 };
                (self.in_vain < most).then(|| (a * b).sqrt())
            }
            false => (b > LEAST).then_some(b * DECADES),
        }
    }
}

/// Says no before anything is spent.
pub(super) fn require(walker: &Walker<'_>, passes: usize, steps: Steps) -> Result<(), ExplainError> {
    let n_first = match steps {
        Steps::Fixed(n) => 3 + n,
        Steps::Refined => 1 + BORDERS.len() + N_NEAR + (BORDERS.len() - 1) * NODES,
    };
    walker.require((passes * n_first) as u64)
}

/// Integrates; with [`Steps::Refined`] until it adds up, or passes or time are spent. What is explained is the number that is served;
/// what rounding makes of it belongs to no part, and is in the base.
pub(super) fn integrate<'a>(
    path: &mut impl Path<'a>,
    walker: &mut Walker<'a>,
    steps: Steps,
) -> Result<Found, ExplainError> {
    let served = walker.as_served(|walker| path.value(walker, 1.0))?;
    let (output, base) = (path.value(walker, 1.0)?, path.value(walker, 0.0)?);
    let values = match steps {
        Steps::Fixed(n) => path.weighed(walker, &gauss_legendre(n))?,
        Steps::Refined => refined(path, walker, [base, output])?,
    };
    Ok(Found { output: served, values, base_value: Some(base + (served - output)), of: Of::Features })
}

fn refined<'a>(
    path: &mut impl Path<'a>,
    walker: &mut Walker<'a>,
    [base, output]: [f64; 2],
) -> Result<Vec<f64>, ExplainError> {
    let mut rounding = 0.0f64;
    for k in 1..=N_NEAR {
        rounding = rounding.max((path.value(walker, 1.0 - k as f64 * NEAR)? - output).abs());
    }
    let mut pieces = Vec::new();
    let mut from = Border { alpha: 0.0, value: base };
    for alpha in BORDERS.into_iter().skip(1) {
        let to = Border { alpha, value: if alpha == 1.0 { output } else { path.value(walker, alpha)? } };
        pieces.push(Piece::of(path, walker, [from, to])?);
        from = to;
    }
    let (n_more, mut longest) = ((path.passes() * (2 * NODES + 1)) as u64, Duration::ZERO);
    while let Some((worst, middle)) = worst(&pieces, rounding) {
        // What was found is told, flagged, rather than nothing at the deadline.
        if walker.require(n_more).is_err() || !walker.has_time_for(longest) {
            break;
        }
        let began = Instant::now();
        let piece = pieces.swap_remove(worst);
        let middle = Border { alpha: middle, value: path.value(walker, middle)? };
        let mut halves = Vec::with_capacity(2);
        for ends in [[piece.ends[0], middle], [middle, piece.ends[1]]] {
            halves.push(Piece::of(path, walker, ends)?);
        }
        let left: f64 = halves.iter().map(|half| half.gap().abs()).sum();
        if piece.ends[0].alpha > 0.0 && left > piece.gap().abs() / 2.0 {
            halves.iter_mut().for_each(|half| half.in_vain = piece.in_vain + 1);
        }
        pieces.extend(halves);
        longest = longest.max(began.elapsed());
    }
    let mut values = vec![0.0; pieces[0].values.len()];
    for piece in &pieces {
        values.iter_mut().zip(&piece.values).for_each(|(sum, value)| *sum += value);
    }
    Ok(values)
}

/// The piece that misses most, and where it is cut; None where the whole adds up and no piece hides behind another, and where
/// what is missing is too little on every piece to be no rounding.
fn worst(pieces: &[Piece], rounding: f64) -> Option<(usize, f64)> {
    let gap: f64 = pieces.iter().map(Piece::gap).sum();
    let cut = |(i, piece): (usize, &Piece)| Some((i, piece.middle(rounding)?, piece.gap().abs()));
    let (i, middle, most) = pieces.iter().enumerate().filter_map(cut).max_by(|a, b| a.2.total_cmp(&b.2))?;
    let least = if gap.abs() > COMPLETENESS / 2.0 { COMPLETENESS / 8.0 } else { COMPLETENESS };
    (most > least).then_some((i, middle))
}
