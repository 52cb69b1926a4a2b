//! What a suite can ask, and how each item is answered.

use super::calibration::Calibration;
use super::{FailedRow, Finding, Inputs, Rows, Run, refused, victim};
use crate::ServiceError;
use crate::resident::Resident;
use lyceum_models::answer::likeliest;
use lyceum_models::prepare::tabular::{Code, Encoder};
use lyceum_models::prepare::{InputPreparation, Raw};
use lyceum_models::space::Domain;
use lyceum_nn::{Examples, Recording, Tape, Workspace};
use lyceum_robust::attack::{self, Attack, Entry, Evaluation, PgdLoss, Schedule};
use lyceum_robust::certify::interval::Bounds;
use lyceum_robust::certify::linear::LinearModel;
use lyceum_robust::certify::smooth::{self, Smoothing};
use lyceum_robust::corrupt::Severity;
use lyceum_robust::corrupt::audio::{self, Noise};
use lyceum_robust::corrupt::image::{self, Corruption};
use lyceum_robust::corrupt::table::{self, Damage};
use lyceum_robust::corrupt::text::{self, Perturbation};
use lyceum_robust::environments::{self, Environment};
use lyceum_robust::share::share;
use lyceum_robust::{Norm, Threat};
use lyceum_types::control::Control;
use lyceum_types::manifest::{FeatureSketch, Metric};

/// Rows whose bounds are computed between others' work on the device.
const ROWS_A_TURN: usize = 64;

/// One thing to be found out.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Attack {
        threat: Threat,
        attack: Attack,
    },
    /// AutoAttack's standard suite, one after the other on what is left.
    AutoAttack {
        threat: Threat,
    },
    /// A proof within eps: exact for linear models (both norms), by intervals for chains of layers (L∞).
    Certificate {
        threat: Threat,
    },
    /// Certified accuracy of the smoothed classifier over the first `rows` rows.
    Smoothing {
        smoothing: Smoothing,
        rows: usize,
    },
    Corruptions {
        only: Vec<Corruption>,
        severities: Vec<Severity>,
    },
    Text {
        only: Vec<Perturbation>,
        severities: Vec<Severity>,
    },
    Tabular {
        only: Vec<Damage>,
        severities: Vec<Severity>,
    },
    /// Damage of sounds in their samples.
    Audio {
        only: Vec<Noise>,
        severities: Vec<Severity>,
    },
    Environments {
        matrix: Vec<Environment>,
    },
    /// Temperature and calibration error over the validation rows that the version keeps.
    Calibration {
        bins: usize,
    },
}

impl Item {
    /// The same item with the smallest budget that is refused for the same reasons.
    pub(super) fn rehearsal(&self) -> Item {
        let one = |n: usize| n.min(1);
        let mildest = |severities: &[Severity]| severities.iter().take(1).copied().collect();
        match self.clone() {
            Item::Attack { threat, attack } => Item::Attack {
                threat,
                attack: match attack {
                    Attack::Fgsm => Attack::Fgsm,
                    Attack::Pgd { steps, restarts, step, loss } => {
                        Attack::Pgd { steps: one(steps), restarts: one(restarts), step, loss }
                    }
                    Attack::ApgdCe { steps, restarts } => {
                        Attack::ApgdCe { steps: one(steps), restarts: one(restarts) }
                    }
                    Attack::ApgdT { steps, restarts, targets } => {
                        Attack::ApgdT { steps: one(steps), restarts: one(restarts), targets: one(targets) }
                    }
                    Attack::Fab { steps, restarts, targets } => {
                        Attack::Fab { steps: one(steps), restarts: one(restarts), targets: one(targets) }
                    }
                    Attack::Square { queries, restarts } => {
                        Attack::Square { queries: one(queries), restarts: one(restarts) }
                    }
                },
            },
            // Its parts are chosen to fit; what can be refused is what FGSM is refused for.
            Item::AutoAttack { threat } => Item::Attack { threat, attack: Attack::Fgsm },
            Item::Smoothing { smoothing, rows } => {
                Item::Smoothing { smoothing: smoothing.smallest(), rows: rows.min(1) }
            }
            Item::Corruptions { only, severities } => {
                Item::Corruptions { only, severities: mildest(&severities) }
            }
            Item::Text { only, severities } => Item::Text { only, severities: mildest(&severities) },
            Item::Tabular { only, severities } => Item::Tabular { only, severities: mildest(&severities) },
            Item::Audio { only, severities } => Item::Audio { only, severities: mildest(&severities) },
            other => other,
        }
    }
}

