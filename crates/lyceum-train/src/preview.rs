//! What the model will see of the data, before anything is trained: the tokens with the loss mask, or the
//! prepared numbers, and what is asked of them.
//!
//! Everything is read back from the batches that training fills ([`run::fill`]), so nothing here can differ
//! from what is trained on. This file does not know text: ids become words in its callers.

use crate::data::Dataset;
use crate::run;
use lyceum_models::batch::{Batch, IGNORE, Input, Target, Tokens};
use lyceum_types::control::{Control, Stop};
use lyceum_types::spec::Spec;

/// One example as it enters the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The row in its file, from 0; of a window, the token of the part that it begins at.
    pub row: u64,
    pub reads: Reads,
    pub asked: Asked,
    /// Tokens of the example that the model does not read.
    pub n_truncated: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Reads {
    Numbers {
        shape: Vec<usize>,
        values: Vec<f32>,
    },
    Tokens(Vec<SeenToken>),
    /// What an encoder reads, and the target, of which the decoder reads all but the last token.
    Pair {
        source: Vec<SeenToken>,
        target: Vec<SeenToken>,
    },
}

/// A token, and whether the loss asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenToken {
    pub id: u32,
    pub has_loss: bool,
}

/// What the model should answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    Nothing,
    Class(u32),
    /// Scaled as the preparation says.
    Values(Vec<f32>),
    /// A class a step; None where no loss is taken.
    Steps(Vec<Option<u32>>),
    /// The tokens with loss among those that are read.
    Tokens,
}

/// Which examples of a part are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// As validation reads them: rows in the order of the file, windows one after another.
    InOrder,
    /// As training reads them: rows in the order of the file, but the windows that the first step draws.
    Training,
}

/// The first `n` examples of a part, in one batch.
pub fn examples(spec: &Spec, data: &Dataset, look: Look, n: usize) -> Vec<Seen> {
    let mut batch = data.new_batch();
    let mut rows: Vec<usize> = (0..data.len().min(n)).collect();
    match (data.context(), look) {
        (Some(_), Look::Training) => {
            run::order(&spec.train, spec.seed, data).rows(0, 0, &mut rows);
            rows.truncate(n);
            run::fill(data, &rows, &mut batch);
        }
        _ => data.fill(&rows, &mut batch),
    }
    let row = |i: usize| match (data.context(), look) {
        (Some(_), Look::Training) => rows[i] as u64,
        (Some(context), Look::InOrder) => (rows[i] * context) as u64,
        (None, _) => data.row_ids().get(rows[i]).copied().unwrap_or(rows[i] as u64),
    };
    let cut = |i: usize| if data.context().is_some() { 0 } else { data.n_truncated(rows[i]) };
    (0..batch.n).map(|i| seen(&batch, i, row(i), cut(i))).collect()
}

fn seen(batch: &Batch, i: usize, row: u64, n_truncated: usize) -> Seen {
    let (reads, asked) = match (&batch.input, &batch.target) {
        (Input::Tokens(tokens), Target::Steps(steps)) => {
            (Reads::Tokens(sequence(tokens, steps, i)), Asked::Tokens)
        }
        (Input::Pair { source, target }, Target::Steps(steps)) => {
            let source = plain(source, i);
            (Reads::Pair { source, target: sequence(target, steps, i) }, Asked::Tokens)
        }
        (Input::Tokens(tokens), target) => (Reads::Tokens(plain(tokens, i)), asked(target, batch.n, i)),
        (Input::Pair { source, target }, _) => {
            (Reads::Pair { source: plain(source, i), target: plain(target, i) }, Asked::Nothing)
        }
        (Input::Dense { shape, data }, target) => {
            let width: usize = shape.iter().product();
            let values = data[i * width..(i + 1) * width].to_vec();
            (Reads::Numbers { shape: shape.clone(), values }, asked(target, batch.n, i))
        }
    };
    Seen { row, reads, asked, n_truncated }
}

fn asked(target: &Target, n: usize, i: usize) -> Asked {
    match target {
        Target::None | Target::Preferences { .. } => Asked::Nothing,
        Target::Classes(classes) => Asked::Class(classes[i] as u32),
        Target::Values { width, data } => Asked::Values(data[i * width..(i + 1) * width].to_vec()),
        Target::Steps(steps) => {
            let per = steps.len() / n.max(1);
            let class = |&step: &i32| (step != IGNORE).then_some(step as u32);
            Asked::Steps(steps[i * per..(i + 1) * per].iter().map(class).collect())
        }
    }
}

fn plain(tokens: &Tokens, i: usize) -> Vec<SeenToken> {
    let ids = &tokens.ids[i * tokens.time..][..tokens.lengths[i] as usize];
    ids.iter().map(|&id| SeenToken { id, has_loss: false }).collect()
}

/// The tokens that are read and the one after them. What the loss asks for at step `t` is token `t + 1`.
fn sequence(tokens: &Tokens, steps: &[i32], i: usize) -> Vec<SeenToken> {
    let read = &tokens.ids[i * tokens.time..][..tokens.lengths[i] as usize];
    let asked = &steps[i * tokens.time..][..read.len()];
    let mut all = Vec::with_capacity(read.len() + 1);
    all.extend(read.first().map(|&id| SeenToken { id, has_loss: false }));
    for (t, &step) in asked.iter().enumerate() {
        if step != IGNORE {
            all.push(SeenToken { id: step as u32, has_loss: true });
        } else if let Some(&id) = read.get(t + 1) {
            all.push(SeenToken { id, has_loss: false });
        }
    }
    all
}

