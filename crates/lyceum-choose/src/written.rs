//! A choice among models that write texts: prompts with completions and conversations, the same held-out lines for all.
//!
//! Nothing is raced and there is one seed (an adapter that a candidate asks for is tuned first, on the other lines): every candidate reads the references once. The likeliest answer is
//! the reference, token for token, exactly where each of its tokens is the likeliest after those before it; so one pass
//! over the references gives exact matches, token accuracy and perplexity together, and nothing is generated for them.
//! An answer as long as the reference is what is timed.

use crate::choose::{Event, Selection, Watch, costs};
use crate::conclude::{conclude, nobody};
use crate::error::ChooseError;
use crate::limits::{Stage, excesses};
use crate::race::{Out, Race, Run, Trial};
use crate::row::{Row, Standing};
use crate::scores::{Loss, Scores};
use crate::serve::{Bench, Samples};
use crate::served::{AskError, Course, Lesson, Lines, Served};
use lyceum_seal::KeyedPath;
use lyceum_train::TrainError;
use lyceum_train::tune::OnRows;
use lyceum_types::control::{Control, Stop};
use lyceum_types::spec::choose::{AnswerMetric, ChooseSpec, Imported};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Each of the rounds in which finalists take turns.
const LOOK: Duration = Duration::from_millis(150);
const ROUNDS: usize = 3;
static APART: AtomicU64 = AtomicU64::new(1 << 62);

/// What a row's number is.
pub fn loss(metric: AnswerMetric) -> Loss {
    match metric {
        AnswerMetric::ExactMatch => Loss::Match,
        AnswerMetric::TokenAccuracy => Loss::Tokens,
        AnswerMetric::Perplexity => Loss::Nats,
    }
}

/// A number a line, smaller is better.
fn losses(metric: AnswerMetric, read: &OnRows) -> Vec<f64> {
    let one = |row: &lyceum_train::tune::Answer| match metric {
        AnswerMetric::ExactMatch => f64::from(u8::from(row.n_right < row.n_tokens)),
        AnswerMetric::TokenAccuracy => 1.0 - row.n_right as f64 / row.n_tokens.max(1) as f64,
        AnswerMetric::Perplexity => row.nats / row.n_tokens.max(1) as f64,
    };
    read.answers.iter().map(one).collect()
}

/// Whose lines these are.
pub struct Asked<'a> {
    pub spec: &'a ChooseSpec,
    pub base_dir: &'a KeyedPath,
    pub served: &'a dyn Served,
}