/// What is run where no suite is given: PGD, 40 steps and 3 restarts, L∞ within 0.1 of the run's unit.
///
/// # Errors
/// Never; the numbers are inside their ranges.
pub fn default_suite() -> Result<Vec<Item>, ServiceError> {
    let threat = Threat::new(Norm::Linf, 0.1).map_err(refused)?;
    let attack = Attack::Pgd { steps: 40, restarts: 3, step: None, loss: PgdLoss::CrossEntropy };
    Ok(vec![Item::Attack { threat, attack }])
}

/// Kinds of items that fit the input and are not in the suite.
pub(super) fn not_evaluated(input: &InputPreparation, items: &[Item]) -> Vec<String> {
    let has = |kind: fn(&Item) -> bool| items.iter().any(kind);
    let mut out = Vec::new();
    let mut miss = |name: &str, fits: bool, there: bool| {
        if fits && !there {
            out.push(name.to_owned());
        }
    };
    let text = matches!(input, InputPreparation::Text { .. });
    miss("attacks", !text, has(|i| matches!(i, Item::Attack { .. } | Item::AutoAttack { .. })));
    miss("certificates", !text, has(|i| matches!(i, Item::Certificate { .. } | Item::Smoothing { .. })));
    let image = matches!(input, InputPreparation::Image(_));
    miss("corruptions", image, has(|i| matches!(i, Item::Corruptions { .. })));
    miss("text", text, has(|i| matches!(i, Item::Text { .. })));
    let table = matches!(input, InputPreparation::Tabular(_));
    miss("tabular", table, has(|i| matches!(i, Item::Tabular { .. })));
    let sound = matches!(input, InputPreparation::Audio(_));
    miss("audio", sound, has(|i| matches!(i, Item::Audio { .. })));
    miss("environments", !text, has(|i| matches!(i, Item::Environments { .. })));
    miss("calibration", true, has(|i| matches!(i, Item::Calibration { .. })));
    out
}

/// A model with the rows that it is tried on.
pub(super) struct Bench<'r> {
    pub resident: &'r Resident,
    pub names: &'r [String],
    pub rows: &'r Rows,
    /// None for texts.
    pub domain: Option<&'r Domain>,
    pub control: &'r Control,
    /// What all attacks so far have left.
    pub entries: Vec<Entry>,
}

impl<'r> Bench<'r> {
    pub fn clean(&self) -> Result<Finding, ServiceError> {
        match &self.rows.inputs {
            Inputs::Numbers(x) => {
                let domain = self.numbers("rows")?;
                let mut victim = victim(self.resident, domain, self.control)?;
                let answers = victim.answers(&domain.from_model(x)).map_err(refused)?;
                Ok(Finding::share("clean_accuracy", "none", &self.accuracy(&answers)?))
            }
            Inputs::Texts(texts) => self.text_accuracy("clean_accuracy", "none", texts),
        }
    }

