//! A language model in one environment: what it says of every place of given texts, and the answers that it writes to
//! prompts by the likeliest token.
//!
//! An environment ([`Setting`]) is an instruction set, how much of a text one pass takes, how many sequences share a
//! pass, and what keys and values are stored as; weights of another type are another model. All go through the one
//! pass that serves (`Model::decode`). Work is cut into passes of at most [`ROWS_A_PASS`] rows, each in a turn of its
//! own, and logits of at most [`LOGIT_BYTES`] (or of one text) are held at once. This module knows ids, no text.

use crate::error::RobustError;
use crate::precision::Divergence;
use lyceum_kernels::cpu::{self, CpuPath};
use lyceum_models::Model;
use lyceum_models::answer::likeliest_but;
use lyceum_models::causal_lm::Adapter;
use lyceum_models::decode::{DecodeRow, DecodeState, PAGE, RowClass, Rows};
use lyceum_nn::Workspace;
use lyceum_nn::ops::cached_attention::{KvPool, KvStorage};
use lyceum_types::control::Control;

/// Rows of one pass, so that nobody waits longer for the device than for a piece of a prompt.
const ROWS_A_PASS: usize = 128;
/// Logits that are held to be compared.
const LOGIT_BYTES: usize = 64 << 20;

/// How much of a text a pass takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As much as fits into a pass: how prompts are read.
    Whole,
    /// One token a pass: how answers are written.
    Steps,
}

/// Where and how a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    pub path: CpuPath,
    pub way: Way,
    /// Sequences that share a pass at most.
    pub together: usize,
    pub kv: KvStorage,
}

/// A model with what is added to it.
#[derive(Clone, Copy)]
pub struct Reader<'m> {
    pub model: &'m Model,
    pub adapter: Option<&'m Adapter>,
    pub control: &'m Control,
}

/// A text as ids. Places whose next token is `ids[from]` or later are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scored {
    pub ids: Vec<u32>,
    /// At least 1.
    pub from: usize,
}

/// How answers are written.
#[derive(Clone, Copy, Debug)]
pub struct Greedy<'a> {
    pub n_tokens_max: usize,
    pub ends: &'a [u32],
    /// Tokens that stand for nothing.
    pub never: &'a [u32],
}

impl Setting {
    /// Passes that read `n` tokens of a sequence, at most: in company it has its share of each pass's rows.
    pub fn passes_most(&self, n: usize) -> u64 {
        match self.way {
            Way::Whole => n.div_ceil((ROWS_A_PASS / self.together.max(1)).max(1)) as u64,
            Way::Steps => n as u64,
        }
    }
}

/// A sequence on its way through passes.
struct Line {
    tokens: Vec<u32>,
    n_seen: usize,
    /// The first of them are read, the others are computed as those that the model writes itself.
    n_read: usize,
    state: DecodeState,
    pages: Vec<u32>,
    is_over: bool,
}

impl<'m> Reader<'m> {
    /// Logits `[T, V]` of each sequence, its tokens given.
    ///
    /// # Errors
    /// A sequence longer than the context, an instruction set that is not here, the end of the time.
    pub fn logits(&self, setting: Setting, sequences: &[&[u32]]) -> Result<Vec<Vec<f32>>, RobustError> {
        let mut out = Vec::with_capacity(sequences.len());
        self.in_groups(setting, sequences, 0, |reader, ws, pool, mut lines| {
            if setting.way == Way::Steps {
                lines.iter_mut().for_each(|line| line.n_read = 0);
            }
            let width = reader.model.shape.output.width();
            let mut said: Vec<Vec<f32>> =
                lines.iter().map(|line| Vec::with_capacity(line.tokens.len() * width)).collect();
            while lines.iter().any(|line| line.n_seen < line.tokens.len()) {
                for (i, _, logits) in reader.pass(setting, ws, pool, &mut lines, Rows::All)? {
                    said[i].extend(logits);
                }
            }
            out.append(&mut said);
            Ok(())
        })?;
        Ok(out)
    }