/// As [`choose`](crate::choose()), of models that write texts.
pub fn choose(asked: &Asked<'_>, watch: &mut dyn Watch, control: &Control) -> Result<Selection, ChooseError> {
    let begun = Instant::now();
    let spec = asked.spec;
    let metric = spec.metric.unwrap_or(AnswerMetric::ExactMatch);
    let over = control.clone().with_deadline(begun + Duration::from_secs_f64(spec.budget_minutes * 60.0));
    let mut rows = Vec::new();
    for candidate in &spec.imported {
        let row = enter(spec, candidate, asked.served)?;
        watch.event(&Event::Entered(&row));
        rows.push(row);
    }
    if rows.iter().all(|row| row.standing != Standing::Finalist) {
        return nobody(rows, spec, begun, Vec::new());
    }
    let mut read: Vec<(usize, OnRows)> = Vec::new();
    let mut who = spec.imported.clone();
    for i in 0..rows.len() {
        if rows[i].standing != Standing::Finalist {
            continue;
        }
        let (run, at) = (Run { candidate: i, share: 1.0, seed: 0, all_folds: true }, Instant::now());
        let ready = tuned(asked, &spec.imported[i], (&mut who[i], &mut rows[i]), &over);
        let found =
            ready.and_then(|()| asked.served.read(&who[i], (spec, Lines::HeldOut), asked.base_dir, &over));
        let found = comparable(found, metric, &read, &rows);
        let ended = match found {
            Ok(found) => {
                let losses = losses(metric, &found);
                read.push((i, found));
                Ok(Trial { losses, seconds: at.elapsed().as_secs_f64() })
            }
            Err(AskError::Stopped(Stop::DeadlinePassed)) => Err(Out::Budget),
            Err(AskError::Stopped(stop)) => return Err(TrainError::Stopped { step: 0, stop }.into()),
            Err(AskError::Failed(why)) => Err(Out::Failed(why)),
        };
        watch.event(&Event::Ran { name: &rows[i].name, run, ended: &ended });
        if let Err(out) = ended {
            rows[i].standing = Standing::Out(out);
        }
    }
    if read.is_empty() {
        let over = rows.iter().any(|row| row.standing == Standing::Out(Out::Budget));
        let minutes = spec.budget_minutes;
        return if over {
            Err(ChooseError::Budget { budget_minutes: minutes, needed_minutes: None })
        } else {
            nobody(rows, spec, begun, Vec::new())
        };
    }
    watch.event(&Event::Measuring { finalists: read.len() });
    let mut not_evaluated = measure((asked, &who), &read, &mut rows, control)?;
    let mut scores = Vec::new();
    for (i, found) in &read {
        let own = Scores { loss: loss(metric), seeds: vec![losses(metric, found)], lags: 0 };
        rows[*i].quality = Some(own.quality()?);
        rows[*i].also = found.metrics().map_err(ChooseError::from)?;
        let broken = excesses(&spec.limits, &rows[*i], Stage::After);
        if !broken.is_empty() {
            rows[*i].standing = Standing::Excluded(broken);
        }
        scores.push((*i, own));
    }
    unmeasured(spec, &mut not_evaluated);
    let seconds = begun.elapsed().as_secs_f64();
    let raced = Race { finalists: Vec::new(), out: Vec::new(), share: 1.0, seeds: 1, run_seconds: seconds };
    let mut selection = conclude(spec, rows, scores, &raced, not_evaluated, begun)?;
    if let Ok(taken) = &mut selection.recommendation {
        taken.tuned = spec.imported[taken.row].tune.is_some().then(|| who[taken.row].clone());
    }
    if let (Ok(taken), Some(_)) = (&mut selection.recommendation, &spec.data.test) {
        let own = &who[taken.row];
        let found = asked.served.read(own, (spec, Lines::Test), asked.base_dir, control);
        let found = found.map_err(|error| failed(own, error))?;
        let own = Scores { loss: loss(metric), seeds: vec![losses(metric, &found)], lags: 0 };
        taken.test = Some(own.quality()?);
        selection.seconds = begun.elapsed().as_secs_f64();
    }
    Ok(selection)
}

/// Tunes the adapter of a candidate that has one: from then on it is who is asked.
fn tuned(
    asked: &Asked<'_>,
    own: &Imported,
    (who, row): (&mut Imported, &mut Row),
    control: &Control,
) -> Result<(), AskError> {
    if own.tune.is_none() {
        return Ok(());
    }
    let (spec, course) = (asked.spec, Course { seed: asked.spec.seed, share: 1.0 });
    let tuned = asked.served.tune(own, (spec, asked.base_dir), Lesson::Lines, course, control)?;
    let facts = asked.served.facts(&tuned.candidate)?;
    row.training_seconds = Some(tuned.seconds);
    (row.parameters, row.disk_bytes) = (Some(facts.parameters), Some(facts.disk_bytes));
    row.served = Some((facts, None));
    *who = tuned.candidate;
    Ok(())
}

/// What is known before anything is read.
fn enter(spec: &ChooseSpec, candidate: &Imported, served: &dyn Served) -> Result<Row, ChooseError> {
    let mut row = Row::new(candidate.name.clone(), "language model".into(), None);
    match served.facts(candidate) {
        Ok(facts) => {
            row.family.clone_from(&facts.family);
            row.parameters = Some(facts.parameters);
            row.disk_bytes = Some(facts.disk_bytes);
            row.ram_bytes = Some(facts.weights_bytes);
            row.served = Some((facts, None));
            let broken = excesses(&spec.limits, &row, Stage::Before);
            if !broken.is_empty() {
                row.standing = Standing::Excluded(broken);
            }
        }
        Err(AskError::Stopped(stop)) => return Err(TrainError::Stopped { step: 0, stop }.into()),
        Err(AskError::Failed(why)) => row.standing = Standing::Out(Out::Failed(why)),
    }
    Ok(row)
}