    pub fn run(&mut self, item: &Item, seed: u64, run: &mut Run) -> Result<(), ServiceError> {
        match item {
            Item::Attack { threat, attack } => self.attacks(&[(*threat, *attack)], Schedule::Each, seed, run),
            Item::AutoAttack { threat } => {
                let domain = self.numbers("autoattack")?;
                let victim = victim(self.resident, domain, self.control)?;
                let (attacks, left_out) = attack::standard(&victim, threat.norm);
                run.not_evaluated.extend(left_out.iter().map(|why| format!("autoattack without {why}")));
                let suite: Vec<_> = attacks.into_iter().map(|attack| (*threat, attack)).collect();
                self.attacks(&suite, Schedule::Cascade, seed, run)
            }
            Item::Certificate { threat } => self.certificate(*threat, run),
            Item::Smoothing { smoothing, rows } => self.smoothing(*smoothing, *rows, seed, run),
            Item::Corruptions { only, severities } => self.corruptions(only, severities, seed, run),
            Item::Text { only, severities } => self.texts(only, severities, seed, run),
            Item::Tabular { only, severities } => self.tables(only, severities, seed, run),
            Item::Audio { only, severities } => self.sounds(only, severities, seed, run),
            Item::Environments { matrix } => self.environments(matrix, run),
            Item::Calibration { bins } => self.calibration(*bins, run),
        }
    }

