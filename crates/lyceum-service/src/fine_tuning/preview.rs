//! What training will read of the data, before anything is trained: the examples of a part as its batches hold them, and what
//! an epoch of it is. Nothing is made and nothing goes through a model.
//!
//! [`rows`] are of a family that is trained from the start, [`lines`] of a fine-tuning; `lyceum preview` asks them with a
//! spec and its folder, [`create`] with a request for a job and its files, which it judges as the job's creation does.

use super::ask::Document;
use super::{Ask, Prepared, base_of, blocking, gate, prepared, wrong_data};
use crate::explain::CancelOnDrop;
use crate::meter::Payer;
use crate::{Language, Service, ServiceError};
use lyceum_models::InputShape;
use lyceum_models::prepare::series::Fields;
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Preparation};
use lyceum_store::vault::KeyedPath;
use lyceum_train::chat::{self, Words};
use lyceum_train::data::{self, DataError, Dataset, Loaded};
use lyceum_train::preview::{self, Asked, Look, SeenToken};
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::ids::JobId;
use lyceum_types::limits;
use lyceum_types::spec::Spec;
use lyceum_types::spec::tune::{Origin, TuneSpec};
use std::time::Instant;

pub use lyceum_train::data::report::Warning;

/// Examples that are looked at.
pub const ROWS_MAX: usize = 1000;
/// Numbers and tokens of one answer over HTTP, all its examples together.
pub const NUMBERS_MAX: usize = 1 << 20;
/// Steps whose rows are listed.
const STEPS_LISTED_MAX: u64 = 10_000;

/// Of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    #[default]
    Train,
    Valid,
    Test,
}

impl Part {
    pub const ALL: [Part; 3] = [Part::Train, Part::Valid, Part::Test];

    pub fn as_str(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Valid => "valid",
            Part::Test => "test",
        }
    }
}

/// Why nothing is seen.
#[derive(Debug, thiserror::Error)]
pub enum Unseen {
    /// The caller's data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The caller's spec names no such rows.
    #[error("there is no {} part", .0.as_str())]
    NoPart(Part),
}

/// A part of the data as training reads it.
#[derive(Clone, Debug)]
pub struct Preview {
    pub part: Part,
    pub kind: Kind,
    pub examples: Vec<Example>,
    pub epoch: Epoch,
    pub warnings: Vec<Warning>,
}

/// What an example is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Rows,
    /// Of one long text; an example's row is the token of the part that it begins at.
    Windows,
    Pictures,
    /// Conversations in the base's own template, with the rows of each step; of a private training there are none, as which
    /// lines a step draws is a secret of its job.
    Chats {
        order: Vec<Vec<usize>>,
    },
}

/// One example as it enters the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    pub row: u64,
    pub reads: Reads,
    pub answer: Answer,
    /// Tokens that the model does not read; None where there are none to cut.
    pub n_truncated: Option<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Reads {
    Numbers {
        shape: Vec<usize>,
        /// Of the numbers; none where they have only places (pictures, sounds).
        names: Vec<String>,
        values: Vec<f32>,
    },
    Tokens(Vec<Token>),
    Pair {
        source: Vec<Token>,
        target: Vec<Token>,
    },
    Preference {
        preferred: Vec<Token>,
        non_preferred: Vec<Token>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: u32,
    pub text: String,
    pub has_loss: bool,
}

/// What the model should answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Nothing, or the tokens with loss among those that are read.
    Read,
    Label(Option<String>),
    /// One a step; None where no loss is taken.
    Labels(Vec<Option<String>>),
    Values {
        names: Vec<String>,
        /// As the model learns them.
        scaled: Vec<f32>,
        /// As the file has them.
        original: Vec<f64>,
    },
}

/// What an epoch of the part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epoch {
    Batches {
        epoch: preview::Epoch,
        batch_size: usize,
    },
    /// Sequences stand without padding, in batches that the run decides.
    Sequences(chat::Epoch),
}

/// The first `n` examples of a part of a spec's data, whose paths are relative to `base`.
///
/// # Errors
/// Every error of the files; a part that there is not.
pub fn rows(
    spec: Spec,
    base: impl Into<KeyedPath>,
    (part, n): (Part, usize),
    control: &Control,
) -> Result<Preview, Unseen> {
    let loaded = data::load(&spec, base, control)?;
    of_loaded(&spec, &loaded, (part, n), control)
}