    /// The likeliest continuation of each prompt.
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn answers(
        &self,
        setting: Setting,
        prompts: &[&[u32]],
        greedy: Greedy<'_>,
    ) -> Result<Vec<Vec<u32>>, RobustError> {
        let mut out = Vec::with_capacity(prompts.len());
        let context = self.model.context().unwrap_or(usize::MAX);
        let mut done = 0;
        self.in_groups(setting, prompts, greedy.n_tokens_max, |reader, ws, pool, mut lines| {
            let asked = &prompts[done..done + lines.len()];
            done += lines.len();
            while lines.iter().any(|line| !line.is_over) {
                for (i, is_last, logits) in reader.pass(setting, ws, pool, &mut lines, Rows::Last)? {
                    if !is_last {
                        continue;
                    }
                    let line = &mut lines[i];
                    let next = likeliest_but(&logits, greedy.never);
                    if greedy.ends.contains(&next) {
                        line.is_over = true;
                        continue;
                    }
                    line.tokens.push(next);
                    let n = line.tokens.len() - asked[i].len();
                    line.is_over = n >= greedy.n_tokens_max || line.tokens.len() > context;
                }
            }
            let said = lines.into_iter().zip(asked);
            out.extend(said.map(|(mut line, prompt)| line.tokens.split_off(prompt.len())));
            Ok(())
        })?;
        Ok(out)
    }

    /// Hands groups of sequences that share passes to `work`, each with room for `n_more` tokens.
    fn in_groups(
        &self,
        setting: Setting,
        sequences: &[&[u32]],
        n_more: usize,
        mut work: impl FnMut(&Self, &mut Workspace, &mut KvPool, Vec<Line>) -> Result<(), RobustError>,
    ) -> Result<(), RobustError> {
        if setting.together == 0 || setting.together > ROWS_A_PASS {
            return Err(RobustError::parameter("batch", format!("is not between 1 and {ROWS_A_PASS}")));
        }
        if !cpu::available().contains(&setting.path) {
            let reason = format!("this processor has no {}", setting.path.name());
            return Err(RobustError::unsupported(
                "an environment",
                reason,
                "leave it out, or run it elsewhere",
            ));
        }
        let mut ws = Workspace::new();
        cpu::with_path(setting.path, || {
            for group in sequences.chunks(setting.together) {
                let pages = |ids: &&[u32]| (ids.len() + n_more).div_ceil(PAGE).max(1);
                let n_pages = group.iter().map(pages).sum();
                let shape = self.model.kv_shape(n_pages, setting.kv).ok_or_else(|| {
                    let reason = "the model keeps no keys and values".to_owned();
                    RobustError::unsupported("an environment", reason, "take a decoder of texts")
                })?;
                let mut pool = KvPool::new(shape);
                let mut first = 0;
                let lines = group.iter().map(|ids| {
                    let n = pages(ids) as u32;
                    let own = (first..first + n).collect();
                    first += n;
                    let state = self.model.start(&mut ws, None)?;
                    Ok(Line {
                        tokens: ids.to_vec(),
                        n_seen: 0,
                        n_read: ids.len(),
                        state,
                        pages: own,
                        is_over: false,
                    })
                });
                let lines = lines.collect::<Result<_, RobustError>>()?;
                work(self, &mut ws, &mut pool, lines)?;
            }
            Ok(())
        })
    }

