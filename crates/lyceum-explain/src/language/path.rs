//! Integrated gradients of a language model, and where on the path the nodes stand.
//!
//! ```text
//! φ = x · ∫₀¹ ∂f/∂x (x′ + α (x − x′)) dα,    Σ φ = f(1) − f(0)
//! ```
//!
//! The sum rule holds on every piece of the path too: what the parts get between `a` and `b` adds up to `f(b) − f(a)`, which
//! one pass a border tells. So it is known where nodes are missing, and only there pieces are halved, the worst ones first; what
//! is good stays. Pieces are of equal length in `s` with `α = s³`: an RMS norm turns from nothing to its full length within a
//! small part of the path at its beginning, `√ε` over the embedding's size.

use super::Walker;
use super::{COMPLETENESS, Found};
use crate::quadrature::gauss_legendre;
use crate::{ExplainError, Of, Steps};

/// Pieces to begin with, and nodes of each.
const PIECES_FIRST: usize = 5;
const NODES: usize = 10;
/// The most nodes, those of pieces that were halved included.
const NODES_MAX: usize = 1_600;
/// How far attributions may be from adding up before more nodes are asked, relative to what they explain.
const AIM: f64 = 1e-4;

/// What is integrated.
pub(super) trait Path<'a> {
    /// Passes that a node takes.
    fn passes(&self) -> usize;

    /// The number that is explained, here on the path.
    fn value(&mut self, walker: &mut Walker<'a>, alpha: f64) -> Result<f64, ExplainError>;

    /// What each part gets by these nodes, each `(α, weight)`.
    fn weighed(&mut self, walker: &mut Walker<'a>, nodes: &[(f64, f64)]) -> Result<Vec<f64>, ExplainError>;
}

/// A piece of the path, between two places and the values there.
struct Piece {
    from: (f64, f64),
    to: (f64, f64),
    values: Vec<f64>,
}

impl Piece {
    fn of<'a>(
        path: &mut impl Path<'a>,
        walker: &mut Walker<'a>,
        [from, to]: [(f64, f64); 2],
    ) -> Result<Piece, ExplainError> {
        let (start, length) = (from.0, to.0 - from.0);
        let node = |(x, weight): (f64, f64)| {
            let s = start + x * length;
            (alpha(s), 3.0 * s * s * weight * length)
        };
        let nodes: Vec<(f64, f64)> = gauss_legendre(NODES).into_iter().map(node).collect();
        Ok(Piece { from, to, values: path.weighed(walker, &nodes)? })
    }

    /// By how much its parts do not add up.
    fn gap(&self) -> f64 {
        self.to.1 - self.from.1 - self.values.iter().sum::<f64>()
    }
}

fn alpha(s: f64) -> f64 {
    s.powi(3)
}

/// Integrates; with [`Steps::Refined`] until it adds up, or passes are spent.
pub(super) fn integrate<'a>(
    path: &mut impl Path<'a>,
    walker: &mut Walker<'a>,
    steps: Steps,
) -> Result<Found, ExplainError> {
    let n_first = match steps {
        Steps::Fixed(n) => n,
        Steps::Refined => PIECES_FIRST * (NODES + 1) - 1,
    };
    walker.require((path.passes() * (2 + n_first)) as u64)?;
    let (output, base) = (path.value(walker, 1.0)?, path.value(walker, 0.0)?);
    let values = match steps {
        Steps::Fixed(n) => path.weighed(walker, &gauss_legendre(n))?,
        Steps::Refined => refined(path, walker, (output, base))?,
    };
    Ok(Found { output, values, base_value: Some(base), of: Of::Features })
}

fn refined<'a>(
    path: &mut impl Path<'a>,
    walker: &mut Walker<'a>,
    (output, base): (f64, f64),
) -> Result<Vec<f64>, ExplainError> {
    let scale = (output - base).abs().max(1.0);
    let mut pieces = Vec::new();
    let mut from = (0.0, base);
    for i in 1..=PIECES_FIRST {
        let s = i as f64 / PIECES_FIRST as f64;
        let to = (s, if i == PIECES_FIRST { output } else { path.value(walker, alpha(s))? });
        pieces.push(Piece::of(path, walker, [from, to])?);
        from = to;
    }
    let mut n_nodes = PIECES_FIRST * NODES;
    loop {
        // The worst first; those that together would not be missed stay as they are.
        pieces.sort_by(|a, b| b.gap().abs().total_cmp(&a.gap().abs()));
        let missed: f64 = pieces.iter().map(|piece| piece.gap().abs()).sum();
        if missed <= AIM * scale {
            break;
        }
        let (mut left, mut n_worst) = (missed, 0);
        while left > AIM / 2.0 * scale {
            left -= pieces[n_worst].gap().abs();
            n_worst += 1;
        }
        let more = n_worst * 2 * NODES;
        let n_passes = path.passes() * n_worst * (2 * NODES + 1);
        if n_nodes + more > NODES_MAX || walker.require(n_passes as u64).is_err() {
            // As many as there is room for, or none.
            let room = (NODES_MAX - n_nodes) / (2 * NODES);
            n_worst = (1..=n_worst.min(room))
                .rev()
                .find(|n| walker.require((path.passes() * n * (2 * NODES + 1)) as u64).is_ok())
                .unwrap_or(0);
        }
        if n_worst == 0 {
            break;
        }
        n_nodes += n_worst * 2 * NODES;
        for worst in pieces.drain(..n_worst).collect::<Vec<Piece>>() {
            let s = (worst.from.0 + worst.to.0) / 2.0;
            let middle = (s, path.value(walker, alpha(s))?);
            for ends in [[worst.from, middle], [middle, worst.to]] {
                pieces.push(Piece::of(path, walker, ends)?);
            }
        }
        let now: f64 = pieces.iter().map(|piece| piece.gap().abs()).sum();
        if now <= COMPLETENESS * scale && now > missed / 2.0 {
            // Near enough, and what is left is rounding.
            break;
        }
    }
    let mut values = vec![0.0; pieces[0].values.len()];
    for piece in &pieces {
        values.iter_mut().zip(&piece.values).for_each(|(sum, value)| *sum += value);
    }
    Ok(values)
}
