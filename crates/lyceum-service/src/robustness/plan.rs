//! From a request to a run: everything that can be refused is refused before the run begins, so that a client reads
//! the reason at once and not in a run that failed.

use super::turns::{PASSES_COVERED, in_turns};
use super::{
    Gate, Inputs, Item, Rows, Run, file, gate, no_classifier, passes_most, reads_text, refused, run,
};
use crate::meter::{Counts, Share, metered_as_it_goes};
use crate::resident::Resident;
use crate::{Content, Ledger, Payer, Service, ServiceError, predict};
use lyceum_engine::Engine;
use lyceum_models::prepare::audio::{Clip, read_wav};
use lyceum_models::prepare::{InputPreparation, OutputPreparation, PreparedValue};
use lyceum_models::space::Domain;
use lyceum_types::control::Control;
use lyceum_types::ids::ModelRef;
use std::sync::Arc;

/// What a client asks for, with its rows as they came.
pub struct Asked {
    pub model: ModelRef,
    pub rows: AskedRows,
    pub suite: Vec<Item>,
    pub seed: u64,
    /// Another model that gets the same, and how far no accuracy may be below its.
    pub compare: Option<(ModelRef, f64)>,
}

/// Where the rows come from.
pub enum AskedRows {
    Inline {
        rows: Vec<Content>,
        /// The right label of each row.
        labels: Vec<String>,
    },
    /// A file of `/v1/files`.
    File {
        id: String,
        /// Only the first so many of its rows.
        first: Option<usize>,
    },
}

/// A run that these models and rows allow.
pub struct Plan {
    subject: (Arc<Resident>, Rows),
    compare: Option<(Arc<Resident>, Rows, f64)>,
    suite: Arc<Vec<Item>>,
    seed: u64,
    engine: Engine,
    ledger: Arc<Ledger>,
    payer: Payer,
    /// Rows that the rehearsal of each side put through its model.
    rehearsed: Vec<u64>,
}

impl Plan {
    /// Loads the models, reads the rows, and rehearses the suite: every item once on the first row, with the smallest
    /// budget, so that what a model or an input does not allow is found by the code that would meet it.
    ///
    /// # Errors
    /// Rows that a model cannot read, an item that it does not allow, a gate that is none.
    pub async fn new(service: &Service, payer: &Payer, asked: Asked) -> Result<Self, ServiceError> {
        let project = &payer.project;
        let suite = Arc::new(asked.suite.clone());
        let read = async |model: &ModelRef| -> Result<(Arc<Resident>, Rows), ServiceError> {
            let resident = service.resident(project, model).await?;
            let rows = match &asked.rows {
                AskedRows::Inline { rows, labels } => inline(&resident, rows, labels)?,
                AskedRows::File { id, first } => {
                    file::brought(service, project, &resident, id, *first).await?
                }
            };
            Ok((resident, rows))
        };
        let subject = read(&asked.model).await?;
        let compare = match &asked.compare {
            Some((_, max_drop)) if !(0.0..=1.0).contains(max_drop) => {
                let message = format!("{max_drop} is not between 0 and 1");
                return Err(ServiceError::invalid("gate.max_drop", "invalid_value", message));
            }
            Some((other, max_drop)) => {
                let (resident, rows) = read(other).await?;
                Some((resident, rows, *max_drop))
            }
            None => None,
        };
        let engine = service.engine().clone();
        let (ledger, payer) = (service.ledger().clone(), payer.clone());
        crate::rates::admit_passes()?;
        let mut plan =
            Plan { subject, compare, suite, seed: asked.seed, engine, ledger, payer, rehearsed: vec![] };
        let small: Arc<Vec<Item>> = Arc::new(plan.suite.iter().map(Item::rehearsal).collect());
        let mut rehearsed = Vec::new();
        for (resident, rows) in plan.sides() {
            admit(resident, rows)?;
            let side = plan.side(resident.clone(), rows.first(), small.clone(), (Share::none(), 0));
            rehearsed.push(side.await?.1);
        }
        plan.rehearsed = rehearsed;
        Ok(plan)
    }

    /// `name@3` of the model, and of the one that it is compared with.
    pub fn models(&self) -> (String, Option<String>) {
        let other = self.compare.as_ref().map(|(resident, ..)| resident.version.id());
        (self.subject.0.version.id(), other)
    }

    pub fn n(&self) -> usize {
        self.subject.1.labels.len()
    }

    /// The most passes that the suite takes on the model itself.
    pub fn passes_most(&self) -> u64 {
        let (resident, rows) = &self.subject;
        let n_labels = match &resident.preparation.output {
            OutputPreparation::Labels { names } => names.len(),
            _ => 0,
        };
        passes_most(&self.suite, rows.labels.len(), n_labels)
    }

