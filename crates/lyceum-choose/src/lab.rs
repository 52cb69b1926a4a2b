//! What a race asks of training: the door of `lyceum_train`, on data that is loaded once, with the same held-out rows
//! and seeds for every candidate. The first seed's model of each finalist is kept, to be measured.

use crate::asked::{Asking, Texts};
use crate::candidates::shortened;
use crate::error::ChooseError;
use crate::race::{Out, Run, Trial, Trials};
use crate::scores::{Loss, Scores};
use crate::served::{AskError, Served};
use lyceum_models::Model;
use lyceum_seal::KeyedPath;
use lyceum_train::data::{self, Dataset, Loaded};
use lyceum_train::measure::{self, Measured, RowScores};
use lyceum_train::{Silent, TrainError, learn};
use lyceum_types::control::{Control, Stop};
use lyceum_types::manifest::Metric;
use lyceum_types::spec::choose::ChooseSpec;
use lyceum_types::spec::{ModelSpec, Spec, Task};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Told of every run.
pub type OnTrial<'a> = &'a mut dyn FnMut(Run, &Result<Trial, Out>);

/// A simple method by name with its losses; or why this data has none.
pub type Baseline = Result<(String, Scores), String>;

/// A finalist's model of the first seed.
pub struct Kept {
    pub model: Arc<Model>,
    pub ece: Option<Metric>,
    pub seconds: f64,
}

pub struct Lab<'a> {
    choose: &'a ChooseSpec,
    base_dir: &'a KeyedPath,
    control: &'a Control,
    /// Seconds of the budget, and when it began.
    begun: Instant,
    deadline: Instant,
    jobs: Vec<Spec>,
    /// Candidates that exist, whose numbers follow those of the jobs.
    asking: Option<Asking<'a>>,
    /// One list of folds (or the one split) for each way in which a family reads the data.
    data: BTreeMap<String, Arc<Vec<Loaded>>>,
    kept: BTreeMap<usize, Kept>,
    on_trial: OnTrial<'a>,
}

impl<'a> Lab<'a> {
    pub fn new(
        choose: &'a ChooseSpec,
        base_dir: &'a KeyedPath,
        control: &'a Control,
        begun: Instant,
        on_trial: OnTrial<'a>,
    ) -> Self {
        let deadline = begun + std::time::Duration::from_secs_f64(choose.budget_minutes * 60.0);
        let (jobs, data, kept) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let asking = None;
        Lab { choose, base_dir, control, begun, deadline, jobs, asking, data, kept, on_trial }
    }

    /// Takes candidates in, as job specs.
    pub fn enter(&mut self, jobs: Vec<Spec>) {
        self.jobs = jobs;
    }

    /// Takes candidates in that exist, and reads the rows that they are asked about as `job` does.
    ///
    /// # Errors
    /// The data is no labelled texts.
    pub fn ask_too(&mut self, job: &Spec, served: &'a dyn Served) -> Result<(), ChooseError> {
        let parts = self.data(job)?;
        let texts = Texts::of(job, &parts, self.base_dir, self.control)?;
        self.asking = Some(Asking::new(self.choose, served, texts));
        Ok(())
    }

    /// A candidate that exists, by its number among those; with whoever asks it.
    pub fn asking(&mut self, candidate: usize) -> Option<(&mut Asking<'a>, usize)> {
        let number = candidate.checked_sub(self.jobs.len())?;
        Some((self.asking.as_mut()?, number))
    }

    /// The texts that candidates are asked about.
    pub fn texts(&self) -> Option<&Texts> {
        self.asking.as_ref().map(|asking| &asking.texts)
    }

    /// The number of the first candidate that exists.
    pub fn first_existing(&self) -> usize {
        self.jobs.len()
    }

    /// The control of runs: it also stops when the budget is over.
    pub fn until_over(&self) -> Control {
        self.control.clone().with_deadline(self.deadline)
    }

    /// The data as this job reads it, each fold with its held-out part.
    ///
    /// # Errors
    /// What is wrong with the data.
    pub fn data(&mut self, job: &Spec) -> Result<Arc<Vec<Loaded>>, TrainError> {
        let context = match &job.model {
            ModelSpec::Transformer(transformer) => transformer.context,
            _ => 0,
        };
        let key = format!("{} {context}", job.model.family());
        if let Some(found) = self.data.get(&key) {
            return Ok(found.clone());
        }
        let loaded = match self.choose.data.folds {
            None => vec![data::load(job, self.base_dir, self.control)?],
            Some(n) => (0..n)
                .map(|fold| data::load_fold(job, self.base_dir, fold, n, self.control))
                .collect::<Result<_, _>>()?,
        };
        if let Some(other) = self.data.values().next() {
            same_rows(other, &loaded)?;
        }
        let loaded = Arc::new(loaded);
        self.data.insert(key, loaded.clone());
        Ok(loaded)
    }

    /// The first seed's model of a finalist.
    pub fn kept(&self, candidate: usize) -> Option<&Kept> {
        self.kept.get(&candidate)
    }

