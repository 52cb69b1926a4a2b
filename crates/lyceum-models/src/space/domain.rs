//! Where inputs may move: the units that changes are measured in, the bounds that a row keeps, and the
//! numbers of a row that an adversary may touch.
//!
//! * **Pictures** are attacked in `pixel / scale`, inside `[0, 1]`, whatever standardisation follows.
//! * **Tables** are attacked in the units of the prepared row: standard deviations of the training rows where
//!   the spec standardises, else the data's own. Only numbers move; categories and the inputs that say that
//!   something is missing do not. Bounds are the training rows' smallest and largest values where they are
//!   given ([`Domain::within`]), else none.
//! * **Series** are attacked in the prepared units of each channel, without bounds.
//! * **Sound** is attacked in its log-mel features, not in its samples: said so, since no sound need exist
//!   that has them.
//! * **Text** has no small changes: it is refused here.

use super::SpaceError;
use crate::prepare::tabular::{Code, NumberMissing};
use crate::prepare::{InputPreparation, Preparation};
use lyceum_types::manifest::FeatureSketch;

/// How the numbers of a row lie beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Columns without an order.
    Features { n: usize },
    /// `[channels, height, width]`.
    Image { channels: usize, height: usize, width: usize },
    /// `[steps, channels]`.
    Series { steps: usize, channels: usize },
}

