//! The door: from the document and the data to measured rows and a recommendation.

use crate::candidates;
use crate::conclude::{conclude, nobody};
use crate::error::ChooseError;
use crate::existing;
use crate::lab::{Lab, held_out};
use crate::limits::{Stage, excesses};
use crate::race::{Field, Out, Race, Run, Trial, race};
use crate::row::{Explained, Row, Standing};
use crate::scores::{Loss, Paired, Scores, Separation};
use crate::serve::{Bench, Samples};
use crate::served::Served;
use crate::trust;
use crate::written;
use lyceum_models::Model;
use lyceum_models::batch::Input;
use lyceum_nn::{Examples, Recording, Tape, Workspace, weights};
use lyceum_seal::KeyedPath;
use lyceum_train::TrainError;
use lyceum_train::data::Loaded;
use lyceum_types::control::Control;
use lyceum_types::manifest::Metric;
use lyceum_types::spec::choose::{Candidate, Candidates, ChooseSpec, Imported, usual_name};
use lyceum_types::spec::{Spec, Task};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The part of the budget in which runs may begin; the rest measures, registers and opens the test part.
const RACING: f64 = 0.75;
/// Each measurement before the race, and each of the rounds after it, with one client and with all.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(150);
/// Looks at a candidate that seems too slow.
const LOOKS_MAX: usize = 4;
/// Finalists take turns in this many rounds, so that what else the machine does falls on all of them.
const ROUNDS: usize = 3;
/// Held-out rows that clients ask.
const QUESTIONS: usize = 64;

/// Something happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A candidate with what is known before it is trained.
    Entered(&'a Row),
    /// One run has ended.
    Ran { name: &'a str, run: Run, ended: &'a Result<Trial, Out> },
    /// Finalists are being measured.
    Measuring { finalists: usize },
}

/// Sees a choice being made.
pub trait Watch {
    fn event(&mut self, event: &Event<'_>);
}

/// Two rows compared; numbers are those of the rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    pub first: usize,
    pub second: usize,
    pub paired: Paired,
    /// Holm's, over all pairs.
    pub p_adjusted: f64,
    pub separation: Separation,
}

/// Rows that are not distinguishable.
#[derive(Clone, Debug, PartialEq)]
pub struct Tie {
    pub members: Vec<usize>,
    /// The two of them that lie furthest apart, and what would separate those.
    pub apart: (usize, usize),
    pub separation: Separation,
}

#[derive(Clone, Debug)]
pub struct Recommendation {
    pub row: usize,
    pub best: usize,
    /// The winner's job with its test part, as it is to be trained and registered; None: it exists.
    pub job: Option<Spec>,
    /// Of a winner whose adapter the race tuned: it, to be published.
    pub tuned: Option<Imported>,
    /// Of a winner that exists, on the test part.
    pub test: Option<Metric>,
    pub sentence: String,
}

/// Everything that was found.
#[derive(Clone, Debug)]
pub struct Selection {
    pub rows: Vec<Row>,
    pub loss: Loss,
    pub pairs: Vec<Pair>,
    pub ties: Vec<Tie>,
    /// The recommendation; or why there is none.
    pub recommendation: Result<Recommendation, String>,
    pub n_rows: usize,
    pub seeds: usize,
    /// Of the training as it is written, that finalists had.
    pub share: f64,
    /// What was not measured, and why.
    pub not_evaluated: Vec<(String, String)>,
    pub seconds: f64,
}