    /// One pass over what comes next of every line: its place, whether the end of what is known of it was reached, and
    /// its logits.
    fn pass(
        &self,
        setting: Setting,
        ws: &mut Workspace,
        pool: &mut KvPool,
        lines: &mut [Line],
        wanted: Rows,
    ) -> Result<Vec<(usize, bool, Vec<f32>)>, RobustError> {
        let open = |line: &Line| !line.is_over && line.n_seen < line.tokens.len();
        let n_open = lines.iter().filter(|line| open(line)).count().max(1);
        let piece = if setting.way == Way::Whole { (ROWS_A_PASS / n_open).max(1) } else { 1 };
        let mut places = Vec::with_capacity(n_open);
        let mut rows = Vec::with_capacity(n_open);
        for (i, line) in lines.iter_mut().enumerate().filter(|(_, line)| open(line)) {
            let (class, end) = match line.n_seen < line.n_read {
                true => (RowClass::Bulk, line.n_read.min(line.tokens.len())),
                false => (RowClass::Step, line.tokens.len()),
            };
            let n = piece.min(end - line.n_seen);
            let Line { tokens, n_seen, state, pages, .. } = line;
            let tokens = &tokens[*n_seen..*n_seen + n];
            places.push((i, n));
            rows.push(DecodeRow { state, tokens, rows: wanted, pages, adapter: self.adapter, class });
        }
        let logits = {
            let _turn = self.control.turn()?;
            self.model.decode(ws, Some(pool), &mut rows)?
        };
        self.control.spend(places.len() as u64);
        let width = self.model.shape.output.width();
        let mut rest = &logits[..];
        let mut out = Vec::with_capacity(places.len());
        for (i, n) in places {
            let n_rows = if wanted == Rows::All { n } else { 1 };
            let (own, others) = rest.split_at(n_rows * width);
            rest = others;
            lines[i].n_seen += n;
            out.push((i, lines[i].n_seen == lines[i].tokens.len(), own.to_vec()));
        }
        ws.recycle(logits);
        Ok(out)
    }
}

/// Adds every compared place of the texts to one divergence a setting: `own` in that setting beside `reference` in its.
///
/// # Errors
/// As [`Reader::logits`].
pub fn diverge(
    (reference, standard): (Reader<'_>, Setting),
    own: Reader<'_>,
    texts: &[Scored],
    into: &mut [(Setting, Divergence)],
) -> Result<(), RobustError> {
    let row_bytes = 4 * reference.model.shape.output.width();
    let mut rest = texts;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|text| {
            bytes += text.ids.len() * row_bytes;
            bytes <= LOGIT_BYTES
        });
        let (group, others) = rest.split_at(fits.count().max(1));
        rest = others;
        let ids: Vec<&[u32]> = group.iter().map(|text| &text.ids[..]).collect();
        let theirs = reference.logits(standard, &ids)?;
        for (setting, divergence) in into.iter_mut() {
            let ours = own.logits(*setting, &ids)?;
            for ((text, ours), theirs) in group.iter().zip(&ours).zip(&theirs) {
                add(divergence, text, ours, theirs);
            }
        }
    }
    Ok(())
}