    /// Losses of the trivial and the best simple method on the same rows, with their names; of a method that this
    /// data has not, why.
    ///
    /// # Errors
    /// Data without held-out rows; a cancellation.
    pub fn baselines(&mut self, job: &Spec) -> Result<Vec<Baseline>, ChooseError> {
        type Method<'m> = &'m dyn Fn(&Loaded) -> Result<Measured, TrainError>;
        let parts = self.data(job)?;
        let trivial = |part: &Loaded| {
            let method = measure::fit_trivial(&part.preparation, &part.train, job)?;
            measure::measure_trivial(&method, &part.preparation, held_out(part)?, job)
        };
        let simple = |part: &Loaded| {
            measure::measure_simple(&part.preparation, &part.train, held_out(part)?, job, self.control)
        };
        let methods: [Method<'_>; 2] = [&trivial, &simple];
        let mut found = Vec::new();
        for method in methods {
            let measured: Result<Vec<Measured>, TrainError> = parts.iter().map(method).collect();
            match measured {
                Ok(measured) => {
                    let name = measured[0].name.clone();
                    let losses = measured.iter().flat_map(|m| losses(&m.rows)).collect();
                    found.push(Ok((name, self.scores(vec![losses]))));
                }
                Err(TrainError::Stopped { step, stop }) => {
                    return Err(TrainError::Stopped { step, stop }.into());
                }
                Err(error) => found.push(Err(error.to_string())),
            }
        }
        Ok(found)
    }

    /// Losses as they are compared.
    pub fn scores(&self, seeds: Vec<Vec<f64>>) -> Scores {
        let loss = if self.choose.task == Task::Classification { Loss::Error } else { Loss::Squared };
        let lags = match self.choose.task {
            Task::Forecasting => self.choose.data.horizon.unwrap_or(1).saturating_sub(1),
            _ => 0,
        };
        Scores { loss, seeds, lags }
    }

    fn train(&mut self, run: Run) -> Result<Trial, TrainError> {
        let begun = Instant::now();
        let mut job = self.jobs[run.candidate].clone();
        let parts = self.data(&job)?;
        job.seed = self.choose.seed.wrapping_add(run.seed as u64);
        job.train = shortened(&job.train, run.share);
        let control = self.control.clone().with_deadline(self.deadline);
        let n_parts = if run.all_folds { parts.len() } else { 1 };
        let mut all = Vec::new();
        for (fold, part) in parts[..n_parts].iter().enumerate() {
            let learnt = learn(&job, part, &mut Silent, &control)?;
            let measured =
                measure::measure_model(&learnt.model, &part.preparation, held_out(part)?, &job, &control)?;
            all.extend(losses(&measured.rows));
            if run.all_folds && run.seed == 0 && fold == 0 {
                let ece = measured.metrics.get("ece").cloned();
                let mut model = learnt.model;
                // As a server packs it.
                model.freeze();
                self.kept
                    .insert(run.candidate, Kept { model: Arc::new(model), ece, seconds: learnt.seconds });
            }
        }
        Ok(Trial { losses: all, seconds: begun.elapsed().as_secs_f64() })
    }
}

impl Lab<'_> {
    /// Asks a candidate that exists about the held-out rows.
    fn ask(&mut self, run: Run) -> Result<Trial, TrainError> {
        let begun = Instant::now();
        let control = self.until_over();
        let n_parts = if run.all_folds { self.n_folds() } else { 1 };
        let (asking, number) = self.asking(run.candidate).expect("it is one that exists: bug");
        let mut losses = Vec::new();
        for fold in 0..n_parts {
            let said = asking.losses((number, run.seed, fold), &control);
            losses.extend(said.map_err(|error| match error {
                AskError::Stopped(stop) => TrainError::Stopped { step: 0, stop },
                AskError::Failed(why) => TrainError::Spec(why),
            })?);
        }
        Ok(Trial { losses, seconds: begun.elapsed().as_secs_f64() })
    }
}

impl Trials for Lab<'_> {
    type Error = ChooseError;

    fn run(&mut self, run: Run) -> Result<Result<Trial, Out>, ChooseError> {
        let ran = if run.candidate < self.jobs.len() { self.train(run) } else { self.ask(run) };
        let ended = match ran {
            Ok(trial) => Ok(trial),
            Err(TrainError::Stopped { stop: Stop::DeadlinePassed, .. }) => Err(Out::Budget),
            Err(error @ TrainError::Stopped { .. }) => return Err(error.into()),
            // The data and the disk fail for everybody.
            Err(error @ (TrainError::Data(_) | TrainError::Io { .. })) => return Err(error.into()),
            Err(error) => Err(Out::Failed(error.to_string())),
        };
        (self.on_trial)(run, &ended);
        Ok(ended)
    }

    fn elapsed(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    fn n_folds(&self) -> usize {
        self.choose.data.folds.unwrap_or(1)
    }

    /// Asking has no shorter form; what was asked once is known.
    fn full_seconds(&self, run: Run, seconds: f64) -> f64 {
        let n_folds = self.n_folds() as f64;
        match run.candidate.checked_sub(self.jobs.len()) {
            None => seconds / run.share * n_folds,
            Some(number) if self.choose.imported[number].shots == 0 => seconds * (n_folds - 1.0),
            Some(_) => seconds * n_folds,
        }
    }
}

/// The rows that a part holds out.
pub fn held_out(part: &Loaded) -> Result<&Dataset, TrainError> {
    let none = || TrainError::Spec("no rows are held out: set valid, valid_fraction or folds".into());
    part.valid.as_ref().filter(|valid| !valid.is_empty()).ok_or_else(none)
}

fn losses(rows: &RowScores) -> Vec<f64> {
    match rows {
        RowScores::Correct(right) => right.iter().map(|&right| f64::from(u8::from(!right))).collect(),
        RowScores::Losses(losses) => losses.clone(),
    }
}

/// Families read the same file in other ways, and must hold out the same rows.
fn same_rows(a: &[Loaded], b: &[Loaded]) -> Result<(), TrainError> {
    for (a, b) in a.iter().zip(b) {
        if held_out(a)?.row_ids() != held_out(b)?.row_ids() {
            let message = "families read this data as other rows; say what a row is with data.input";
            return Err(TrainError::Spec(message.into()));
        }
    }
    Ok(())
}