/// Chooses; paths are relative to `base_dir`, and candidates that exist are asked through `served`.
///
/// # Errors
/// Data or candidates that cannot be used, a budget in which nothing can be trained, a cancellation. That every
/// candidate breaks a limit is no error but a result.
pub fn choose(
    spec: &ChooseSpec,
    base_dir: &KeyedPath,
    served: Option<&dyn Served>,
    watch: &mut dyn Watch,
    control: &Control,
) -> Result<Selection, ChooseError> {
    if spec.task == Task::LanguageModeling {
        let name = spec.imported.first().map(|imported| imported.name.clone()).unwrap_or_default();
        let unserved = || ChooseError::Ask { name, why: "nothing serves it here".into() };
        let served = served.ok_or_else(unserved)?;
        return written::choose(&written::Asked { spec, base_dir, served }, watch, control);
    }
    let begun = Instant::now();
    let watch = RefCell::new(watch);
    let names = RefCell::new(Vec::<String>::new());
    let mut on_trial = |run: Run, ended: &Result<Trial, Out>| {
        let name = &names.borrow()[run.candidate];
        watch.borrow_mut().event(&Event::Ran { name, run, ended });
    };
    let mut lab = Lab::new(spec, base_dir, control, begun, &mut on_trial);
    let mut not_evaluated = Vec::new();
    let entrants = entrants(spec, &mut lab)?;
    let mut jobs: Vec<Spec> = entrants.iter().map(|candidate| candidates::job(spec, candidate)).collect();
    for (job, candidate) in jobs.iter_mut().zip(&entrants) {
        if candidate.train.is_none() && spec.train.is_none() {
            let n_rows = lab.data(job)?[0].train.len();
            job.train = candidates::lengthened(&job.train, n_rows);
        }
    }
    lab.enter(jobs.clone());
    let existing = spec.imported.iter().map(|imported| imported.name.clone());
    *names.borrow_mut() = entrants.iter().map(|candidate| candidate.name.clone()).chain(existing).collect();
    let reader = jobs.first().cloned().unwrap_or_else(|| candidates::reader_of_texts(spec));
    if let Some(first) = spec.imported.first() {
        let unserved = || ChooseError::Ask { name: first.name.clone(), why: "nothing serves it here".into() };
        lab.ask_too(&reader, served.ok_or_else(unserved)?)?;
    }

    let bench = Bench::start(spec.concurrency)?;
    let tell = |row: &Row| watch.borrow_mut().event(&Event::Entered(row));
    let mut rows = enter_all(spec, (&entrants, &jobs), (&mut lab, &bench), &tell, control)?;
    let alive: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].standing == Standing::Finalist).collect();
    let size = |i: usize| (rows[i].operations.unwrap_or(u64::MAX), rows[i].parameters);
    let Some(&simplest) = alive.iter().min_by_key(|&&i| size(i)) else {
        return nobody(rows, spec, begun, not_evaluated);
    };
    let baselines = lab.baselines(jobs.get(simplest).unwrap_or(&reader))?;
    let field = Field {
        candidates: &alive,
        simplest,
        seeds: spec.seeds,
        seconds: spec.budget_minutes * 60.0 * RACING,
    };
    let raced = race(field, &mut lab)?;
    for (candidate, out) in &raced.out {
        rows[*candidate].standing = Standing::Out(out.clone());
    }
    if raced.finalists.is_empty() && raced.out.iter().any(|(_, out)| *out == Out::Budget) {
        return Err(ChooseError::Budget { budget_minutes: spec.budget_minutes, needed_minutes: None });
    }
    watch.borrow_mut().event(&Event::Measuring { finalists: raced.finalists.len() });
    not_evaluated.extend(measure_finalists(spec, (&raced, &jobs), (&mut lab, &bench), &mut rows, control)?);
    let mut scores = judge(spec, &lab, &raced, &mut rows)?;
    for baseline in baselines {
        match baseline {
            Ok((name, found)) => {
                let mut row = Row::new(format!("{name} baseline"), "baseline".into(), None);
                row.standing = Standing::Baseline;
                row.quality = Some(found.quality()?);
                scores.push((rows.len(), found));
                rows.push(row);
            }
            Err(reason) => not_evaluated.push(("a baseline".into(), reason)),
        }
    }
    unmeasured(spec, &rows, raced.seeds, &mut not_evaluated);
    let mut selection = conclude(spec, rows, scores, &raced, not_evaluated, begun)?;
    if let Ok(taken) = &mut selection.recommendation
        && let Some((asking, number)) = lab.asking(taken.row)
    {
        taken.tuned = asking.tuned(number).map(|tuned| tuned.candidate.clone());
        if let Some(file) = &spec.data.test {
            taken.test = Some(existing::test(number, asking, &reader, (file, base_dir), control)?);
        }
        selection.seconds = begun.elapsed().as_secs_f64();
    }
    Ok(selection)
}

/// The candidates of the document, or those that the data can be read by.
fn entrants(spec: &ChooseSpec, lab: &mut Lab<'_>) -> Result<Vec<Candidate>, ChooseError> {
    match &spec.candidates {
        Candidates::Listed(listed) => Ok(listed.clone()),
        Candidates::Auto => {
            let model = candidates::linear();
            let probe = Candidate { name: usual_name(&model), model, train: None };
            let loaded = lab.data(&candidates::job(spec, &probe))?;
            Ok(candidates::auto(&loaded[0].preparation.shape().input))
        }
    }
}

