//! Interval bound propagation (Gowal et al. 2018, arXiv:1810.12715): from bounds on the input to bounds on
//! every layer, and on the differences of the last layer's outputs.
//!
//! A linear layer turns a centre `c` and a radius `r` into `W c + b` and `|W| r`; activations and pools map the
//! ends. Arithmetic is in f32 and its own errors are part of the proof: with `γ = 2 (k + 3) u` for sums of `k`
//! products (Higham 2002, §3.1) every interval grows by `γ (|W| |c| + |b| + |W| r)`. So the bounds hold for the
//! network in exact arithmetic and for its sums in any order.

use crate::error::RobustError;
use lyceum_kernels::activation::activate;
use lyceum_models::space::Domain;
use lyceum_models::walk::Layer;
use lyceum_models::{Model, OutputShape};
use lyceum_nn::ops::pooling::Pooling;
use lyceum_nn::{Activation, Examples, NnError, ParamId, ParamKind, Params, Recording, Tape, Var, Workspace};

/// Half the distance between 1 and the next f32.
const UNIT: f64 = 5.96e-8;
/// How far an activation's approximation may be from the function, relative to 1 + |value|.
const ACTIVATION_ERROR: f32 = 4e-6;
/// Halvings of a radius: it is found to a ten-thousandth of its upper end.
const HALVINGS: usize = 14;
/// Rows that are bounded together.
const BATCH: usize = 64;

/// A chain of layers, ready to be bounded.
pub struct Bounds<'m> {
    model: &'m Model,
    domain: &'m Domain,
    layers: Vec<Layer>,
    /// The model's parameters without their signs.
    absolute: Params,
    n_classes: usize,
    ws: Workspace,
}

/// Intervals of `n` rows, each of `dims`.
struct Interval {
    dims: Vec<usize>,
    lower: Vec<f32>,
    upper: Vec<f32>,
}

impl<'m> Bounds<'m> {
    /// # Errors
    /// A model that is not a chain of layers with known bounds, or that does not answer with classes.
    pub fn of(model: &'m Model, domain: &'m Domain) -> Result<Self, RobustError> {
        let refuse =
            |reason: &str| RobustError::unsupported("interval bounds", reason, "use randomised smoothing");
        let layers = model.layers().map_err(refuse)?;
        let OutputShape::Classes { n: n_classes } = model.shape.output else {
            return Err(refuse("the model does not answer with one of several classes"));
        };
        let mut absolute = model.params.clone();
        for id in absolute.ids().filter(|&id| model.params.kind(id) == ParamKind::Weight) {
            absolute.value_mut(id).iter_mut().for_each(|w| *w = w.abs());
        }
        Ok(Bounds { model, domain, layers, absolute, n_classes, ws: Workspace::new() })
    }

    /// For each row a lower bound of `min_c (z_label − z_c)` over all rows within `eps` (L∞): above 0 proves that
    /// no such row has another answer than its label.
    ///
    /// # Errors
    /// Rows that do not fit.
    pub fn margins(&mut self, u: &[f32], labels: &[u32], eps: f64) -> Result<Vec<f64>, RobustError> {
        let width = self.domain.len();
        if u.len() != labels.len() * width || labels.iter().any(|&l| l as usize >= self.n_classes) {
            return Err(RobustError::Rows(format!("{} labels for {} numbers", labels.len(), u.len())));
        }
        let mut out = Vec::with_capacity(labels.len());
        for (u, labels) in u.chunks(BATCH * width).zip(labels.chunks(BATCH)) {
            let mut interval = self.input(u, eps as f32);
            for i in 0..self.layers.len() - 1 {
                interval = self.layer(self.layers[i], interval, labels.len())?;
            }
            let Some(Layer::Linear(last)) = self.layers.last() else {
                unreachable!("a classifier ends in a linear layer: bug")
            };
            out.extend(self.last(last.weight, last.bias, &interval, labels));
        }
        Ok(out)
    }

    /// For each row the largest `eps` up to `most` for which the proof succeeds (0: for none).
    ///
    /// # Errors
    /// Rows that do not fit.
    pub fn radii(&mut self, u: &[f32], labels: &[u32], most: f64) -> Result<Vec<f64>, RobustError> {
        let width = self.domain.len();
        let (mut low, mut high) = (vec![0.0; labels.len()], vec![most; labels.len()]);
        let proved = |margins: Vec<f64>| margins.into_iter().map(|m| m > 0.0).collect::<Vec<bool>>();
        let at_zero = proved(self.margins(u, labels, 0.0)?);
        let at_most = proved(self.margins(u, labels, most)?);
        for i in 0..labels.len() {
            if at_most[i] {
                low[i] = most;
            } else if !at_zero[i] {
                high[i] = 0.0;
            }
        }
        for _ in 0..HALVINGS {
            for i in 0..labels.len() {
                if low[i] >= high[i] {
                    continue;
                }
                let middle = 0.5 * (low[i] + high[i]);
                let row = &u[i * width..(i + 1) * width];
                if self.margins(row, &labels[i..=i], middle)?[0] > 0.0 {
                    low[i] = middle
                } else {
                    high[i] = middle
                }
            }
        }
        Ok(low)
    }

