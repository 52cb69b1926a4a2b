//! How far attributions can be trusted, measured by taking features away: in the order that they say, and in
//! random orders beside it.
//!
//! * comprehensiveness and sufficiency: the mean fall of the output without, and with only, the most important
//!   1, 5, 10, 20 and 50 % (DeYoung et al. 2020, arXiv:1911.03429);
//! * deletion and insertion: the area under the output while features go or come, most important first (Petsiuk
//!   et al. 2018, arXiv:1806.07421);
//! * infidelity: `E (Σ_{i removed} φ_i − (f(x) − f(x without them)))²`, and sensitivity: the largest relative
//!   change of `φ` within a small box around the input (Yeh et al. 2019, arXiv:1901.09392).

use crate::explanation::RandomControl;
use crate::methods::{Attributed, permutation};
use crate::session::{Coalition, Session};
use crate::{Checks, ExplainError, Of, Quantity, Request, Wanted};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;

/// A measure that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    Comprehensiveness,
    Sufficiency,
    DeletionAuc,
    InsertionAuc,
    Infidelity,
    Sensitivity,
}

/// Parts of the features that are taken away at once.
const FRACTIONS: [f64; 5] = [0.01, 0.05, 0.1, 0.2, 0.5];
/// Points of a curve.
const CURVE_STEPS: usize = 16;
/// Random orders of the control.
const RANDOM_ORDERS: usize = 10;
/// Random removals of infidelity, and moved inputs of sensitivity.
const REMOVALS: usize = 32;
const MOVES: usize = 5;
/// Half the side of the box of sensitivity, as a part of the input's range.
const RADIUS: f64 = 0.02;

impl Check {
    pub const ALL: [Check; 6] = [
        Check::Comprehensiveness,
        Check::Sufficiency,
        Check::DeletionAuc,
        Check::InsertionAuc,
        Check::Infidelity,
        Check::Sensitivity,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Check::Comprehensiveness => "comprehensiveness",
            Check::Sufficiency => "sufficiency",
            Check::DeletionAuc => "deletion_auc",
            Check::InsertionAuc => "insertion_auc",
            Check::Infidelity => "infidelity",
            Check::Sensitivity => "sensitivity",
        }
    }

    pub fn named(name: &str) -> Option<Check> {
        Check::ALL.into_iter().find(|c| c.name() == name)
    }
}

/// Measures what the request asks for into `checks`.
pub(crate) fn evaluate(
    session: &mut Session<'_>,
    request: &Request,
    found: &Attributed,
    checks: &mut Checks,
) -> Result<(), ExplainError> {
    if request.evaluate.is_empty() {
        return Ok(());
    }
    if matches!(found.of, Of::Layer { .. }) {
        let message = "units of a layer cannot be taken from the input: ask for no evaluation";
        return Err(ExplainError::request("evaluate", message));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(request.seed ^ 0xFA17);
    let orders: Vec<Check> =
        [Check::Comprehensiveness, Check::Sufficiency, Check::DeletionAuc, Check::InsertionAuc]
            .into_iter()
            .filter(|c| request.evaluate.contains(c))
            .collect();
    if !orders.is_empty() {
        by_order(session, request, found, checks, &orders, &mut rng)?;
    }
    if request.evaluate.contains(&Check::Infidelity) {
        checks.infidelity = Some(infidelity(session, request, found, &mut rng)?);
    }
    if request.evaluate.contains(&Check::Sensitivity) {
        checks.sensitivity = Some(sensitivity(session, request, found, &mut rng)?);
    }
    Ok(())
}

fn by_order(
    session: &mut Session<'_>,
    request: &Request,
    found: &Attributed,
    checks: &mut Checks,
    wanted: &[Check],
    rng: &mut ChaCha8Rng,
) -> Result<(), ExplainError> {
    let n = found.values.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| found.values[b].total_cmp(&found.values[a]).then(a.cmp(&b)));
    let mut scorer = Scorer::new(session, request)?;
    checks.quantity = Some(scorer.quantity.name());
    let own: Vec<f64> =
        wanted.iter().map(|&c| scorer.measure(c, &order)).collect::<Result<_, ExplainError>>()?;
    let mut random: Vec<Vec<f64>> = vec![Vec::new(); wanted.len()];
    for _ in 0..RANDOM_ORDERS {
        let order = permutation(rng, n);
        for (list, &check) in random.iter_mut().zip(wanted) {
            list.push(scorer.measure(check, &order)?);
        }
    }
    let mut faithful = true;
    let mut control = RandomControl::default();
    for ((&check, &own), random) in wanted.iter().zip(&own).zip(&random) {
        let [mean, stderr] = mean_and_stderr(random);
        let (slot, beside) = match check {
            Check::Comprehensiveness => (&mut checks.comprehensiveness, &mut control.comprehensiveness),
            Check::Sufficiency => (&mut checks.sufficiency, &mut control.sufficiency),
            Check::DeletionAuc => (&mut checks.deletion_auc, &mut control.deletion_auc),
            _ => (&mut checks.insertion_auc, &mut control.insertion_auc),
        };
        (*slot, *beside) = (Some(own), Some([mean, stderr]));
        let more_is_better = matches!(check, Check::Comprehensiveness | Check::InsertionAuc);
        let lead = if more_is_better { own - mean } else { mean - own };
        faithful &= lead > 2.0 * stderr;
    }
    checks.random_control = control;
    checks.faithful = Some(faithful);
    Ok(())
}