impl Layout {
    pub fn len(&self) -> usize {
        match *self {
            Layout::Features { n } => n,
            Layout::Image { channels, height, width } => channels * height * width,
            Layout::Series { steps, channels } => steps * channels,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn dims(&self) -> Vec<usize> {
        match *self {
            Layout::Features { n } => vec![n],
            Layout::Image { channels, height, width } => vec![channels, height, width],
            Layout::Series { steps, channels } => vec![steps, channels],
        }
    }
}

/// The space of a model's inputs. Attacks see rows `u` of this space; the model gets
/// `x = (u − offset) / scale`, which is the identity unless pictures are standardised.
#[derive(Clone, Debug, PartialEq)]
pub struct Domain {
    pub layout: Layout,
    /// What one unit is, in words.
    pub unit: String,
    /// The shape that the model takes.
    dims: Vec<usize>,
    lo: Vec<f32>,
    hi: Vec<f32>,
    movable: Vec<bool>,
    /// Empty: the identity.
    offset: Vec<f32>,
    scale: Vec<f32>,
}

impl Domain {
    /// All numbers move, each inside `lo..=hi`; the model gets them as they are.
    pub fn boxed(layout: Layout, lo: f32, hi: f32) -> Self {
        let n = layout.len();
        Domain {
            layout,
            unit: "as the model takes it".into(),
            dims: layout.dims(),
            lo: vec![lo; n],
            hi: vec![hi; n],
            movable: vec![true; n],
            offset: Vec::new(),
            scale: Vec::new(),
        }
    }

    /// The space of a stored model.
    ///
    /// # Errors
    /// Inputs that have no small changes (text).
    pub fn of(preparation: &Preparation) -> Result<Self, SpaceError> {
        match &preparation.input {
            InputPreparation::Image(pixels) => {
                let [channels, height, width] = pixels.shape;
                let mut domain = Domain::boxed(Layout::Image { channels, height, width }, 0.0, 1.0);
                domain.unit = format!("pixel / {}", pixels.scale);
                if !pixels.mean.is_empty() {
                    let plane = height * width;
                    let spread = |v: &[f64]| (0..domain.len()).map(|i| v[i / plane] as f32).collect();
                    (domain.offset, domain.scale) = (spread(&pixels.mean), spread(&pixels.std));
                }
                Ok(domain)
            }
            InputPreparation::Tabular(encoder) => {
                let layout = Layout::Features { n: encoder.width() };
                let mut domain = Domain::boxed(layout, f32::NEG_INFINITY, f32::INFINITY);
                domain.movable.clear();
                let mut standardised = false;
                for column in &encoder.columns {
                    domain.movable.extend(std::iter::repeat_n(false, column.width()));
                    if let Code::Number { mean, std, .. } = &column.code {
                        let first = domain.movable.len() - column.width();
                        domain.movable[first] = true;
                        standardised |= *mean != 0.0 || *std != 1.0;
                    }
                }
                domain.unit = if standardised {
                    "standard deviations of the training rows, numbers only".into()
                } else {
                    "the data's own units, numbers only".into()
                };
                if !domain.movable.contains(&true) {
                    return Err(SpaceError::NoSmallChanges {
                        reason: "every feature is a category",
                        fix: "use a model with numeric features",
                    });
                }
                Ok(domain)
            }
            InputPreparation::Series(series) => {
                let layout = Layout::Series { steps: series.steps, channels: series.channels() };
                let mut domain = Domain::boxed(layout, f32::NEG_INFINITY, f32::INFINITY);
                domain.unit = "standard deviations of the training rows".into();
                Ok(domain)
            }
            InputPreparation::Audio(mel) => {
                let layout = Layout::Image { channels: 1, height: mel.frames(), width: mel.n_mels };
                let mut domain = Domain::boxed(layout, f32::NEG_INFINITY, f32::INFINITY);
                domain.unit = "prepared log-mel features (not sound samples)".into();
                Ok(domain)
            }
            InputPreparation::Text { .. } | InputPreparation::Pair { .. } => {
                Err(SpaceError::NoSmallChanges {
                    reason: "words have no distance that eps could measure",
                    fix: "use perturbations of words: typos, case, homoglyphs, word swaps",
                })
            }
        }
    }

    /// A table's numbers also stay inside the smallest and largest training values.
    ///
    /// # Errors
    /// Sketches of other columns than the encoder's.
    pub fn within(
        mut self,
        preparation: &Preparation,
        sketches: &[FeatureSketch],
    ) -> Result<Self, SpaceError> {
        let InputPreparation::Tabular(encoder) = &preparation.input else { return Ok(self) };
        let mut first = 0;
        for column in &encoder.columns {
            if let Code::Number { mean, std, missing } = &column.code {
                let sketch = sketches.iter().find(|s| s.name == column.name);
                let bounds = sketch.and_then(|s| s.min.zip(s.max)).ok_or_else(|| {
                    SpaceError::Rows(format!("the manifest has no sketch of \"{}\"", column.name))
                })?;
                let unit = |x: f64| ((x - mean) / std) as f32;
                (self.lo[first], self.hi[first]) = (unit(bounds.0), unit(bounds.1));
                // A value filled in for a missing one lies inside too.
                if let NumberMissing::Fill(fill) | NumberMissing::Indicator(fill) = missing {
                    self.lo[first] = self.lo[first].min(unit(*fill));
                    self.hi[first] = self.hi[first].max(unit(*fill));
                }
            }
            first += column.width();
        }
        Ok(self)
    }

    /// Only these numbers may move (and only where they might before).
    ///
    /// # Errors
    /// Another count than the row's, or none left.
    pub fn only(mut self, movable: &[bool]) -> Result<Self, SpaceError> {
        if movable.len() != self.len() {
            let problem = format!("{} flags for {} numbers of a row", movable.len(), self.len());
            return Err(SpaceError::MayChange(problem));
        }
        for (own, also) in self.movable.iter_mut().zip(movable) {
            *own &= also;
        }
        if !self.movable.contains(&true) {
            return Err(SpaceError::MayChange("nothing is left that may change".into()));
        }
        Ok(self)
    }

    /// Numbers of a row.
    pub fn len(&self) -> usize {
        self.lo.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lo.is_empty()
    }

    /// The shape of one row as the model takes it.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    pub fn movable(&self) -> &[bool] {
        &self.movable
    }

    /// Smallest and largest value of number `j` of the row `u`; a number that may not move has its own value.
    pub fn bounds(&self, j: usize, u: f32) -> (f32, f32) {
        if self.movable[j] { (self.lo[j], self.hi[j]) } else { (u, u) }
    }

    /// Whether the space has bounds anywhere.
    pub fn is_bounded(&self) -> bool {
        self.lo.iter().chain(&self.hi).any(|x| x.is_finite())
    }

    /// Prepared rows in this space's units.
    pub fn from_model(&self, x: &[f32]) -> Vec<f32> {
        if self.scale.is_empty() {
            return x.to_vec();
        }
        let n = self.len();
        x.iter().enumerate().map(|(i, x)| x * self.scale[i % n] + self.offset[i % n]).collect()
    }

    /// Rows of this space as the model takes them, appended to `x`.
    pub fn to_model(&self, u: &[f32], x: &mut Vec<f32>) {
        if self.scale.is_empty() {
            x.extend_from_slice(u);
            return;
        }
        let n = self.len();
        x.extend(u.iter().enumerate().map(|(i, u)| (u - self.offset[i % n]) / self.scale[i % n]));
    }

    /// A gradient with respect to `x` as one with respect to `u`; numbers that may not move get 0.
    pub fn gradient_from_model(&self, g: &mut [f32]) {
        let n = self.len();
        for (i, g) in g.iter_mut().enumerate() {
            let j = i % n;
            if !self.movable[j] {
                *g = 0.0;
            } else if !self.scale.is_empty() {
                *g /= self.scale[j];
            }
        }
    }

    /// Weights `[classes, width]` of `x` as weights of `u`.
    pub fn scale_weights(&self, w: &mut [f32]) {
        if !self.scale.is_empty() {
            let n = self.len();
            w.iter_mut().enumerate().for_each(|(i, w)| *w /= self.scale[i % n]);
        }
    }

    /// Rows that are whole, finite and inside the bounds (up to rounding, which is cut).
    ///
    /// # Errors
    /// The row and number that is not.
    pub fn admit(&self, u: &mut [f32]) -> Result<(), SpaceError> {
        const ROUNDING: f32 = 1e-4;
        let n = self.len();
        if n == 0 || !u.len().is_multiple_of(n) {
            return Err(SpaceError::Rows(format!("{} numbers are no rows of {n}", u.len())));
        }
        for (i, u) in u.iter_mut().enumerate() {
            let (row, j) = (i / n, i % n);
            if !u.is_finite() {
                return Err(SpaceError::Rows(format!("number {j} of row {row} is not finite")));
            }
            let (lo, hi) = self.bounds(j, *u);
            if *u < lo - ROUNDING || *u > hi + ROUNDING {
                return Err(SpaceError::Rows(format!(
                    "number {j} of row {row} is {u}, outside {lo} to {hi} ({})",
                    self.unit
                )));
            }
            *u = u.clamp(lo, hi);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepare::OutputPreparation;
    use crate::prepare::tabular::{CategoryMissing, Column, Encoder};
    use crate::prepare::vision::Pixels;
    use lyceum_types::spec::Unseen;

    fn labels() -> OutputPreparation {
        OutputPreparation::Labels { names: vec!["a".into(), "b".into()] }
    }

    fn table() -> Preparation {
        let number = |name: &str| Column {
            name: name.into(),
            code: Code::Number { mean: 40.0, std: 10.0, missing: NumberMissing::Indicator(35.0) },
        };
        let category = Column {
            name: "zip".into(),
            code: Code::Category {
                values: vec!["1".into(), "2".into()],
                unseen: Unseen::Error,
                missing: CategoryMissing::Error,
            },
        };
        let encoder = Encoder { columns: vec![number("age"), category] };
        Preparation { input: InputPreparation::Tabular(encoder), output: labels() }
    }

    #[test]
    fn only_the_numbers_of_a_table_move_and_only_where_training_rows_were() {
        let p = table();
        let sketch = FeatureSketch {
            name: "age".into(),
            n: 3,
            n_missing: 0,
            mean: Some(40.0),
            std: Some(10.0),
            min: Some(20.0),
            max: Some(60.0),
            quantiles: vec![],
            counts: Default::default(),
        };
        let domain = Domain::of(&p).unwrap();
        assert_eq!(domain.movable(), [true, false, false, false]);
        assert!(!domain.is_bounded() && domain.unit.contains("standard deviations"));
        let domain = domain.within(&p, &[sketch]).unwrap();
        assert_eq!(domain.bounds(0, 0.0), (-2.0, 2.0));
        assert_eq!(domain.bounds(1, 1.0), (1.0, 1.0));
        assert!(domain.only(&[false, true, true, true]).is_err());
    }

    #[test]
    fn standardised_pictures_are_attacked_between_0_and_1() {
        let pixels =
            Pixels { shape: [1, 1, 2], scale: 16.0, file_scale: 255.0, mean: vec![0.5], std: vec![0.25] };
        let p = Preparation { input: InputPreparation::Image(pixels), output: labels() };
        let domain = Domain::of(&p).unwrap();
        let mut x = Vec::new();
        domain.to_model(&[0.0, 1.0], &mut x);
        assert_eq!(x, [-2.0, 2.0]);
        assert_eq!(domain.from_model(&x), [0.0, 1.0]);
        let mut g = [1.0, 2.0];
        domain.gradient_from_model(&mut g);
        assert_eq!(g, [4.0, 8.0]);
        let error = domain.admit(&mut [0.5, 1.5]).unwrap_err();
        assert!(error.to_string().contains("outside 0 to 1"), "{error}");
    }
}