    fn input(&self, u: &[f32], eps: f32) -> Interval {
        let width = self.domain.len();
        let ends: (Vec<f32>, Vec<f32>) = u
            .iter()
            .enumerate()
            .map(|(i, &u)| {
                let j = i % width;
                let (lo, hi) = self.domain.bounds(j, u);
                if self.domain.movable()[j] {
                    ((u - eps).max(lo).next_down(), (u + eps).min(hi).next_up())
                } else {
                    (u, u)
                }
            })
            .unzip();
        let (mut lower, mut upper) = (Vec::new(), Vec::new());
        self.domain.to_model(&ends.0, &mut lower);
        self.domain.to_model(&ends.1, &mut upper);
        // The change of units rounds too.
        lower.iter_mut().for_each(|x| *x -= x.abs() * 4.0 * UNIT as f32);
        upper.iter_mut().for_each(|x| *x += x.abs() * 4.0 * UNIT as f32);
        Interval { dims: self.domain.dims().to_vec(), lower, upper }
    }

    fn layer(&mut self, layer: Layer, x: Interval, n: usize) -> Result<Interval, RobustError> {
        Ok(match layer {
            Layer::Flatten => Interval { dims: vec![x.dims.iter().product()], ..x },
            Layer::ChannelsFirst => self.ends(x, n, 0.0, |tape, x| tape.channels_first(x))?,
            Layer::Linear(linear) => {
                let fan_in = self.model.params.shape(linear.weight)[1];
                self.affine(x, n, fan_in, &|tape, x, biased| {
                    tape.linear(x, linear.weight, linear.bias.filter(|_| biased), Activation::None)
                })?
            }
            Layer::Conv { weight, bias, geometry } => {
                let shape = self.model.params.shape(weight);
                let fan_in = shape.len() / shape.first();
                self.affine(x, n, fan_in, &|tape, x, biased| {
                    tape.conv(x, weight, biased.then_some(bias), geometry, Activation::None)
                })?
            }
            Layer::BatchNorm(p) => {
                let value = |id: ParamId| self.model.params.value(id);
                let plane = x.dims[1..].iter().product::<usize>();
                let mut x = x;
                for i in 0..x.lower.len() {
                    let c = i / plane % x.dims[0];
                    let scale = f64::from(value(p.weight)[c])
                        / (f64::from(value(p.running_var)[c]) + f64::from(p.eps)).sqrt();
                    let shift = f64::from(value(p.bias)[c]) - f64::from(value(p.running_mean)[c]) * scale;
                    let ends = [x.lower[i], x.upper[i]].map(|v| f64::from(v) * scale + shift);
                    // The engine computes it in f32 from mean and inverse deviation.
                    let size = scale.abs() * f64::from(x.lower[i].abs().max(x.upper[i].abs())) + shift.abs();
                    let slack =
                        16.0 * UNIT * (size + scale.abs() * f64::from(value(p.running_mean)[c].abs()));
                    x.lower[i] = (ends[0].min(ends[1]) - slack) as f32;
                    x.upper[i] = (ends[0].max(ends[1]) + slack) as f32;
                }
                x
            }
            Layer::Activate(f) => activated(f, x),
            Layer::MaxPool(window) => self.ends(x, n, 0.0, |tape, x| tape.pool(x, Pooling::Max, window))?,
            Layer::GlobalPool(pooling) => {
                let size = x.dims[1..].iter().product::<usize>();
                let error = if pooling == Pooling::Avg { gamma(size) } else { 0.0 };
                self.ends(x, n, error, |tape, x| tape.global_pool(x, pooling))?
            }
        })
    }

