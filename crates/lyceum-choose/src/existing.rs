//! Rows of candidates that exist already: what is known before they are asked, and what their answers cost, withstand and
//! rest on, measured as those of candidates that are trained here.

use crate::asked::{Asking, Text};
use crate::error::ChooseError;
use crate::lab::Lab;
use crate::limits::{Stage, excesses};
use crate::race::Out;
use crate::row::{Explained, Row, Standing};
use crate::serve::{Bench, Samples};
use crate::served::{AskError, Asked, How};
use crate::words;
use lyceum_seal::KeyedPath;
use lyceum_train::data;
use lyceum_train::eval;
use lyceum_train::{TrainError, data::Loaded};
use lyceum_types::control::{Control, Stop};
use lyceum_types::manifest::Metric;
use lyceum_types::spec::Spec;
use lyceum_types::spec::choose::ChooseSpec;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A first look at the latency.
const FIRST_LOOK: Duration = Duration::from_millis(100);
/// Each measurement begins where nothing is kept of another.
static APART: AtomicU64 = AtomicU64::new(1);

/// What is known of a candidate before it is asked.
pub fn enter(
    spec: &ChooseSpec,
    number: usize,
    asking: &Asking<'_>,
    bench: &Bench,
    control: &Control,
) -> Result<Row, ChooseError> {
    let own = asking.candidate(number);
    let mut row = Row::new(own.name.clone(), "language model".into(), None);
    let facts = match asking.served().facts(own) {
        Ok(facts) => facts,
        Err(error) => return out(row, &error),
    };
    row.family.clone_from(&facts.family);
    row.parameters = Some(facts.parameters);
    row.disk_bytes = Some(facts.disk_bytes);
    row.ram_bytes = Some(facts.weights_bytes);
    row.explained = Some(Explained { exact: None, measured: None });
    let asked = asking.asked(number, 0, 0);
    row.served = Some((facts, asked.clone()));
    let mut broken = excesses(&spec.limits, &row, Stage::Before);
    if broken.is_empty() && spec.limits.latency_ms_p95.is_some() {
        let mut samples = Samples::default();
        match time(asking, number, &asked, bench, (FIRST_LOOK, &mut samples), control) {
            Ok(()) => row.serving = samples.serving(spec.concurrency),
            Err(ChooseError::Ask { why, .. }) => return out(row, &AskError::Failed(why)),
            Err(error) => return Err(error),
        }
        broken = excesses(&spec.limits, &row, Stage::Before);
    }
    if !broken.is_empty() {
        row.standing = Standing::Excluded(broken);
    }
    Ok(row)
}

fn out(mut row: Row, error: &AskError) -> Result<Row, ChooseError> {
    match error {
        AskError::Stopped(stop) => Err(TrainError::Stopped { step: 0, stop: *stop }.into()),
        AskError::Failed(why) => {
            row.standing = Standing::Out(Out::Failed(why.clone()));
            Ok(row)
        }
    }
}

/// Times answers to held-out texts, none of which is known when its time is taken: after one round of the texts the next
/// begins apart.
pub fn time(
    asking: &Asking<'_>,
    number: usize,
    asked: &Asked,
    bench: &Bench,
    (window, samples): (Duration, &mut Samples),
    control: &Control,
) -> Result<(), ChooseError> {
    let (own, served) = (asking.candidate(number), asking.served());
    let rows = &asking.texts.folds[0].valid;
    let base = APART.fetch_add(1 << 32, Ordering::Relaxed);
    let one = |i: usize| {
        let how = How { control, apart: base + (i / rows.len()) as u64 };
        let said = served.decide(own, asked, &[&rows[i % rows.len()].0], how);
        said.map(|_| ()).map_err(|error| failed(&own.name, error))
    };
    bench.measure_by(&one, window, samples)
}

fn failed(name: &str, error: AskError) -> ChooseError {
    match error {
        AskError::Stopped(stop) => TrainError::Stopped { step: 0, stop }.into(),
        AskError::Failed(why) => ChooseError::Ask { name: name.to_owned(), why },
    }
}