fn of_loaded(
    spec: &Spec,
    loaded: &Loaded,
    (part, n): (Part, usize),
    control: &Control,
) -> Result<Preview, Unseen> {
    let set = match part {
        Part::Train => Some(&loaded.train),
        Part::Valid => loaded.valid.as_ref(),
        Part::Test => loaded.test.as_ref(),
    };
    let set: &Dataset = set.filter(|set| !set.is_empty()).ok_or(Unseen::NoPart(part))?;
    let look = if part == Part::Train { Look::Training } else { Look::InOrder };
    let seen = preview::examples(spec, set, look, n);
    let epoch = preview::epoch(spec, set, control).map_err(DataError::Stopped)?;
    let kind = match (&loaded.preparation.input, loaded.train.context()) {
        (_, Some(_)) => Kind::Windows,
        (InputPreparation::Image(_), None) => Kind::Pictures,
        _ => Kind::Rows,
    };
    Ok(Preview {
        part,
        kind,
        examples: seen.into_iter().map(|seen| example(&loaded.preparation, seen)).collect(),
        epoch: Epoch::Batches { epoch, batch_size: spec.train.batch_size },
        warnings: loaded.warnings.clone(),
    })
}

fn example(preparation: &Preparation, seen: preview::Seen) -> Example {
    let tokenizer = preparation.tokenizer();
    let tokens = |read: &[SeenToken]| -> Vec<Token> {
        let text = |id| tokenizer.map_or_else(String::new, |tokenizer| tokenizer.token_text(id));
        read.iter().map(|t| Token { id: t.id, text: text(t.id), has_loss: t.has_loss }).collect()
    };
    let (reads, n_truncated) = match seen.reads {
        preview::Reads::Numbers { shape, values } => {
            (Reads::Numbers { shape, names: input_names(preparation), values }, None)
        }
        preview::Reads::Tokens(read) => (Reads::Tokens(tokens(&read)), Some(seen.n_truncated)),
        preview::Reads::Pair { source, target } => {
            let (source, target) = (tokens(&source), tokens(&target));
            (Reads::Pair { source, target }, Some(seen.n_truncated))
        }
    };
    let labels = preparation.output.labels();
    let label = |class: u32| labels.get(class as usize).cloned();
    let answer = match seen.asked {
        Asked::Nothing | Asked::Tokens => Answer::Read,
        Asked::Class(class) => Answer::Label(label(class)),
        Asked::Steps(steps) => Answer::Labels(steps.into_iter().map(|step| label(step?)).collect()),
        Asked::Values(scaled) => {
            let names = match &preparation.output {
                OutputPreparation::Values { names, .. } => names.clone(),
                _ => vec![],
            };
            Answer::Values { names, original: preparation.output.restore(&scaled), scaled }
        }
    };
    Example { row: seen.row, reads, answer, n_truncated }
}

fn input_names(preparation: &Preparation) -> Vec<String> {
    match &preparation.input {
        InputPreparation::Tabular(encoder) => encoder.input_names(),
        InputPreparation::Series(series) => match &series.fields {
            Fields::Steps(names) => names.clone(),
            Fields::Channels(names) => (0..series.steps)
                .flat_map(|step| names.iter().map(move |name| format!("{name}[{step}]")))
                .collect(),
        },
        _ => vec![],
    }
}