    /// A layer that is monotone in every number: its value at both ends, wider by `error` of its size.
    fn ends(
        &mut self,
        x: Interval,
        n: usize,
        error: f64,
        f: impl Fn(&mut Tape<'_>, Var) -> Result<Var, NnError>,
    ) -> Result<Interval, RobustError> {
        let (dims, mut lower) = run(&mut self.ws, &self.model.params, &x.dims, &x.lower, n, &f)?;
        let (_, mut upper) = run(&mut self.ws, &self.model.params, &x.dims, &x.upper, n, &f)?;
        if error > 0.0 {
            for (l, u) in lower.iter_mut().zip(&mut upper) {
                let slack = error as f32 * l.abs().max(u.abs());
                (*l, *u) = (*l - slack, *u + slack);
            }
        }
        Ok(Interval { dims, lower, upper })
    }

    /// `W c + b ± (|W| r + γ (|W| |c| + |b| + |W| r))`.
    fn affine(
        &mut self,
        x: Interval,
        n: usize,
        fan_in: usize,
        f: &dyn Fn(&mut Tape<'_>, Var, bool) -> Result<Var, NnError>,
    ) -> Result<Interval, RobustError> {
        let centre: Vec<f32> = x.lower.iter().zip(&x.upper).map(|(l, u)| 0.5 * l + 0.5 * u).collect();
        // At least as large as the distance to both ends, whatever the middle was rounded to.
        let distance = |((l, u), c): ((&f32, &f32), &f32)| (u - c).max(c - l).next_up();
        let radius: Vec<f32> = x.lower.iter().zip(&x.upper).zip(&centre).map(distance).collect();
        let size: Vec<f32> = centre.iter().map(|c| c.abs()).collect();
        let with_bias = |tape: &mut Tape<'_>, x: Var| f(tape, x, true);
        let without = |tape: &mut Tape<'_>, x: Var| f(tape, x, false);
        let (dims, middle) = run(&mut self.ws, &self.model.params, &x.dims, &centre, n, &with_bias)?;
        let (_, size) = run(&mut self.ws, &self.absolute, &x.dims, &size, n, &with_bias)?;
        let (_, spread) = run(&mut self.ws, &self.absolute, &x.dims, &radius, n, &without)?;
        let gamma = gamma(fan_in) as f32;
        let half: Vec<f32> = spread.iter().zip(&size).map(|(r, s)| r + gamma * (r + s)).collect();
        let lower = middle.iter().zip(&half).map(|(m, h)| m - h).collect();
        let upper = middle.iter().zip(&half).map(|(m, h)| m + h).collect();
        Ok(Interval { dims, lower, upper })
    }

    /// Bounds of the differences `z_label − z_c`, whose rows `w_label − w_c` are one linear layer: tighter than
    /// the difference of two bounds.
    fn last(&self, weight: ParamId, bias: Option<ParamId>, x: &Interval, labels: &[u32]) -> Vec<f64> {
        let (w, k) = (self.model.params.value(weight), self.model.params.shape(weight)[1]);
        let bias = |c: usize| bias.map_or(0.0, |b| f64::from(self.model.params.value(b)[c]));
        let gamma = gamma(k);
        labels
            .iter()
            .enumerate()
            .map(|(i, &label)| {
                let label = label as usize;
                let (lower, upper) = (&x.lower[i * k..(i + 1) * k], &x.upper[i * k..(i + 1) * k]);
                let margin = |c: usize| {
                    let (mut sum, mut size) = (bias(label) - bias(c), bias(label).abs() + bias(c).abs());
                    for j in 0..k {
                        let (one, two) = (f64::from(w[label * k + j]), f64::from(w[c * k + j]));
                        let d = one - two;
                        sum += d * f64::from(if d > 0.0 { lower[j] } else { upper[j] });
                        size += (one.abs() + two.abs()) * f64::from(lower[j].abs().max(upper[j].abs()));
                    }
                    sum - gamma * size
                };
                (0..self.n_classes).filter(|&c| c != label).map(margin).fold(f64::INFINITY, f64::min)
            })
            .collect()
    }
}

/// One operation over rows of `dims`.
fn run(
    ws: &mut Workspace,
    params: &Params,
    dims: &[usize],
    data: &[f32],
    n: usize,
    f: &dyn Fn(&mut Tape<'_>, Var) -> Result<Var, NnError>,
) -> Result<(Vec<usize>, Vec<f32>), RobustError> {
    let mut tape = Tape::new(ws, params, Recording::Off, Examples::Even(n));
    let shape: Vec<usize> = [n].iter().chain(dims).copied().collect();
    let x = tape.input(&shape, data)?;
    let y = f(&mut tape, x)?;
    Ok((tape.shape(y).dims()[1..].to_vec(), tape.value(y).to_vec()))
}

fn gamma(k: usize) -> f64 {
    2.0 * (k + 3) as f64 * UNIT
}

fn activated(f: Activation, x: Interval) -> Interval {
    // Where a function falls and then rises: its lowest point.
    let dip = match f {
        Activation::Gelu => Some((-0.751_791_5, -0.169_971_2)),
        Activation::GeluTanh => Some((-0.752_461_4, -0.170_04)),
        Activation::Silu => Some((-1.278_464_5, -0.278_464_54)),
        Activation::None | Activation::Relu | Activation::Tanh | Activation::Sigmoid => None,
    };
    let exact = matches!(f, Activation::None | Activation::Relu);
    let (mut at_lower, mut at_upper) = (vec![0.0; x.lower.len()], vec![0.0; x.upper.len()]);
    activate(f, &x.lower, &mut at_lower);
    activate(f, &x.upper, &mut at_upper);
    let (mut lower, mut upper) = (at_lower.clone(), at_upper.clone());
    for i in 0..lower.len() {
        if let Some((at, value)) = dip {
            lower[i] = at_lower[i].min(at_upper[i]);
            upper[i] = at_lower[i].max(at_upper[i]);
            if x.lower[i] <= at && at <= x.upper[i] {
                lower[i] = lower[i].min(value);
            }
        }
        if !exact {
            lower[i] -= ACTIVATION_ERROR * (1.0 + lower[i].abs());
            upper[i] += ACTIVATION_ERROR * (1.0 + upper[i].abs());
        }
    }
    Interval { dims: x.dims, lower, upper }
}