    /// The space of numbers, or why there is none.
    fn numbers(&self, method: &str) -> Result<&'r Domain, ServiceError> {
        self.domain.ok_or_else(|| {
            let message = format!("{method}: text has no small changes; use the item \"text\"");
            ServiceError::unsupported("type", "unsupported_method", message)
        })
    }

    fn u(&self, domain: &Domain) -> Vec<f32> {
        match &self.rows.inputs {
            Inputs::Numbers(x) => domain.from_model(x),
            Inputs::Texts(_) => Vec::new(),
        }
    }

    fn accuracy(&self, answers: &[u32]) -> Result<Metric, ServiceError> {
        let right = answers.iter().zip(&self.rows.labels).filter(|(a, l)| a == l).count() as u64;
        share(right, answers.len() as u64).map_err(refused)
    }

    fn attacks(
        &mut self,
        suite: &[(Threat, Attack)],
        schedule: Schedule,
        seed: u64,
        run: &mut Run,
    ) -> Result<(), ServiceError> {
        let domain = self.numbers("an attack")?;
        let u = self.u(domain);
        let mut victim = victim(self.resident, domain, self.control)?;
        let rows = attack::Rows { u: &u, labels: &self.rows.labels };
        let found: Evaluation =
            attack::evaluate(&mut victim, rows, suite, schedule, seed).map_err(refused)?;
        for entry in &found.entries {
            let method = match schedule {
                Schedule::Each => entry.attack.name().to_owned(),
                Schedule::Cascade => format!("autoattack:{}", entry.attack.name()),
            };
            let spent = entry.spent;
            let budget = format!(
                "{}; {} forward and {} backward rows",
                entry.attack.budget(),
                spent.forward_rows,
                spent.backward_rows
            );
            let finding = Finding::share("robust_accuracy", method, &entry.accuracy);
            run.findings.push(finding.setting(setting(entry.threat)).budget(budget));
        }
        if schedule == Schedule::Cascade {
            for (threat, worst) in &found.worst {
                let finding = Finding::share("robust_accuracy", "autoattack", worst);
                run.findings.push(finding.setting(setting(*threat)).budget("all attacks of the suite"));
            }
        }
        merge_signs(&mut run.signs, found.flags);
        self.entries.extend(found.entries);
        // Square is compared with the attacks of all items under its threat.
        let square = attack::square_sign(&self.entries);
        run.signs.iter_mut().filter(|sign| sign.name == square.name).for_each(|sign| *sign = square.clone());
        for failure in found.failures {
            let answer = victim.answers(&failure.adversarial).map_err(refused)?;
            run.failures.push(FailedRow {
                row: failure.row,
                method: failure.attack,
                setting: setting(failure.threat),
                label: self.names[self.rows.labels[failure.row] as usize].clone(),
                answer: self.names[answer[0] as usize].clone(),
                distance: failure.distance,
                adversarial: failure.adversarial,
            });
        }
        Ok(())
    }

    fn certificate(&self, threat: Threat, run: &mut Run) -> Result<(), ServiceError> {
        let domain = self.numbers("a certificate")?;
        let u = self.u(domain);
        let width = domain.len();
        let (method, proved): (&str, Vec<bool>) = match LinearModel::of(&self.resident.model, domain) {
            Ok(linear) => {
                let rows = u.chunks_exact(width).zip(&self.rows.labels);
                let holds = |(u, &label): (&[f32], &u32)| {
                    let found = linear.radius(threat.norm, u);
                    found.class == label && found.radius > threat.eps
                };
                ("exact linear radius", rows.map(holds).collect())
            }
            Err(_) if threat.norm == Norm::Linf => {
                let mut bounds = Bounds::of(&self.resident.model, domain).map_err(refused)?;
                let mut proved = Vec::with_capacity(self.rows.labels.len());
                for (u, labels) in u.chunks(ROWS_A_TURN * width).zip(self.rows.labels.chunks(ROWS_A_TURN)) {
                    let _turn = self.control.turn().map_err(|_| ServiceError::DeadlinePassed)?;
                    let margins = bounds.margins(u, labels, threat.eps).map_err(refused)?;
                    self.control.spend(labels.len() as u64);
                    proved.extend(margins.into_iter().map(|margin| margin > 0.0));
                }
                ("interval bounds", proved)
            }
            Err(_) => {
                let message = "an L2 certificate of a model that is not linear needs the item \"smoothing\"";
                return Err(ServiceError::unsupported("norm", "unsupported_method", message));
            }
        };
        let n_proved = proved.iter().filter(|proved| **proved).count() as u64;
        let found = share(n_proved, proved.len() as u64).map_err(refused)?;
        run.findings.push(Finding::share("certified_accuracy", method, &found).setting(setting(threat)));
        Ok(())
    }

    fn smoothing(
        &self,
        smoothing: Smoothing,
        rows: usize,
        seed: u64,
        run: &mut Run,
    ) -> Result<(), ServiceError> {
        let domain = self.numbers("smoothing")?;
        let u = self.u(domain);
        let width = domain.len();
        let mut victim = victim(self.resident, domain, self.control)?;
        let n = rows.min(self.rows.labels.len());
        let (mut abstained, mut radii) = (0u64, Vec::new());
        for i in 0..n {
            let row = &u[i * width..(i + 1) * width];
            let found = smooth::certify(&mut victim, row, smoothing, seed, i as u64).map_err(refused)?;
            match found.class {
                None => abstained += 1,
                Some(class) if class == self.rows.labels[i] => radii.push(found.radius),
                Some(_) => {}
            }
        }
        let budget = format!(
            "{} samples a row, each certificate wrong with probability ≤ {}",
            smoothing.n(),
            smoothing.alpha()
        );
        let base = format!("l2 sigma {}", smoothing.sigma());
        // At multiples of sigma: beyond about 3 of it no number of samples certifies anything.
        for eps in [0.0, 0.5, 1.0, 2.0].map(|share| share * smoothing.sigma()) {
            let held = radii.iter().filter(|radius| **radius >= eps).count() as u64;
            let found = share(held, n as u64).map_err(refused)?;
            let finding = Finding::share("certified_accuracy", "smoothing", &found);
            run.findings.push(finding.setting(format!("{base} eps {}", round(eps))).budget(&*budget));
        }
        let found = share(abstained, n as u64).map_err(refused)?;
        run.findings.push(Finding::share("abstained", "smoothing", &found).setting(base).budget(budget));
        Ok(())
    }

    fn corruptions(
        &self,
        only: &[Corruption],
        severities: &[Severity],
        seed: u64,
        run: &mut Run,
    ) -> Result<(), ServiceError> {
        let domain = self.numbers("corruptions")?;
        if !matches!(self.resident.preparation.input, InputPreparation::Image(_)) {
            let message = "corruptions are of pictures; tables have the item \"tabular\", texts \"text\", sounds \"audio\"";
            return Err(ServiceError::unsupported("type", "unsupported_method", message));
        }
        let u = self.u(domain);
        let mut victim = victim(self.resident, domain, self.control)?;
        for &corruption in only {
            for &severity in severities {
                let damaged =
                    image::corrupt(domain.layout, &u, corruption, severity, seed).map_err(refused)?;
                let answers = victim.answers(&damaged).map_err(refused)?;
                let found = self.accuracy(&answers)?;
                let finding = Finding::share("corrupted_accuracy", corruption.name(), &found);
                run.findings.push(finding.setting(format!("severity {}", severity.level())));
            }
        }
        Ok(())
    }

    fn texts(
        &self,
        only: &[Perturbation],
        severities: &[Severity],
        seed: u64,
        run: &mut Run,
    ) -> Result<(), ServiceError> {
        let Inputs::Texts(texts) = &self.rows.inputs else {
            let message = "text perturbations need a model that reads texts";
            return Err(ServiceError::unsupported("type", "unsupported_method", message));
        };
        for &perturbation in only {
            for &severity in severities {
                let damage =
                    |(i, text): (usize, &String)| text::perturb(text, perturbation, severity, seed, i as u64);
                let damaged: Vec<String> = texts.iter().enumerate().map(damage).collect();
                let finding = self.text_accuracy("perturbed_accuracy", perturbation.name(), &damaged)?;
                run.findings.push(finding.setting(format!("severity {}", severity.level())));
            }
        }
        Ok(())
    }

    /// The accuracy on texts, each alone: texts of a batch would be padded. How many were longer than the model
    /// reads, and so cut as in training, is told.
    fn text_accuracy(
        &self,
        metric: &'static str,
        method: &str,
        texts: &[String],
    ) -> Result<Finding, ServiceError> {
        let (mut ws, mut answers, mut n_cut) = (Workspace::new(), Vec::with_capacity(texts.len()), 0);
        for (i, text) in texts.iter().enumerate() {
            let _turn = self.control.turn().map_err(|_| ServiceError::DeadlinePassed)?;
            let prepared = self.resident.preparation.example(Raw::Text(text));
            let prepared = prepared.map_err(|error| ServiceError::prepare(&format!("rows[{i}]"), error))?;
            n_cut += usize::from(prepared.n_truncated > 0);
            let input = self.resident.preparation.collate(&[prepared]);
            let params = &self.resident.model.params;
            let mut tape = Tape::new(&mut ws, params, Recording::Off, Examples::Even(1));
            let forward = self.resident.model.forward(&mut tape, &input);
            self.control.spend(1);
            let forward =
                forward.map_err(|error| ServiceError::internal("the model could not be run", error))?;
            answers.push(likeliest(tape.value(forward.logits)));
        }
        let mut finding = Finding::share(metric, method, &self.accuracy(&answers)?);
        if n_cut > 0 {
            finding.flags.push(format!("{n_cut} texts were longer than the model reads, and cut"));
        }
        Ok(finding)
    }

    fn tables(
        &self,
        only: &[Damage],
        severities: &[Severity],
        seed: u64,
        run: &mut Run,
    ) -> Result<(), ServiceError> {
        let (InputPreparation::Tabular(encoder), Inputs::Numbers(x)) =
            (&self.resident.preparation.input, &self.rows.inputs)
        else {
            let message = "tabular damage needs a model of a table's rows";
            return Err(ServiceError::unsupported("type", "unsupported_method", message));
        };
        let domain = self.numbers("tabular")?;
        let (spread, unknown) = spreads(encoder, &self.resident.manifest.features);
        let mut victim = victim(self.resident, domain, self.control)?;
        for &damage in only {
            if let (Damage::Shift | Damage::Noise, Some(column)) = (damage, unknown) {
                // A damage of size 0 would pass for a model that stands it.
                run.not_evaluated.push(format!(
                    "tabular {}: the version keeps no deviation of \"{column}\" (private training withholds it)",
                    damage.name()
                ));
                continue;
            }
            for &severity in severities {
                let (mut kept, mut labels, mut n_refused) = (Vec::new(), Vec::new(), 0u64);
                for (i, row) in x.chunks_exact(encoder.width()).enumerate() {
                    let cells = table::decode(encoder, row).map_err(refused)?;
                    let cells: Vec<_> = cells.iter().map(table::OwnedCell::as_cell).collect();
                    let damaged = table::damage(encoder, &cells, &spread, damage, severity, seed, i as u64)
                        .map_err(refused)?;
                    match damaged {
                        Ok(row) => {
                            kept.extend(row);
                            labels.push(self.rows.labels[i]);
                        }
                        Err(_) => n_refused += 1,
                    }
                }
                let answers = victim.answers(&kept).map_err(refused)?;
                let right = answers.iter().zip(&labels).filter(|(a, l)| a == l).count() as u64;
                // A refused row is not answered rightly; its share is told beside.
                let n = self.rows.labels.len() as u64;
                let setting = format!("severity {}", severity.level());
                let found = share(right, n).map_err(refused)?;
                let finding = Finding::share("damaged_accuracy", damage.name(), &found);
                run.findings.push(finding.setting(&*setting));
                if n_refused > 0 {
                    let found = share(n_refused, n).map_err(refused)?;
                    run.findings.push(Finding::share("refused", damage.name(), &found).setting(setting));
                }
            }
        }
        Ok(())
    }

    fn sounds(
        &self,
        only: &[Noise],
        severities: &[Severity],
        seed: u64,
        run: &mut Run,
    ) -> Result<(), ServiceError> {
        let refuse = |message: &str| Err(ServiceError::unsupported("type", "unsupported_method", message));
        let (InputPreparation::Audio(mel), Inputs::Numbers(x)) =
            (&self.resident.preparation.input, &self.rows.inputs)
        else {
            return refuse("noise over sound needs a model of sounds");
        };
        let Some(clips) = &self.rows.clips else {
            return refuse("noise falls on samples, and these rows are features: give wav files");
        };
        let domain = self.numbers("audio")?;
        let mut victim = victim(self.resident, domain, self.control)?;
        let width = domain.len();
        for &noise in only {
            for &severity in severities {
                let (mut features, mut n_silent) = (Vec::with_capacity(x.len()), 0);
                for (i, own) in x.chunks_exact(width).enumerate() {
                    self.control.check().map_err(|_| ServiceError::DeadlinePassed)?;
                    match audio::damage(clips, i, noise, severity, seed) {
                        Ok(clip) => mel
                            .encode_clip(&clip, &mut features)
                            .map_err(|error| ServiceError::prepare(&format!("rows[{i}]"), error))?,
                        Err(_) if clips.len() > 1 => {
                            n_silent += 1;
                            features.extend_from_slice(own);
                        }
                        Err(error) => return Err(refused(error)),
                    }
                }
                let answers = victim.answers(&domain.from_model(&features)).map_err(refused)?;
                let mut finding = Finding::share("damaged_accuracy", noise.name(), &self.accuracy(&answers)?);
                if n_silent > 0 {
                    finding.flags.push(format!("{n_silent} rows are silent and stayed as they are"));
                }
                run.findings.push(finding.setting(noise.setting(severity)));
            }
        }
        Ok(())
    }

    fn environments(&self, matrix: &[Environment], run: &mut Run) -> Result<(), ServiceError> {
        let domain = self.numbers("environments")?;
        let u = self.u(domain);
        let labels = Some(&self.rows.labels[..]);
        let found = environments::compare(&self.resident.model, domain, &u, labels, matrix, self.control)
            .map_err(refused)?;
        for difference in found {
            let name = difference.environment.name();
            let largest = format!(
                "largest difference of a logit {:.1e}, of a probability {:.1e}{}",
                difference.logit_max,
                difference.probability_max,
                if difference.identical { ", the same bits" } else { "" }
            );
            let finding = Finding::share("agreement", "environment", &difference.agreement);
            run.findings.push(finding.setting(&*name).budget(largest));
            if let Some(accuracy) = &difference.accuracy {
                run.findings
                    .push(Finding::share("environment_accuracy", "environment", accuracy).setting(name));
            }
        }
        Ok(())
    }

    fn calibration(&self, bins: usize, run: &mut Run) -> Result<(), ServiceError> {
        let calibration = Calibration::of(self.resident)?;
        let (temperature, before, after) = calibration.temperature(self.names.len(), bins)?;
        let number = |metric: &'static str, value: f64, setting: String| Finding {
            metric,
            method: "validation rows".into(),
            setting,
            value,
            ci95: None,
            n: temperature.n,
            budget: format!("{bins} bins"),
            flags: vec![],
        };
        run.findings.push(number("temperature", temperature.value, "by likelihood".into()));
        run.findings.push(number("ece", before.ece, "T = 1".into()));
        // On the rows that chose T: what new rows would show is a little more.
        let mut scaled = number("ece", after.ece, format!("T = {:.4}", temperature.value));
        scaled.flags.push("measured on the rows that the temperature was fitted on".into());
        run.findings.push(scaled);
        Ok(())
    }
}