    /// Runs the suite. Dropping the future ends it at its next pass.
    ///
    /// # Errors
    /// The deadline, or a fault of ours.
    pub async fn carry_out(self) -> Result<(Arc<Run>, Option<Gate>), ServiceError> {
        let (resident, rows) = &self.subject;
        let ours = self.paid(0, resident, rows).await?;
        let Some((other, rows, max_drop)) = &self.compare else { return Ok((ours, None)) };
        let theirs = self.paid(1, other, rows).await?;
        let gate = gate(&ours, &theirs, *max_drop)?;
        Ok((ours, Some(gate)))
    }

    fn sides(&self) -> impl Iterator<Item = (&Arc<Resident>, &Rows)> {
        let other = self.compare.iter().map(|(resident, rows, _)| (resident, rows));
        std::iter::once((&self.subject.0, &self.subject.1)).chain(other)
    }

    /// The whole suite, every row that goes through the model being paid for. How many that will be is not known before:
    /// money is put aside for some more at a time, and a run whose budget is used up ends.
    async fn paid(
        &self,
        side: usize,
        resident: &Arc<Resident>,
        rows: &Rows,
    ) -> Result<Arc<Run>, ServiceError> {
        // What the rehearsal did is known; one that refused the suite costs nobody anything.
        let rehearsed = self.rehearsed.get(side).copied().unwrap_or_default();
        let most = Counts { passes: rehearsed + PASSES_COVERED, ..Counts::default() };
        let work = async |share: Share| {
            share.add_passes(rehearsed);
            Ok(self.side(resident.clone(), rows.clone(), self.suite.clone(), (share, rehearsed)).await?.0)
        };
        metered_as_it_goes(&self.ledger, &self.payer, &resident.version, most, work).await
    }

    async fn side(
        &self,
        resident: Arc<Resident>,
        rows: Rows,
        suite: Arc<Vec<Item>>,
        share: (Share, u64),
    ) -> Result<(Arc<Run>, u64), ServiceError> {
        let seed = self.seed;
        let work = move |control: &Control| {
            let found = run(&resident, &rows, &suite, seed, control)?;
            Ok((Arc::new(found), control.spent()))
        };
        in_turns(&self.engine, share, work).await
    }
}

/// Runs a suite while the caller waits.
///
/// # Errors
/// As [`Plan::new`] and [`Plan::carry_out`].
pub async fn create(
    service: &Service,
    payer: &Payer,
    asked: Asked,
) -> Result<(Arc<Run>, Option<Gate>), ServiceError> {
    Plan::new(service, payer, asked).await?.carry_out().await
}

/// Every row lies in the space of its model.
pub(super) fn admit(resident: &Resident, rows: &Rows) -> Result<(), ServiceError> {
    if let Inputs::Numbers(x) = &rows.inputs {
        let domain = Domain::of(&resident.preparation).map_err(|error| refused(error.into()))?;
        domain.admit(&mut domain.from_model(x)).map_err(|error| refused(error.into()))?;
    }
    Ok(())
}

fn inline(resident: &Resident, contents: &[Content], labels: &[String]) -> Result<Rows, ServiceError> {
    let OutputPreparation::Labels { names } = &resident.preparation.output else {
        return Err(no_classifier());
    };
    let place = |(i, label): (usize, &String)| {
        let found = names.iter().position(|name| name == label);
        found.map(|at| at as u32).ok_or_else(|| {
            let message = format!("{label:?} is not a label of {}", resident.version.id());
            ServiceError::invalid(format!("labels[{i}]"), "labels_differ", message)
        })
    };
    let labels = labels.iter().enumerate().map(place).collect::<Result<_, _>>()?;
    let clips = clips(resident, contents)?;
    let contents = contents.iter().enumerate();
    let inputs = if reads_text(resident) {
        let text = |(i, content): (usize, &Content)| match content {
            Content::Text(text) => Ok(text.clone()),
            _ => {
                Err(ServiceError::invalid(format!("instances[{i}]"), "wrong_input", "the model reads texts"))
            }
        };
        Inputs::Texts(contents.map(text).collect::<Result<_, _>>()?)
    } else {
        let mut numbers = Vec::new();
        for (i, content) in contents {
            let prepared = predict::prepare(resident, content, &format!("instances[{i}]"))?;
            let PreparedValue::Dense(row) = prepared.value else {
                let message = "a robustness run needs rows of numbers or texts";
                return Err(ServiceError::unsupported("model", "unsupported_model", message));
            };
            numbers.extend(row);
        }
        Inputs::Numbers(numbers)
    };
    Ok(Rows { inputs, labels, clips, numbers: None })
}

/// The samples of wav files; None where the rows are no sounds or come as features.
fn clips(resident: &Resident, rows: &[Content]) -> Result<Option<Arc<Vec<Clip>>>, ServiceError> {
    if !matches!(resident.preparation.input, InputPreparation::Audio(_)) {
        return Ok(None);
    }
    let mut clips = Vec::with_capacity(rows.len());
    for (i, content) in rows.iter().enumerate() {
        let Content::File(bytes) = content else { return Ok(None) };
        let clip =
            read_wav(bytes).map_err(|error| ServiceError::prepare(&format!("instances[{i}]"), error))?;
        clips.push(clip);
    }
    Ok(Some(Arc::new(clips)))
}