/// What the batches of one epoch hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    pub n_batches: u64,
    pub n_examples: u64,
    /// Terms of the loss: classes, numbers, or tokens that are asked for.
    pub n_terms: u64,
    /// Tokens that are read, and the longest example's.
    pub n_tokens: u64,
    pub longest: u64,
    /// Places of the batches that hold no token.
    pub n_padding: u64,
    /// Examples of which the model does not read all tokens.
    pub n_truncated: u64,
}

/// Fills all batches of the first epoch, as training will.
pub fn epoch(spec: &Spec, data: &Dataset, control: &Control) -> Result<Epoch, Stop> {
    let mut order = run::order(&spec.train, spec.seed, data);
    let (mut batch, mut rows, mut epoch) = (data.new_batch(), Vec::new(), Epoch::default());
    for step in 0..order.steps_per_epoch() as u64 {
        for micro in 0..order.n_micro_steps(step) {
            control.check()?;
            order.rows(step, micro, &mut rows);
            run::fill(data, &rows, &mut batch);
            epoch.n_batches += 1;
            epoch.n_examples += batch.n as u64;
            epoch.n_terms += batch.target.n_terms() as u64;
            match &batch.input {
                Input::Dense { .. } => {}
                Input::Tokens(tokens) => epoch.count(tokens),
                Input::Pair { source, target } => {
                    epoch.count(source);
                    epoch.count(target);
                }
            }
        }
    }
    if data.context().is_none() {
        epoch.n_truncated = (0..data.len()).filter(|&i| data.n_truncated(i) > 0).count() as u64;
    }
    Ok(epoch)
}

impl Epoch {
    fn count(&mut self, tokens: &Tokens) {
        let n: u64 = tokens.lengths.iter().map(|&n| u64::from(n)).sum();
        self.n_tokens += n;
        self.n_padding += (tokens.n * tokens.time) as u64 - n;
        self.longest = self.longest.max(tokens.lengths.iter().copied().max().map_or(0, u64::from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data;
    use std::path::Path;

    const SPEC: &str = "name = \"m\"\ntask = \"language_modeling\"\n[data]\ntrain = \"rows.jsonl\"\n[model]\n\
        family = \"transformer\"\nvariant = \"decoder\"\nd_model = 8\nnhead = 2\nnum_layers = 1\n\
        dim_feedforward = 8\ncontext = 6\n[train]\nsteps = 1\nbatch_size = 2\n";

    fn load(folder: &Path, rows: &str) -> (Spec, data::Loaded) {
        std::fs::write(folder.join("rows.jsonl"), rows).unwrap();
        let spec = Spec::from_toml(SPEC, "spec.toml").unwrap_or_else(|errors| panic!("{errors}"));
        let loaded = data::load(&spec, folder, &Control::new()).unwrap();
        (spec, loaded)
    }

    /// Tokens as text, those with loss in brackets.
    fn shown(loaded: &data::Loaded, tokens: &[SeenToken]) -> String {
        let tokenizer = loaded.preparation.tokenizer().unwrap();
        let one = |t: &SeenToken| {
            let text = tokenizer.token_text(t.id);
            if t.has_loss { format!("[{text}]") } else { text }
        };
        tokens.iter().map(one).collect()
    }

    #[test]
    fn completions_carry_the_loss_and_prompts_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let rows =
            "{\"prompt\":\"ab\",\"completion\":\"cd\"}\n{\"prompt\":\"a\",\"completion\":\"bcdabcd\"}\n";
        let (spec, loaded) = load(folder.path(), rows);
        let seen = examples(&spec, &loaded.train, Look::Training, 9);
        let text = |seen: &Seen| match &seen.reads {
            Reads::Tokens(tokens) => shown(&loaded, tokens),
            other => panic!("{other:?}"),
        };
        assert_eq!(text(&seen[0]), "ab[c][d][<eos>]");
        assert_eq!((seen[0].row, seen[0].n_truncated), (0, 0));
        // The model reads six tokens and says the seventh; what follows is cut.
        assert_eq!((text(&seen[1]).as_str(), seen[1].n_truncated), ("a[b][c][d][a][b][c]", 2));
        let epoch = epoch(&spec, &loaded.train, &Control::new()).unwrap();
        assert_eq!((epoch.n_terms, epoch.n_tokens, epoch.n_padding, epoch.n_truncated), (9, 10, 2, 1));
    }

    #[test]
    fn windows_of_a_stream_ask_for_every_token_but_their_first() {
        let folder = tempfile::tempdir().unwrap();
        let (spec, loaded) = load(folder.path(), "{\"text\":\"abcdefgh\"}\n{\"text\":\"ab\"}\n");
        let seen = examples(&spec, &loaded.train, Look::InOrder, 1);
        let Reads::Tokens(tokens) = &seen[0].reads else { panic!("{seen:?}") };
        assert_eq!(shown(&loaded, tokens), "a[b][c][d][e][f][g]");
        let drawn = examples(&spec, &loaded.train, Look::Training, 2);
        let Reads::Tokens(tokens) = &drawn[1].reads else { panic!("{drawn:?}") };
        assert!(!tokens[0].has_loss && tokens[1..].iter().all(|token| token.has_loss));
        assert_eq!(loaded.train.tokens().unwrap()[drawn[1].row as usize], tokens[0].id);
    }
}
