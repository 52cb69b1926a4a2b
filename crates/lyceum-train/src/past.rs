//! A fine-tuning that is over, as it was: its lines, and its model at each checkpoint that was kept.
//!
//! Whoever asks which lines pulled a model where it is needs the weights on the way and the lines as they were learnt;
//! both are read again here and nothing continues.

use crate::chat::{self, Chats};
use crate::checkpoint;
use crate::data::Dataset;
use crate::data::sequences::Sequences;
use crate::error::TrainError;
use crate::optim::Optimizer;
use crate::run::total_steps;
use crate::schedule::lr_at;
use crate::tune::{Base, untrained};
use lyceum_models::batch::Batch;
use lyceum_models::{InputShape, Model};
use lyceum_seal::KeyedPath;
use lyceum_types::control::Control;
use lyceum_types::manifest::DataFile;
use lyceum_types::spec::tune::{Method, TuneSpec};

/// A fine-tuning that has ended.
pub struct Past {
    pub files: Vec<DataFile>,
    /// Oldest first.
    pub kept: Vec<Kept>,
    train: Dataset,
    /// The base with its adapter, whose numbers a checkpoint gives.
    model: Model,
}

/// A checkpoint that was kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Steps that had been taken.
    pub step: u64,
    /// The rate of the last of them.
    pub lr: f64,
    place: KeyedPath,
}

impl Past {
    /// Reads the lines of a job and lists what it kept in `dir`.
    ///
    /// # Errors
    /// Lines that cannot be read any more; a base that takes no such adapter; a run that was private, or learnt
    /// preferences, whose lines have no loss of their own.
    pub fn open(
        spec: &TuneSpec,
        base: Base<'_>,
        (base_dir, dir): (&KeyedPath, &KeyedPath),
        control: &Control,
    ) -> Result<Self, TrainError> {
        if spec.privacy.is_some() {
            let message = "how much one line counts is what the noise of this run hides";
            return Err(TrainError::Privacy(message.into()));
        }
        if spec.method != Method::Supervised {
            let message = "preferences have no loss of an answer of their own";
            return Err(TrainError::Spec(message.into()));
        }
        let InputShape::Tokens { time: context, .. } = base.model.shape.input else {
            return Err(TrainError::Spec(format!("{} reads no tokens", base.id)));
        };
        let Chats { train, files, .. } = chat::load(spec, base.words, context, base_dir, control)?;
        let settings = spec.resolve(train.len(), base.origin());
        let steps = total_steps(&settings, spec.seed, &train);
        let rate = Optimizer::base_lr(&settings.optimizer);
        let model = untrained(spec, base)?;
        let kept = |place: KeyedPath| {
            let step = checkpoint::step(&place)?;
            Ok(Kept { step, lr: lr_at(&settings.schedule, rate, step.saturating_sub(1), steps), place })
        };
        let kept = checkpoint::list(dir)?.into_iter().map(kept).collect::<Result<_, TrainError>>()?;
        Ok(Past { files, kept, train, model })
    }

    /// The model as it was at a checkpoint.
    ///
    /// # Errors
    /// A file that is damaged, or gone.
    pub fn model_at(&self, kept: &Kept) -> Result<Model, TrainError> {
        let mut model = self.model.clone();
        checkpoint::parameters(&kept.place, &mut model.params)?;
        Ok(model)
    }

    /// Lines that were learnt.
    pub fn n_lines(&self) -> usize {
        self.train.len()
    }

    /// The place of a line in its file, from 0.
    pub fn place(&self, line: usize) -> u64 {
        self.train.row_ids()[line]
    }

    /// A line as it was learnt.
    pub fn line(&self, line: usize) -> Batch {
        let mut batch = self.train.new_batch();
        self.train.fill(&[line], &mut batch);
        batch
    }

    /// The tokens of a line that were learnt.
    pub fn learnt(&self, line: usize) -> Vec<u32> {
        let sequences = self.train.sequences().expect("chats are sequences: bug").example(line);
        sequences.into_iter().flatten().filter(|token| token.has_loss).map(|token| token.id).collect()
    }
}

/// An answer as an example: what was read, what was said, and the tokens of it that count.
pub fn answer(prompt: &[u32], said: &[u32], counts: &std::ops::Range<usize>) -> Batch {
    let mut sequences = Sequences::new(None);
    let ids = [prompt, said].concat();
    let has_loss: Vec<bool> =
        (0..ids.len()).map(|i| i.checked_sub(prompt.len()).is_some_and(|i| counts.contains(&i))).collect();
    sequences.push(&ids, &has_loss);
    let set = Dataset::of_sequences(sequences, vec![0]);
    let mut batch = set.new_batch();
    set.fill(&[0], &mut batch);
    batch
}