/// What is known of every candidate before the race: those to be trained, then those that exist.
fn enter_all(
    spec: &ChooseSpec,
    (entrants, jobs): (&[Candidate], &[Spec]),
    (lab, bench): (&mut Lab<'_>, &Bench),
    tell: &dyn Fn(&Row),
    control: &Control,
) -> Result<Vec<Row>, ChooseError> {
    let mut rows = Vec::new();
    for (candidate, job) in entrants.iter().zip(jobs) {
        let row = enter(spec, (candidate, job), lab, bench, control)?;
        tell(&row);
        rows.push(row);
    }
    for number in 0..spec.imported.len() {
        let Some((asking, _)) = lab.asking(jobs.len() + number) else { break };
        let row = existing::enter(spec, number, asking, bench, control)?;
        tell(&row);
        rows.push(row);
    }
    Ok(rows)
}

/// The finalists' losses, and their quality in their rows; who breaks a limit now is excluded.
fn judge(
    spec: &ChooseSpec,
    lab: &Lab<'_>,
    raced: &Race,
    rows: &mut [Row],
) -> Result<Vec<(usize, Scores)>, ChooseError> {
    let is_without_chance = |i: usize| {
        let number = i.checked_sub(lab.first_existing());
        number.is_some_and(|number| spec.imported[number].is_without_chance())
    };
    let mut all = Vec::new();
    for (i, seeds) in &raced.finalists {
        // What has no chance in it is the same with every seed.
        let n = if is_without_chance(*i) { seeds.len().min(1) } else { seeds.len() };
        let scores = lab.scores(seeds[..n].to_vec());
        rows[*i].quality = Some(scores.quality()?);
        let excesses = excesses(&spec.limits, &rows[*i], Stage::After);
        if !excesses.is_empty() {
            rows[*i].standing = Standing::Excluded(excesses);
        }
        all.push((*i, scores));
    }
    Ok(all)
}

/// What is known of a candidate before it is trained.
fn enter(
    spec: &ChooseSpec,
    (candidate, job): (&Candidate, &Spec),
    lab: &mut Lab<'_>,
    bench: &Bench,
    control: &Control,
) -> Result<Row, ChooseError> {
    let mut row = Row::new(candidate.name.clone(), candidate.model.family().into(), Some(job.clone()));
    let loaded = lab.data(job)?;
    let mut model = match Model::new(&job.model, &loaded[0].preparation.shape(), job.seed) {
        Ok(model) => model,
        Err(error) => {
            row.standing = Standing::Out(Out::Failed(error.to_string()));
            return Ok(row);
        }
    };
    row.parameters = Some(model.params.n_trainable() as u64);
    row.operations = Some(model.operations());
    row.disk_bytes = Some(weights::to_safetensors(&model.params)?.len() as u64);
    model.freeze();
    let model = Arc::new(model);
    row.ram_bytes = Some(memory(&model, &loaded[0], spec.concurrency)?);
    first_look(spec, &model, &questions(&loaded[0])?, bench, &mut row)?;
    row.explained =
        Some(Explained { exact: trust::exact_method(&model, &loaded[0], control), measured: None });
    let excesses = excesses(&spec.limits, &row, Stage::Before);
    if !excesses.is_empty() {
        row.standing = Standing::Excluded(excesses);
    }
    Ok(row)
}

/// Costs before the race. Whatever else the machine does can only make a look slower, so a candidate that breaks the
/// limit on latency is looked at again, and the quietest look counts.
fn first_look(
    spec: &ChooseSpec,
    model: &Arc<Model>,
    questions: &[Input],
    bench: &Bench,
    row: &mut Row,
) -> Result<(), ChooseError> {
    let p95 = |row: &Row| row.serving.as_ref().map_or(f64::INFINITY, |serving| serving.alone.p95_ms);
    for _ in 0..LOOKS_MAX {
        let mut look = row.clone();
        let mut samples = Samples::default();
        bench.measure(model, questions, FIRST_LOOK, &mut samples)?;
        costs(spec, &samples, &mut look);
        if p95(&look) < p95(row) {
            *row = look;
        }
        if spec.limits.latency_ms_p95.is_none_or(|limit| p95(row) <= limit) {
            break;
        }
    }
    Ok(())
}

pub(crate) fn costs(spec: &ChooseSpec, samples: &Samples, row: &mut Row) {
    row.serving = samples.serving(spec.concurrency);
    let cpu_seconds = row.serving.as_ref().and_then(|serving| serving.cpu_seconds_per_1k);
    row.usd_per_1k = spec.usd_per_cpu_hour.zip(cpu_seconds).map(|(price, seconds)| price * seconds / 3600.0);
}

/// Single rows that clients ask.
fn questions(loaded: &Loaded) -> Result<Vec<Input>, ChooseError> {
    let part = held_out(loaded)?;
    let one = |i: usize| {
        let mut batch = part.new_batch();
        part.fill(&[i], &mut batch);
        batch.input
    };
    Ok((0..part.len().min(QUESTIONS)).map(one).collect())
}

/// Bytes of the weights as they are served, with their packed copies, and of what one batch of all clients' rows
/// needs beside them.
fn memory(model: &Model, loaded: &Loaded, concurrency: usize) -> Result<u64, ChooseError> {
    let part = held_out(loaded)?;
    let rows: Vec<usize> = (0..concurrency).map(|i| i % part.len()).collect();
    let mut batch = part.new_batch();
    part.fill(&rows, &mut batch);
    let mut ws = Workspace::new();
    let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(batch.n));
    model.forward(&mut tape, &batch.input)?;
    drop(tape);
    Ok((model.params.bytes() + ws.bytes()) as u64)
}

