//! Examples in memory, as numbers, and how they fill a batch in place.

use super::sequences::Sequences;
use lyceum_models::batch::{Batch, IGNORE, Input, Target, Tokens};

/// The examples of one part (train, valid, test).
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    pub(crate) examples: Examples,
    pub(crate) targets: Targets,
    /// Row numbers from 0 in file order; windows of a stream count by themselves.
    pub(crate) row_ids: Vec<u64>,
    /// The texts of a text classification, for word-count baselines.
    pub(crate) texts: Option<Vec<String>>,
    /// Tokens of each example that the model does not read; empty where nothing can be cut.
    pub(crate) n_truncated: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Examples {
    Dense {
        shape: Vec<usize>,
        data: Vec<f32>,
    },
    Tokens(Ragged),
    /// A sequence each: the model reads all but the last id and says all but the first; what is before
    /// `answers[i]` is only read.
    Sequences {
        ids: Ragged,
        answers: Vec<u32>,
    },
    /// Decoder ids run `<bos> target… <eos>`: read without the last, said without the first.
    Pairs {
        source: Ragged,
        target: Ragged,
    },
    /// Conversations and preferences.
    Packed(Sequences),
    /// One long text in windows of `context`.
    Stream {
        tokens: Vec<u32>,
        context: usize,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Targets {
    /// The examples carry their own (text), or nothing is asked (prediction).
    None,
    Classes(Vec<u32>),
    Values {
        width: usize,
        data: Vec<f32>,
    },
    /// `[n, steps]`.
    Steps {
        steps: usize,
        data: Vec<u32>,
    },
}

/// Rows of different lengths in one buffer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ragged {
    ids: Vec<u32>,
    /// Row `i` is `ids[ends[i]..ends[i + 1]]`.
    ends: Vec<usize>,
}

impl Ragged {
    pub fn new() -> Self {
        Ragged { ids: Vec::new(), ends: vec![0] }
    }

    pub fn push(&mut self, row: &[u32]) {
        self.ids.extend_from_slice(row);
        self.ends.push(self.ids.len());
    }

    pub fn len(&self) -> usize {
        self.ends.len() - 1
    }

    pub fn row(&self, i: usize) -> &[u32] {
        &self.ids[self.range(i)]
    }

    /// Where row `i` lies among all ids.
    pub fn range(&self, i: usize) -> std::ops::Range<usize> {
        self.ends[i]..self.ends[i + 1]
    }
}

impl Dataset {
    /// Conversations or preferences, with the rows that they stood in.
    pub(crate) fn of_sequences(sequences: Sequences, row_ids: Vec<u64>) -> Self {
        let (examples, targets) = (Examples::Packed(sequences), Targets::None);
        Dataset { examples, targets, row_ids, texts: None, n_truncated: Vec::new() }
    }

    /// Conversations or preferences.
    pub(crate) fn sequences(&self) -> Option<&Sequences> {
        if let Examples::Packed(sequences) = &self.examples { Some(sequences) } else { None }
    }

    /// Whether these are the lines of a fine-tuning.
    pub fn is_sequences(&self) -> bool {
        self.sequences().is_some()
    }

    /// What an example's summed loss terms are multiplied by, so that they are its own loss: of a sequence one over
    /// its learnt tokens (its loss is their mean), else 1. It depends on no other example.
    pub(crate) fn loss_share(&self, row: usize) -> f64 {
        self.sequences().map_or(1.0, |sequences| 1.0 / sequences.n_learnt(row).max(1) as f64)
    }

    pub(crate) fn sequences_mut(&mut self) -> Option<&mut Sequences> {
        if let Examples::Packed(sequences) = &mut self.examples { Some(sequences) } else { None }
    }

    /// Examples; for a stream, its windows.
    pub fn len(&self) -> usize {
        match &self.examples {
            Examples::Dense { shape, data } => data.len() / shape.iter().product::<usize>().max(1),
            Examples::Tokens(ids) | Examples::Sequences { ids, .. } => ids.len(),
            Examples::Pairs { source, .. } => source.len(),
            Examples::Packed(sequences) => sequences.n_examples(),
            Examples::Stream { .. } => self.n_windows(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An empty batch of the right kind, to be filled again and again.
    pub fn new_batch(&self) -> Batch {
        if let Examples::Packed(sequences) = &self.examples {
            return sequences.new_batch();
        }
        let input = match &self.examples {
            Examples::Dense { shape, .. } => Input::Dense { shape: shape.clone(), data: Vec::new() },
            Examples::Pairs { .. } => Input::Pair { source: Tokens::default(), target: Tokens::default() },
            _ => Input::Tokens(Tokens::default()),
        };
        let target = match (&self.targets, &self.examples) {
            (Targets::Classes(_), _) => Target::Classes(Vec::new()),
            (Targets::Values { width, .. }, _) => Target::Values { width: *width, data: Vec::new() },
            (Targets::Steps { .. }, _)
            | (_, Examples::Sequences { .. } | Examples::Pairs { .. } | Examples::Stream { .. }) => {
                Target::Steps(Vec::new())
            }
            (Targets::None, _) => Target::None,
        };
        Batch { n: 0, input, target }
    }

    /// Fills a batch of [`Self::new_batch`] with these examples, in this order. Once the batch has held its
    /// largest shape, nothing is allocated.
    pub fn fill(&self, indices: &[usize], batch: &mut Batch) {
        if let Examples::Packed(sequences) = &self.examples {
            return sequences.fill(indices, batch);
        }
        batch.n = indices.len();
        self.fill_targets(indices, &mut batch.target);
        match (&self.examples, &mut batch.input) {
            (Examples::Dense { shape, data }, Input::Dense { data: out, .. }) => {
                let width: usize = shape.iter().product();
                out.clear();
                for &i in indices {
                    out.extend_from_slice(&data[i * width..(i + 1) * width]);
                }
            }
            (Examples::Tokens(ids), Input::Tokens(out)) => {
                let time = indices.iter().map(|&i| ids.row(i).len()).max().unwrap_or(0);
                start(out, indices.len(), time);
                for (row, &i) in indices.iter().enumerate() {
                    put(out, row, ids.row(i));
                }
            }
            (Examples::Sequences { ids, answers }, Input::Tokens(out)) => {
                let Target::Steps(steps) = &mut batch.target else { unreachable!("{FOREIGN}") };
                let time = indices.iter().map(|&i| ids.row(i).len() - 1).max().unwrap_or(0);
                start(out, indices.len(), time);
                start_steps(steps, indices.len() * time);
                for (row, &i) in indices.iter().enumerate() {
                    let sequence = ids.row(i);
                    put(out, row, &sequence[..sequence.len() - 1]);
                    for t in answers[i] as usize..sequence.len() {
                        steps[row * time + t - 1] = sequence[t] as i32;
                    }
                }
            }
            (Examples::Pairs { source, target }, Input::Pair { source: read, target: decoded }) => {
                let Target::Steps(steps) = &mut batch.target else { unreachable!("{FOREIGN}") };
                let longest = |rows: &Ragged, less: usize| {
                    indices.iter().map(|&i| rows.row(i).len() - less).max().unwrap_or(0)
                };
                let time = longest(target, 1);
                start(read, indices.len(), longest(source, 0));
                start(decoded, indices.len(), time);
                start_steps(steps, indices.len() * time);
                for (row, &i) in indices.iter().enumerate() {
                    put(read, row, source.row(i));
                    let sequence = target.row(i);
                    put(decoded, row, &sequence[..sequence.len() - 1]);
                    for (t, &id) in sequence[1..].iter().enumerate() {
                        steps[row * time + t] = id as i32;
                    }
                }
            }
            (Examples::Stream { context, .. }, _) => self.fill_stream(indices, *context, batch),
            _ => unreachable!("{FOREIGN}"),
        }
    }

    /// These examples, and after them the `chosen` ones of another set of the same kind.
    ///
    /// # Panics
    /// Where the two are of different kinds, or not one class an example.
    pub(crate) fn followed_by(&self, other: &Dataset, chosen: &[usize]) -> Dataset {
        let mut all = self.clone();
        match (&mut all.examples, &other.examples) {
            (Examples::Dense { shape, data }, Examples::Dense { data: more, .. }) => {
                let width: usize = shape.iter().product();
                chosen.iter().for_each(|&i| data.extend_from_slice(&more[i * width..(i + 1) * width]));
            }
            (Examples::Tokens(ids), Examples::Tokens(more)) => {
                chosen.iter().for_each(|&i| ids.push(more.row(i)));
            }
            (Examples::Packed(own), Examples::Packed(more)) => *own = own.followed_by(more, chosen),
            _ => unreachable!("both sets are of one preparation: bug"),
        }
        match (&mut all.targets, &other.targets) {
            (Targets::Classes(classes), Targets::Classes(more)) => {
                classes.extend(chosen.iter().map(|&i| more[i]));
            }
            (Targets::None, Targets::None) => {}
            _ => unreachable!("both sets have answers of one kind: bug"),
        }
        all
    }

    fn fill_targets(&self, indices: &[usize], target: &mut Target) {
        match (&self.targets, target) {
            (Targets::None, _) => {}
            (Targets::Classes(classes), Target::Classes(out)) => {
                out.clear();
                out.extend(indices.iter().map(|&i| classes[i] as i32));
            }
            (Targets::Values { width, data }, Target::Values { data: out, .. }) => {
                out.clear();
                for &i in indices {
                    out.extend_from_slice(&data[i * width..(i + 1) * width]);
                }
            }
            (Targets::Steps { steps, data }, Target::Steps(out)) => {
                out.clear();
                for &i in indices {
                    out.extend(data[i * steps..(i + 1) * steps].iter().map(|&class| class as i32));
                }
            }
            _ => unreachable!("{FOREIGN}"),
        }
    }

    /// Classes of the examples.
    pub fn labels(&self) -> Option<&[u32]> {
        match &self.targets {
            Targets::Classes(classes) => Some(classes),
            _ => None,
        }
    }

    /// Target numbers `[n, width]`, scaled as the preparation says, and `width`.
    pub fn values(&self) -> Option<(&[f32], usize)> {
        match &self.targets {
            Targets::Values { width, data } => Some((data, *width)),
            _ => None,
        }
    }

    /// Input numbers `[n, width]` and `width`.
    pub fn dense(&self) -> Option<(&[f32], usize)> {
        match &self.examples {
            Examples::Dense { shape, data } => Some((data, shape.iter().product())),
            _ => None,
        }
    }

    /// The texts of a text classification.
    pub fn texts(&self) -> Option<&[String]> {
        self.texts.as_deref()
    }

    /// The whole text of a language model's corpus, as ids.
    pub fn tokens(&self) -> Option<&[u32]> {
        match &self.examples {
            Examples::Stream { tokens, .. } => Some(tokens),
            _ => None,
        }
    }

    /// The ids of one example of token inputs: a text, or a prompt with its completion, or a source.
    pub fn example_tokens(&self, i: usize) -> Option<&[u32]> {
        match &self.examples {
            Examples::Tokens(ids) | Examples::Sequences { ids, .. } => Some(ids.row(i)),
            Examples::Pairs { source, .. } => Some(source.row(i)),
            Examples::Dense { .. } | Examples::Stream { .. } | Examples::Packed(_) => None,
        }
    }

    /// What should be said after `example_tokens` was read: the completion's ids with its `<eos>`, or the
    /// decoder's `<bos> target <eos>`.
    pub fn answer_tokens(&self, i: usize) -> Option<&[u32]> {
        match &self.examples {
            Examples::Sequences { ids, answers } => Some(&ids.row(i)[answers[i] as usize..]),
            Examples::Pairs { target, .. } => Some(target.row(i)),
            _ => None,
        }
    }

    /// Whether examples are sources with targets.
    pub fn is_pairs(&self) -> bool {
        matches!(self.examples, Examples::Pairs { .. })
    }

    pub fn row_ids(&self) -> &[u64] {
        &self.row_ids
    }

    /// Tokens of example `i` that the model does not read.
    pub fn n_truncated(&self, i: usize) -> usize {
        self.n_truncated.get(i).map_or(0, |&n| n as usize)
    }

    /// Tokens a window of a stream.
    pub fn context(&self) -> Option<usize> {
        match &self.examples {
            Examples::Stream { context, .. } => Some(*context),
            _ => None,
        }
    }

    /// Windows that follow one another without overlap, the last one shorter; together they predict every
    /// token but the first. 0 where this is no stream.
    pub fn n_windows(&self) -> usize {
        match &self.examples {
            Examples::Stream { tokens, context } => tokens.len().saturating_sub(1).div_ceil(*context),
            _ => 0,
        }
    }

    /// Fills with windows of a stream that start at these tokens: `input = tokens[o..o + context]`,
    /// `target = tokens[o + 1..]`; a window at the end is shorter.
    pub fn fill_windows(&self, offsets: &[usize], batch: &mut Batch) {
        let Examples::Stream { .. } = &self.examples else { unreachable!("only a stream has windows: bug") };
        batch.n = offsets.len();
        self.fill_stream(offsets, 1, batch);
    }

    /// Windows at `positions[i] * stride`.
    fn fill_stream(&self, positions: &[usize], stride: usize, batch: &mut Batch) {
        let (Examples::Stream { tokens, context }, Input::Tokens(out), Target::Steps(steps)) =
            (&self.examples, &mut batch.input, &mut batch.target)
        else {
            unreachable!("{FOREIGN}")
        };
        let length = |offset: usize| (tokens.len() - 1 - offset).min(*context);
        let time = positions.iter().map(|&p| length(p * stride)).max().unwrap_or(0);
        start(out, positions.len(), time);
        start_steps(steps, positions.len() * time);
        for (row, &position) in positions.iter().enumerate() {
            let offset = position * stride;
            let n = length(offset);
            put(out, row, &tokens[offset..offset + n]);
            for (step, &id) in steps[row * time..].iter_mut().zip(&tokens[offset + 1..offset + 1 + n]) {
                *step = id as i32;
            }
        }
    }
}

const FOREIGN: &str = "a batch is filled by the data set that made it: bug";

fn start(out: &mut Tokens, n: usize, time: usize) {
    (out.n, out.time) = (n, time);
    out.ids.clear();
    out.ids.resize(n * time, 0);
    out.lengths.clear();
}

fn start_steps(steps: &mut Vec<i32>, len: usize) {
    steps.clear();
    steps.resize(len, IGNORE);
}

fn put(out: &mut Tokens, row: usize, ids: &[u32]) {
    out.ids[row * out.time..row * out.time + ids.len()].copy_from_slice(ids);
    out.lengths.push(ids.len() as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(examples: Examples, targets: Targets) -> Dataset {
        Dataset { examples, targets, row_ids: vec![], texts: None, n_truncated: vec![] }
    }

    fn ragged(rows: &[&[u32]]) -> Ragged {
        let mut out = Ragged::new();
        rows.iter().for_each(|row| out.push(row));
        out
    }

    #[test]
    fn windows_of_a_stream_predict_every_token_once() {
        let set = plain(Examples::Stream { tokens: (10..18).collect(), context: 3 }, Targets::None);
        let mut batch = set.new_batch();
        assert_eq!((set.len(), set.n_windows()), (3, 3));
        set.fill(&[0, 2], &mut batch);
        let Input::Tokens(tokens) = &batch.input else { unreachable!() };
        assert_eq!(tokens.ids, [10, 11, 12, 16, 0, 0]);
        assert_eq!(tokens.lengths, [3, 1]);
        assert_eq!(batch.target, Target::Steps(vec![11, 12, 13, 17, IGNORE, IGNORE]));
        set.fill_windows(&[4], &mut batch);
        let Input::Tokens(tokens) = &batch.input else { unreachable!() };
        assert_eq!((tokens.n, &tokens.ids[..]), (1, &[14, 15, 16][..]));
        assert_eq!(batch.target, Target::Steps(vec![15, 16, 17]));
    }

    #[test]
    fn the_loss_of_a_completion_leaves_out_its_prompt_and_padding() {
        let ids = ragged(&[&[1, 2, 3, 4, 9], &[5, 6, 9]]);
        let set = plain(Examples::Sequences { ids, answers: vec![3, 1] }, Targets::None);
        let mut batch = set.new_batch();
        set.fill(&[0, 1], &mut batch);
        let Input::Tokens(tokens) = &batch.input else { unreachable!() };
        assert_eq!((tokens.time, &tokens.ids[..]), (4, &[1, 2, 3, 4, 5, 6, 0, 0][..]));
        assert_eq!(batch.target, Target::Steps(vec![IGNORE, IGNORE, 4, 9, 6, 9, IGNORE, IGNORE]));
        assert_eq!(set.answer_tokens(0), Some(&[4, 9][..]));
    }

    #[test]
    fn pairs_shift_the_target_right() {
        let set = plain(
            Examples::Pairs {
                source: ragged(&[&[1, 2], &[3]]),
                target: ragged(&[&[7, 4, 8], &[7, 5, 6, 8]]),
            },
            Targets::None,
        );
        let mut batch = set.new_batch();
        set.fill(&[0, 1], &mut batch);
        let Input::Pair { source, target } = &batch.input else { unreachable!() };
        assert_eq!((&source.ids[..], &source.lengths[..]), (&[1, 2, 3, 0][..], &[2, 1][..]));
        assert_eq!((&target.ids[..], &target.lengths[..]), (&[7, 4, 0, 7, 5, 6][..], &[2, 3][..]));
        assert_eq!(batch.target, Target::Steps(vec![4, 8, IGNORE, 5, 6, 8]));
    }

    #[test]
    fn a_batch_that_has_held_its_largest_shape_keeps_its_buffers() {
        let data: Vec<f32> = (0..20).map(|i| i as f32).collect();
        let set = plain(Examples::Dense { shape: vec![2], data }, Targets::Classes((0..10).collect()));
        let mut batch = set.new_batch();
        set.fill(&[0, 1, 2, 3], &mut batch);
        let at = |batch: &Batch| match (&batch.input, &batch.target) {
            (Input::Dense { data, .. }, Target::Classes(classes)) => (data.as_ptr(), classes.as_ptr()),
            _ => unreachable!(),
        };
        let before = at(&batch);
        set.fill(&[9, 4], &mut batch);
        set.fill(&[5, 6, 7, 8], &mut batch);
        assert_eq!(at(&batch), before);
        assert_eq!(batch.target, Target::Classes(vec![5, 6, 7, 8]));
    }
}