/// Numbers of tokens say nothing of each other where the tokens are others, nor of other lines.
fn comparable(
    found: Result<OnRows, AskError>,
    metric: AnswerMetric,
    read: &[(usize, OnRows)],
    rows: &[Row],
) -> Result<OnRows, AskError> {
    let found = found?;
    let Some((first, other)) = read.first() else { return Ok(found) };
    let name = &rows[*first].name;
    if found.rows != other.rows {
        return Err(AskError::Failed(format!("it leaves other lines out than {name}")));
    }
    if metric != AnswerMetric::ExactMatch && found.tokens_sha256 != other.tokens_sha256 {
        let message = format!(
            "it reads the lines as other tokens than {name}, and numbers of tokens say nothing of each other: write \
             metric = \"exact_match\""
        );
        return Err(AskError::Failed(message));
    }
    Ok(found)
}

/// Times, memory and operations of an answer as long as its reference.
fn measure(
    (asked, who): (&Asked<'_>, &[Imported]),
    read: &[(usize, OnRows)],
    rows: &mut [Row],
    control: &Control,
) -> Result<Vec<(String, String)>, ChooseError> {
    let spec = asked.spec;
    let bench = Bench::start(spec.concurrency)?;
    let mut samples: Vec<Samples> = read.iter().map(|_| Samples::default()).collect();
    for _ in 0..ROUNDS {
        for ((i, found), samples) in read.iter().zip(&mut samples) {
            let own = &who[*i];
            let base = APART.fetch_add(1 << 32, Ordering::Relaxed);
            let one = |k: usize| {
                control.check().map_err(|stop| TrainError::Stopped { step: 0, stop })?;
                let (prompt, answer) = &found.lines[k % found.lines.len()];
                let apart = base + (k / found.lines.len()) as u64;
                asked.served.say(own, prompt, answer, apart).map_err(|error| failed(own, error))
            };
            bench.measure_by(&one, LOOK, samples)?;
        }
    }
    for ((i, found), samples) in read.iter().zip(&samples) {
        let (row, own) = (&mut rows[*i], &who[*i]);
        costs(spec, samples, row);
        let lengths = || found.lines.iter().map(|(prompt, answer)| prompt.len() + answer.len());
        let longest = lengths().max().unwrap_or(0) as u64;
        let mean = lengths().sum::<usize>() / found.lines.len().max(1);
        if let Some((facts, _)) = &row.served {
            row.ram_bytes =
                Some(facts.weights_bytes + spec.concurrency as u64 * longest * facts.kv_bytes_per_token);
        }
        row.operations = Some(asked.served.operations(own, mean).map_err(|error| failed(own, error))?);
    }
    Ok(Vec::new())
}

fn failed(own: &Imported, error: AskError) -> ChooseError {
    match error {
        AskError::Stopped(stop) => TrainError::Stopped { step: 0, stop }.into(),
        AskError::Failed(why) => ChooseError::Ask { name: own.name.clone(), why },
    }
}

fn unmeasured(spec: &ChooseSpec, said: &mut Vec<(String, String)>) {
    let mut say = |what: &str, why: &str| said.push((what.to_owned(), why.to_owned()));
    if spec.data.test.is_none() {
        say("test", "data.test names no file: the quality here decided the choice and is a little too good");
    }
    if spec.usd_per_cpu_hour.is_none() {
        say("usd_per_1k", "prices.usd_per_cpu_hour is not given");
    }
    say("baselines", "no simple method writes texts");
    say("explainability", "of written answers each is explained by itself: POST /v1/explanations");
    say("robustness", "an attack on written answers is not in this version of a choice");
    say("epsilon", "what candidates were trained on before they were imported is not known");
}