/// Outputs of coalitions, each asked once.
struct Scorer<'s, 'a> {
    session: &'s mut Session<'a>,
    request: &'s Request,
    quantity: Quantity,
    output: f64,
    known: HashMap<Coalition, f64>,
}

impl<'s, 'a> Scorer<'s, 'a> {
    fn new(session: &'s mut Session<'a>, request: &'s Request) -> Result<Self, ExplainError> {
        let target = &session.target;
        // Probabilities are what people compare; spans have the sum of their logarithms.
        let quantity = match (target.quantity(), target.terms().len()) {
            (value @ Quantity::Value { .. }, _) => value,
            (_, 1) => Quantity::Probability,
            _ => Quantity::LogProbability,
        };
        let mut scorer = Scorer { session, request, quantity, output: 0.0, known: HashMap::new() };
        let n = scorer.session.subject.groups.n();
        scorer.output = scorer.values(vec![vec![true; n]])?[0];
        Ok(scorer)
    }

    fn values(&mut self, coalitions: Vec<Coalition>) -> Result<Vec<f64>, ExplainError> {
        let mut asked: Vec<Coalition> = Vec::new();
        for coalition in &coalitions {
            if !self.known.contains_key(coalition) && !asked.contains(coalition) {
                asked.push(coalition.clone());
            }
        }
        let target = self.session.target.in_quantity(self.quantity);
        let values = self.session.values(&self.request.baseline, &target, &asked)?;
        self.known.extend(asked.into_iter().zip(values));
        Ok(coalitions.iter().map(|c| self.known[c]).collect())
    }

    /// One measure of one order, most important first.
    fn measure(&mut self, check: Check, order: &[usize]) -> Result<f64, ExplainError> {
        let n = order.len();
        let of = |k: usize, top: bool| {
            let mut coalition = vec![!top; n];
            order[..k].iter().for_each(|&i| coalition[i] = top);
            coalition
        };
        match check {
            Check::Comprehensiveness | Check::Sufficiency => {
                let keep_top = check == Check::Sufficiency;
                let sizes = FRACTIONS.map(|f| ((f * n as f64).ceil() as usize).clamp(1, n));
                let values = self.values(sizes.iter().map(|&k| of(k, keep_top)).collect())?;
                Ok(self.output - values.iter().sum::<f64>() / values.len() as f64)
            }
            _ => {
                let insert = check == Check::InsertionAuc;
                let steps = n.min(CURVE_STEPS);
                let sizes: Vec<usize> = (0..=steps).map(|j| j * n / steps).collect();
                let values = self.values(sizes.iter().map(|&k| of(k, insert)).collect())?;
                let area = |j: usize| {
                    (sizes[j + 1] - sizes[j]) as f64 / n as f64 * (values[j] + values[j + 1]) / 2.0
                };
                Ok((0..steps).map(area).sum())
            }
        }
    }
}

fn infidelity(
    session: &mut Session<'_>,
    request: &Request,
    found: &Attributed,
    rng: &mut ChaCha8Rng,
) -> Result<f64, ExplainError> {
    if !request.method.in_units_of_output() {
        let message = format!("{} is not in units of the output: no infidelity", request.method.name());
        return Err(ExplainError::request("evaluate", message));
    }
    let n = found.values.len();
    let coalitions: Vec<Coalition> =
        (0..REMOVALS).map(|_| (0..n).map(|_| rng.random::<f64>() < 0.5).collect()).collect();
    let (target, output) = (session.target.clone(), session.output);
    let values = session.values(&request.baseline, &target, &coalitions)?;
    let errors = coalitions.iter().zip(values).map(|(coalition, value)| {
        let removed = found.values.iter().zip(coalition).filter(|(_, present)| !**present);
        (removed.map(|(v, _)| v).sum::<f64>() - (output - value)).powi(2)
    });
    Ok(errors.sum::<f64>() / REMOVALS as f64)
}

fn sensitivity(
    session: &mut Session<'_>,
    request: &Request,
    found: &Attributed,
    rng: &mut ChaCha8Rng,
) -> Result<f64, ExplainError> {
    let (entry, output) = (session.entry.clone(), session.output);
    let (min, max) = entry.iter().fold((f32::MAX, f32::MIN), |(lo, hi), &x| (lo.min(x), hi.max(x)));
    let radius = RADIUS * f64::from(max - min);
    let norm = found.values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let mut largest = 0.0f64;
    for _ in 0..MOVES {
        let step = |x: &f32| (f64::from(*x) + radius * (2.0 * rng.random::<f64>() - 1.0)) as f32;
        session.entry = entry.iter().map(step).collect();
        let target = vec![session.target.clone()];
        session.output = session.pass(Some(session.entry.clone()), target, Wanted::Scores)?.scores[0];
        let moved = request.method.run(session, &request.baseline, request.seed)?;
        let change: f64 = moved.values.iter().zip(&found.values).map(|(a, b)| (a - b).powi(2)).sum();
        largest = largest.max(change.sqrt() / norm.max(f64::MIN_POSITIVE));
    }
    (session.entry, session.output) = (entry, output);
    crate::session::finite("the sensitivity", largest)
}

fn mean_and_stderr(values: &[f64]) -> [f64; 2] {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    [mean, (variance / n).sqrt()]
}