fn add(divergence: &mut Divergence, text: &Scored, ours: &[f32], theirs: &[f32]) {
    let width = ours.len() / text.ids.len().max(1);
    for (i, &next) in text.ids.iter().enumerate().skip(text.from.max(1)) {
        let row = (i - 1) * width..i * width;
        divergence.add(&ours[row.clone()], &theirs[row], Some(next));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_models::batch::{Input, Tokens};
    use lyceum_models::{InputShape, ModelShape, OutputShape};
    use lyceum_nn::{Examples, Recording, Tape};
    use lyceum_types::spec::{ModelSpec, Spec};

    const CONTEXT: usize = 80;

    fn tiny() -> Model {
        let spec = "name = \"t\"\ntask = \"language_modeling\"\nseed = 1\n[data]\ntrain = \"x.txt\"\n[model]\n\
             family = \"transformer\"\nvariant = \"decoder\"\nd_model = 16\nnhead = 2\nnum_layers = 2\n\
             dim_feedforward = 32\ncontext = 80\npositional = \"learned\"\nnorm_first = true\n[train]\nsteps = 1\nbatch_size = 1";
        let spec: ModelSpec = Spec::from_toml(spec, "t").unwrap_or_else(|errors| panic!("{errors}")).model;
        let shape = ModelShape {
            input: InputShape::Tokens { vocabulary: 23, time: CONTEXT },
            output: OutputShape::Tokens { vocabulary: 23 },
        };
        Model::new(&spec, &shape, 4).unwrap()
    }

    fn setting() -> Setting {
        Setting { path: cpu::path(), way: Way::Whole, together: 4, kv: KvStorage::F32 }
    }

    fn texts() -> Vec<Vec<u32>> {
        (0..6u32).map(|i| (0..20 + 9 * i).map(|t| (t * 7 + i * 5 + t * t) % 23).collect()).collect()
    }

    /// The slow twin: the whole sequence through the model that trains.
    fn twin(model: &Model, ids: &[u32]) -> Vec<f32> {
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(1));
        let forward = model.forward(&mut tape, &Input::Tokens(Tokens::single(ids))).unwrap();
        tape.value(forward.logits).to_vec()
    }

    #[test]
    fn steps_and_company_change_no_bit_and_the_logits_are_those_of_the_whole_text() {
        let (model, control, texts) = (tiny(), Control::new(), texts());
        let ids: Vec<&[u32]> = texts.iter().map(|t| &t[..]).collect();
        let reader = Reader { model: &model, adapter: None, control: &control };
        let want: Vec<Vec<f32>> = ids.iter().map(|ids| twin(&model, ids)).collect();
        for (way, together) in [(Way::Whole, 4), (Way::Whole, 1), (Way::Steps, 1), (Way::Steps, 3)] {
            let found = reader.logits(Setting { way, together, ..setting() }, &ids).unwrap();
            assert!(found == want, "{way:?} {together}");
        }
        for (way, together) in [(Way::Whole, 4), (Way::Whole, 100), (Way::Steps, 3)] {
            let (setting, before) = (Setting { way, together, ..setting() }, control.spent());
            reader.logits(setting, &ids).unwrap();
            let most: u64 = ids.iter().map(|ids| setting.passes_most(ids.len())).sum();
            assert!(control.spent() - before <= most, "{way:?} {together}");
        }
        let rounded = reader.logits(Setting { kv: KvStorage::Bf16, ..setting() }, &ids).unwrap();
        assert!(rounded != want, "rounded keys show");
        assert!(reader.logits(Setting { together: 0, ..setting() }, &ids).is_err());
        control.cancel();
        assert!(matches!(reader.logits(setting(), &ids), Err(RobustError::Stopped(_))));
    }

    #[test]
    fn answers_are_the_likeliest_tokens_one_after_the_other() {
        let (model, control, texts) = (tiny(), Control::new(), texts());
        let ids: Vec<&[u32]> = texts.iter().map(|t| &t[..t.len().min(9)]).collect();
        let reader = Reader { model: &model, adapter: None, control: &control };
        let greedy = Greedy { n_tokens_max: 12, ends: &[3], never: &[5] };
        let want: Vec<Vec<u32>> = ids
            .iter()
            .map(|prompt| {
                let mut all = prompt.to_vec();
                while all.len() < prompt.len() + 12 {
                    let logits = twin(&model, &all);
                    let next = likeliest_but(&logits[logits.len() - 23..], &[5]);
                    if next == 3 {
                        break;
                    }
                    all.push(next);
                }
                all.split_off(prompt.len())
            })
            .collect();
        for together in [1, 4] {
            assert_eq!(reader.answers(Setting { together, ..setting() }, &ids, greedy).unwrap(), want);
        }
        assert!(want.iter().any(|answer| !answer.is_empty()));
    }

    #[test]
    fn a_model_does_not_diverge_from_itself_and_does_from_another() {
        let (model, control) = (tiny(), Control::new());
        let texts: Vec<Scored> = texts().into_iter().map(|ids| Scored { ids, from: 5 }).collect();
        let reader = Reader { model: &model, adapter: None, control: &control };
        let mut into = [(Setting { way: Way::Steps, together: 1, ..setting() }, Divergence::default())];
        diverge((reader, setting()), reader, &texts, &mut into).unwrap();
        let same = into[0].1.distance().unwrap();
        assert!(same.identical && same.logprob_max == 0.0 && same.agreement.value == 1.0, "{same:?}");
        assert_eq!(same.agreement.n as usize, texts.iter().map(|t| t.ids.len() - 5).sum::<usize>());
        let mut other = tiny();
        let id = other.params.ids().next().unwrap();
        other.params.value_mut(id).iter_mut().for_each(|w| *w *= 1.5);
        let mut into = [(setting(), Divergence::default())];
        let changed = Reader { model: &other, ..reader };
        diverge((reader, setting()), changed, &texts, &mut into).unwrap();
        let far = into[0].1.distance().unwrap();
        assert!(
            !far.identical && far.kl_mean > 0.0 && far.perplexity.unwrap()[0] != far.perplexity.unwrap()[1]
        );
    }
}
