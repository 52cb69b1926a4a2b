//! The exact distance from a row to the nearest row that a linear model answers otherwise.
//!
//! The answer `y` changes to `c` on the plane `(w_c − w_y)·(u + δ) = z_y − z_c − (w_c − w_y)·u…`, that is where
//! the move gains the margin `z_y − z_c`. Without bounds the distance is `(z_y − z_c) / ‖w_c − w_y‖*` with the
//! dual norm; inside a box it is found exactly by [`plane::nearest`].

use crate::error::RobustError;
use crate::plane::{self, Move};
use lyceum_models::Model;
use lyceum_models::answer::likeliest;
use lyceum_models::space::Domain;
use lyceum_models::space::Norm;
use lyceum_models::walk::Layer;

/// A linear classifier over the domain: `z = W u + b`.
pub struct LinearModel<'d> {
    domain: &'d Domain,
    /// `[classes, width]`, in the domain's units.
    weight: Vec<f32>,
    bias: Vec<f64>,
}

/// How far a row is from another answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Radius {
    /// The model's answer.
    pub class: u32,
    /// No row within less has another answer; infinite where the bounds keep every other answer out of reach.
    pub radius: f64,
    /// The answer beyond it.
    pub next: Option<u32>,
}

impl<'d> LinearModel<'d> {
    /// # Errors
    /// A model that is not linear in its input.
    pub fn of(model: &Model, domain: &'d Domain) -> Result<Self, RobustError> {
        let refuse = |reason: &str| {
            let fix = "use interval bounds (mlp, cnn) or randomised smoothing";
            RobustError::unsupported("an exact radius", reason, fix)
        };
        let layers = model.layers().map_err(refuse)?;
        let [Layer::Flatten, Layer::Linear(linear)] = layers[..] else {
            return Err(refuse("the model has more than one layer"));
        };
        let width = domain.len();
        let shape = model.params.shape(linear.weight);
        if shape[1] != width {
            return Err(RobustError::Rows(format!("rows of {width} numbers for a model of {}", shape[1])));
        }
        // W x + b with x = (u − offset) / scale: a row of W is a gradient with respect to x.
        let mut weight = model.params.value(linear.weight).to_vec();
        let mut zero = Vec::new();
        domain.to_model(&vec![0.0; width], &mut zero);
        let own = linear.bias.map(|b| model.params.value(b).to_vec()).unwrap_or(vec![0.0; shape[0]]);
        let bias = weight.chunks_exact(width).zip(own).map(|(w, b)| f64::from(b) + dot(w, &zero)).collect();
        domain.scale_weights(&mut weight);
        Ok(LinearModel { domain, weight, bias })
    }

    /// The logits of one row, in f64.
    pub fn logits(&self, u: &[f32]) -> Vec<f64> {
        self.weight.chunks_exact(u.len()).zip(&self.bias).map(|(w, b)| dot(w, u) + b).collect()
    }

    /// The exact radius of one row.
    pub fn radius(&self, norm: Norm, u: &[f32]) -> Radius {
        let z = self.logits(u);
        let class = likeliest(&z.iter().map(|z| *z as f32).collect::<Vec<f32>>()) as usize;
        let mut nearest = Radius { class: class as u32, radius: f64::INFINITY, next: None };
        for c in (0..z.len()).filter(|&c| c != class) {
            let found = self.move_to(norm, u, class, c, (z[class] - z[c]).max(0.0));
            if found.reaches && found.length < nearest.radius {
                (nearest.radius, nearest.next) = (found.length, Some(c as u32));
            }
        }
        nearest
    }

    fn move_to(&self, norm: Norm, u: &[f32], from: usize, to: usize, margin: f64) -> Move {
        let width = u.len();
        let row = |c: usize| &self.weight[c * width..(c + 1) * width];
        let mut w: Vec<f32> = row(to).iter().zip(row(from)).map(|(a, b)| a - b).collect();
        // A number that stays has no part in it.
        w.iter_mut().zip(self.domain.movable()).filter(|(_, m)| !**m).for_each(|(w, _)| *w = 0.0);
        plane::nearest(self.domain, norm, u, &w, margin)
    }
}

fn dot(w: &[f32], u: &[f32]) -> f64 {
    w.iter().zip(u).map(|(w, u)| f64::from(*w) * f64::from(*u)).sum()
}