fn setting(threat: Threat) -> String {
    format!("{} eps {}", threat.norm.name(), round(threat.eps))
}

fn round(x: f64) -> f64 {
    (x * 1e6).round() / 1e6
}

/// A sign that was raised once stays raised; one that was evaluated once is.
fn merge_signs(all: &mut Vec<attack::Flag>, new: Vec<attack::Flag>) {
    use lyceum_robust::attack::FlagState::{Clear, NotEvaluated, Raised};
    for flag in new {
        match all.iter_mut().find(|old| old.name == flag.name) {
            None => all.push(flag),
            Some(old) => match (old.state, flag.state) {
                (Raised, _) | (_, NotEvaluated) | (Clear, Clear) => {}
                (NotEvaluated, _) | (Clear, Raised) => *old = flag,
            },
        }
    }
}

/// The deviation of each column among the training rows (0 of categories, where it is not read), and the first
/// number whose deviation the version does not keep.
fn spreads<'e>(encoder: &'e Encoder, features: &[FeatureSketch]) -> (Vec<f64>, Option<&'e str>) {
    let mut unknown = None;
    let spread = encoder.columns.iter().map(|column| {
        let sketch = features.iter().find(|sketch| sketch.name == column.name);
        let std = sketch.and_then(|sketch| sketch.std);
        if std.is_none() && matches!(column.code, Code::Number { .. }) {
            unknown = unknown.or(Some(column.name.as_str()));
        }
        std.unwrap_or(0.0)
    });
    (spread.collect(), unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_models::prepare::tabular::{Column, NumberMissing};

    #[test]
    fn a_number_without_a_kept_deviation_is_named() {
        let code = Code::Number { mean: 0.0, std: 1.0, missing: NumberMissing::Error };
        let encoder = Encoder { columns: vec![Column { name: "age".into(), code }] };
        assert_eq!(spreads(&encoder, &[]), (vec![0.0], Some("age")));
        let known = r#"{"name":"age","n":9,"n_missing":0,"mean":1.0,"std":4.0,"min":0.0,"max":9.0,"quantiles":[],
            "counts":{}}"#;
        let known = serde_json::from_str(known).unwrap();
        assert_eq!(spreads(&encoder, &[known]), (vec![4.0], None));
    }
}