/// What finalists cost, what attacks and explanations make of them; and why something of it is not there.
fn measure_finalists(
    spec: &ChooseSpec,
    (raced, jobs): (&Race, &[Spec]),
    (lab, bench): (&mut Lab<'_>, &Bench),
    rows: &mut [Row],
    control: &Control,
) -> Result<Vec<(String, String)>, ChooseError> {
    let mut samples: Vec<Samples> = raced.finalists.iter().map(|_| Samples::default()).collect();
    for _ in 0..ROUNDS {
        for ((i, _), samples) in raced.finalists.iter().zip(&mut samples) {
            if let Some((asking, number)) = lab.asking(*i) {
                let asked = asking.asked(number, 0, 0);
                existing::time(asking, number, &asked, bench, (LOOK, samples), control)?;
                continue;
            }
            let questions = questions(&lab.data(&jobs[*i])?[0])?;
            let kept = lab.kept(*i).expect("a finalist's first model is kept: bug");
            bench.measure(&kept.model, &questions, LOOK, samples)?;
        }
    }
    for ((i, _), samples) in raced.finalists.iter().zip(&samples) {
        costs(spec, samples, &mut rows[*i]);
        if *i >= lab.first_existing() {
            continue;
        }
        let kept = lab.kept(*i).expect("a finalist's first model is kept: bug");
        rows[*i].ece = kept.ece.clone();
        rows[*i].training_seconds = Some(kept.seconds);
    }
    let mut refused: Vec<(String, String)> = Vec::new();
    for (i, _) in &raced.finalists {
        if let Some(number) = i.checked_sub(lab.first_existing()) {
            refused.extend(existing::measure(spec, number, lab, &mut rows[*i])?);
            continue;
        }
        let loaded = lab.data(&jobs[*i])?;
        let kept = lab.kept(*i).expect("a finalist's first model is kept: bug");
        match trust::robustness(&kept.model, (&loaded[0], lab.texts()), spec.seed, control) {
            Ok(found) => rows[*i].robustness = Some(found),
            Err(why) if refused.iter().all(|(_, other)| *other != why) => {
                refused.push(("robustness".into(), why));
            }
            Err(_) => {}
        }
        match trust::faithfulness(&kept.model, &loaded[0], spec.seed, control) {
            Ok(found) => {
                if let Some(explained) = &mut rows[*i].explained {
                    explained.measured = Some(found);
                }
            }
            Err(why) => refused.push((format!("faithfulness of {}", rows[*i].name), why)),
        }
        control.check().map_err(|stop| TrainError::Stopped { step: 0, stop })?;
    }
    Ok(refused)
}

/// Says what stays blank, and why.
fn unmeasured(spec: &ChooseSpec, rows: &[Row], seeds: usize, said: &mut Vec<(String, String)>) {
    let mut say = |what: &str, why: &str| said.push((what.to_owned(), why.to_owned()));
    if spec.data.test.is_none() {
        say("test", "data.test names no file: the quality here decided the choice and is a little too good");
    }
    if spec.usd_per_cpu_hour.is_none() {
        say("usd_per_1k", "prices.usd_per_cpu_hour is not given");
    }
    if seeds < spec.seeds {
        say("seeds", &format!("{seeds} of {} seeds: the budget was over", spec.seeds));
    }
    let blind = |row: &Row| row.serving.is_some_and(|serving| serving.cpu_seconds_per_1k.is_none());
    if rows.iter().any(blind) {
        say(
            "cpu_seconds_per_1k",
            "this system does not tell the processor time of threads; cost is latency here",
        );
    }
    say("epsilon", "candidates are trained without privacy: their ε is infinite");
    say("baselines", "simple methods are compared in quality only: they are not served");
}