/// The first `n` examples of a part of a fine-tuning's data, written by the template of the whole model, as they are at
/// `now` (seconds since 1970).
///
/// # Errors
/// As [`rows`].
pub fn lines(
    (tune, now, origin): (&TuneSpec, i64, Origin),
    language: &Language,
    base: impl Into<KeyedPath>,
    (part, n): (Part, usize),
    control: &Control,
) -> Result<Preview, Unseen> {
    let words =
        Words { tokenizer: &language.words.tokenizer, template: language.words.template.as_ref(), now };
    let context = match language.model.shape.input {
        InputShape::Tokens { time, .. } => time,
        _ => 0,
    };
    let chats = chat::load(tune, words, context, base, control)?;
    let set = match part {
        Part::Train => Some(&chats.train),
        Part::Valid => chats.valid.as_ref(),
        Part::Test => None,
    };
    let set = set.ok_or(Unseen::NoPart(part))?;
    let (seen, epoch) = (chat::examples(set, n), chat::epoch(set));
    let train = tune.resolve(chats.train.len(), origin);
    let order = match part {
        Part::Train if tune.privacy.is_none() => chat::order(&train, tune.seed, set, STEPS_LISTED_MAX),
        _ => Vec::new(),
    };
    let tokens = |read: &Vec<SeenToken>| -> Vec<Token> {
        let text =
            |id| String::from_utf8_lossy(words.tokenizer.token_bytes(id).unwrap_or_default()).into_owned();
        read.iter().map(|t| Token { id: t.id, text: text(t.id), has_loss: t.has_loss }).collect()
    };
    let example = |seen: chat::Seen| {
        let reads = match &seen.sequences[..] {
            [preferred, other] => {
                Reads::Preference { preferred: tokens(preferred), non_preferred: tokens(other) }
            }
            all => Reads::Tokens(all.first().map_or_else(Vec::new, tokens)),
        };
        Example { row: seen.row, reads, answer: Answer::Read, n_truncated: None }
    };
    Ok(Preview {
        part,
        kind: Kind::Chats { order },
        examples: seen.into_iter().map(example).collect(),
        epoch: Epoch::Sequences(epoch),
        warnings: chats.warnings,
    })
}

/// What a job of this request would read, judged as its creation judges it; there is no job afterwards.
///
/// # Errors
/// Those of a job's creation that concern what is asked and its files; a part that there is not; more than an answer holds.
pub async fn create(
    service: &Service,
    payer: &Payer,
    ask: Ask,
    (part, n): (Part, usize),
) -> Result<Preview, ServiceError> {
    let id = JobId::from_bits(uuid::Uuid::now_v7().as_u128());
    let Prepared { document, files, .. } = prepared(service, &payer.project, &ask, &id).await?;
    let places = ask.places();
    let control = Control::new().with_deadline(Instant::now() + limits::REQUEST_TIMEOUT);
    let _cancel = CancelOnDrop(control.clone());
    let found = match document {
        Document::Train(spec) => {
            let work = move || {
                let loaded = data::load(&spec, &files, &control).map_err(wrong_data)?;
                gate::judge_rows((&spec, places), &loaded, &files, &control)?;
                of_loaded(&spec, &loaded, (part, n), &control).map_err(refused)
            };
            blocking(work).await?
        }
        Document::Tune(tune) => {
            let (language, origin) = base_of(service, &payer.project, &ask, &tune).await?;
            let work = move || {
                let now = Timestamp::now().seconds();
                let found =
                    lines((&tune, now, origin), &language, &files, (part, n), &control).map_err(refused)?;
                let words = &language.words;
                let words = Words { tokenizer: &words.tokenizer, template: words.template.as_ref(), now };
                let context = language.manifest.context as usize;
                gate::judge_lines((&tune, places), words, (context, 0), &files, &control)?;
                Ok(found)
            };
            blocking(work).await?
        }
    };
    let held = found.n_numbers();
    if held > NUMBERS_MAX {
        let message = format!(
            "these examples have {held} numbers and tokens, and an answer holds {NUMBERS_MAX}: ask for fewer rows"
        );
        return Err(ServiceError::invalid("rows", "too_many", message));
    }
    Ok(found)
}

impl Preview {
    /// What an answer has to hold.
    fn n_numbers(&self) -> usize {
        let of = |example: &Example| match &example.reads {
            Reads::Numbers { values, .. } => values.len(),
            Reads::Tokens(tokens) => tokens.len(),
            Reads::Pair { source: a, target: b } | Reads::Preference { preferred: a, non_preferred: b } => {
                a.len() + b.len()
            }
        };
        self.examples.iter().map(of).sum()
    }
}

fn refused(error: Unseen) -> ServiceError {
    match error {
        Unseen::Data(error) => wrong_data(error),
        Unseen::NoPart(part) => {
            let message = format!("there is no {} part: the request names no such rows", part.as_str());
            ServiceError::invalid("part", "no_part", message)
        }
    }
}