/// Everything beside times: memory and operations of its answers, calibration, what typing errors leave, and whether
/// leaving words out explains it. What could not be measured is given back with the reason.
pub fn measure(
    spec: &ChooseSpec,
    number: usize,
    lab: &mut Lab<'_>,
    row: &mut Row,
) -> Result<Vec<(String, String)>, ChooseError> {
    let control = lab.until_over();
    let Some((asking, _)) = lab.asking(lab.first_existing() + number) else { return Ok(Vec::new()) };
    let own = asking.candidate(number);
    if let (Some((mean, most)), Some((facts, _))) = (asking.tokens(number), &row.served) {
        let beside = spec.concurrency as u64 * most * facts.kv_bytes_per_token;
        row.ram_bytes = Some(facts.weights_bytes + beside);
        let operations = asking.served().operations(own, mean.round() as usize);
        row.operations = Some(operations.map_err(|error| failed(&own.name, error))?);
    }
    if let Some((said, rows)) = asking.first(number) {
        let logs: Vec<f64> = said
            .iter()
            .flat_map(|decided| decided.probabilities.iter().map(|p| p.max(1e-300).ln()))
            .collect();
        let labels: Vec<u32> = rows.iter().map(|(_, label)| *label).collect();
        let metrics = eval::classification(&logs, &labels, asking.texts.labels.len(), spec.seed)?.metrics;
        row.ece = metrics.get("ece").cloned();
    }
    let asked = asking.asked(number, 0, 0);
    let rows: Vec<Text> = asking.texts.folds[0].valid.clone();
    let mut answer = |texts: &[String]| {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let said = asking.served().decide(own, &asked, &texts, How { control: &control, apart: 0 })?;
        Ok(said.into_iter().map(|decided| decided.probabilities).collect())
    };
    let mut refused = Vec::new();
    match words::typos(&rows, spec.seed, &mut answer) {
        Ok(found) => row.robustness = Some(found),
        Err(error) => refused.push((format!("robustness of {}", own.name), over(error)?)),
    }
    match words::faithfulness(&rows, spec.seed, &mut answer) {
        Ok(Some(found)) => row.explained = Some(Explained { exact: None, measured: Some(found) }),
        Ok(None) => {
            let why = "fewer than two texts could be taken apart before the budget was over";
            refused.push((format!("faithfulness of {}", own.name), why.into()));
        }
        Err(error) => refused.push((format!("faithfulness of {}", own.name), over(error)?)),
    }
    Ok(refused)
}

/// Why something was not measured; a cancellation ends the choice.
fn over(error: AskError) -> Result<String, ChooseError> {
    match error {
        AskError::Stopped(stop @ Stop::Cancelled) => Err(TrainError::Stopped { step: 0, stop }.into()),
        AskError::Stopped(Stop::DeadlinePassed) => Ok("the budget was over".into()),
        AskError::Failed(why) => Ok(why),
    }
}

/// The winner's accuracy on the test part, opened once.
///
/// # Errors
/// What is wrong with the file; the model's.
pub fn test(
    number: usize,
    asking: &Asking<'_>,
    job: &Spec,
    (file, base_dir): (&str, &KeyedPath),
    control: &Control,
) -> Result<Metric, ChooseError> {
    let mut job = job.clone();
    job.data.test = Some(file.to_owned());
    let Loaded { test: Some(part), .. } = data::load(&job, base_dir, control).map_err(TrainError::from)?
    else {
        return Err(TrainError::Spec("the test part is empty".into()).into());
    };
    let texts = data::texts(&job, &base_dir.join(file), control).map_err(TrainError::from)?;
    let labels = part.labels().expect("rows of a classification have labels: bug");
    let texts: Vec<&str> = part.row_ids().iter().map(|&row| texts[row as usize].as_str()).collect();
    let (own, asked) = (asking.candidate(number), asking.asked(number, 0, 0));
    let said = asking.served().decide(own, &asked, &texts, How { control, apart: 0 });
    let said = said.map_err(|error| failed(&own.name, error))?;
    let right = said.iter().zip(labels).filter(|(decided, label)| decided.best() == **label).count();
    Ok(eval::wilson(right as u64, said.len() as u64)?)
}
