//! Labelled texts that candidates are asked about: the rows that others are trained and measured on, the examples that
//! are shown before a text, and the answers, each asked once.
//!
//! Without examples an answer has no chance in it, so it is the same for every seed; with examples each seed draws others.

use crate::lab::held_out;
use crate::served::{AskError, Asked, Decided, How, Served};
use lyceum_models::prepare::{InputPreparation, OutputPreparation};
use lyceum_seal::KeyedPath;
use lyceum_train::TrainError;
use lyceum_train::data::{self, Loaded};
use lyceum_types::control::Control;
use lyceum_types::spec::Spec;
use lyceum_types::spec::choose::{ChooseSpec, Imported, Question};
use std::collections::BTreeMap;

/// A text with the place of its label.
pub type Text = (String, u32);

/// One way of parting the rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fold {
    pub train: Vec<Text>,
    pub valid: Vec<Text>,
}

/// Labelled texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Texts {
    pub labels: Vec<String>,
    pub folds: Vec<Fold>,
}

impl Texts {
    /// The rows of `parts`, which `job` reads, as the file has them.
    ///
    /// # Errors
    /// Rows that are no texts with a label each.
    pub fn of(
        job: &Spec,
        parts: &[Loaded],
        base_dir: &KeyedPath,
        control: &Control,
    ) -> Result<Self, TrainError> {
        let preparation = &parts[0].preparation;
        let (InputPreparation::Text { .. }, OutputPreparation::Labels { names }) =
            (&preparation.input, &preparation.output)
        else {
            let message = "language models are asked about one column of texts with a label each: name it with \
                           features = [\"text\"], and say data.input = { type = \"text\" }";
            return Err(TrainError::Spec(message.into()));
        };
        let train = data::texts(job, &base_dir.join(&job.data.train), control)?;
        let valid = match &job.data.valid {
            Some(file) => Some(data::texts(job, &base_dir.join(file), control)?),
            None => None,
        };
        let rows = |set: &data::Dataset, file: &[String]| -> Vec<Text> {
            let labels = set.labels().expect("rows of a classification have labels: bug");
            set.row_ids()
                .iter()
                .zip(labels)
                .map(|(&row, &label)| (file[row as usize].clone(), label))
                .collect()
        };
        let fold = |part: &Loaded| {
            let file = valid.as_ref().unwrap_or(&train);
            Ok(Fold { train: rows(&part.train, &train), valid: rows(held_out(part)?, file) })
        };
        let folds = parts.iter().map(fold).collect::<Result<_, TrainError>>()?;
        Ok(Texts { labels: names.clone(), folds })
    }
}

/// What a candidate is asked: with its examples of this seed in front of the labels.
pub fn question(own: &Imported, shared: Option<&Question>, labels: &[String], examples: &[&Text]) -> Asked {
    let words = own.instructions.as_deref().or(shared.map(|question| question.instructions.as_str()));
    let mut instructions = words.unwrap_or_default().trim().to_owned();
    if !examples.is_empty() {
        instructions += "\n\nExamples:";
        for (text, label) in examples {
            instructions += &format!("\n\nText: {text}\nAnswer: {}", labels[*label as usize]);
        }
    }
    let described = |label: &String| shared.and_then(|question| question.descriptions.get(label).cloned());
    Asked { instructions, labels: labels.to_vec(), descriptions: labels.iter().map(described).collect() }
}

/// Examples of a seed: of each class in turn, drawn from the training rows.
pub fn examples(train: &[Text], n: usize, n_labels: usize, seed: u64) -> Vec<&Text> {
    let mut of_class: Vec<Vec<(u64, &Text)>> = vec![Vec::new(); n_labels];
    for (i, row) in train.iter().enumerate() {
        of_class[row.1 as usize].push((mixed(seed, i as u64), row));
    }
    of_class.iter_mut().for_each(|rows| rows.sort_by_key(|(key, _)| *key));
    let mut drawn: Vec<&Text> = Vec::new();
    for round in 0.. {
        let before = drawn.len();
        for rows in &of_class {
            if let (Some((_, row)), true) = (rows.get(round), drawn.len() < n) {
                drawn.push(row);
            }
        }
        if drawn.len() == before || drawn.len() == n {
            break;
        }
    }
    drawn
}

/// SplitMix64 of a seed and a place (Steele et al. 2014).
fn mixed(seed: u64, place: u64) -> u64 {
    let mut z = seed.wrapping_add(place.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Asks imported candidates, and remembers what they said.
pub struct Asking<'a> {
    spec: &'a ChooseSpec,
    served: &'a dyn Served,
    pub texts: Texts,
    /// By candidate, seed and fold.
    said: BTreeMap<(usize, usize, usize), Vec<Decided>>,
}

impl<'a> Asking<'a> {
    pub fn new(spec: &'a ChooseSpec, served: &'a dyn Served, texts: Texts) -> Self {
        Asking { spec, served, texts, said: BTreeMap::new() }
    }

    pub fn served(&self) -> &'a dyn Served {
        self.served
    }

    pub fn candidate(&self, candidate: usize) -> &'a Imported {
        &self.spec.imported[candidate]
    }

    /// What it is asked with this seed's examples.
    pub fn asked(&self, candidate: usize, seed: usize, fold: usize) -> Asked {
        let own = self.candidate(candidate);
        let (labels, train) = (&self.texts.labels, &self.texts.folds[fold].train);
        let seed = self.spec.seed.wrapping_add(seed as u64);
        let examples = examples(train, own.shots, labels.len(), seed);
        question(own, self.spec.question.as_ref(), labels, &examples)
    }

    /// Answers to the held-out rows of a fold.
    ///
    /// # Errors
    /// The model's; an end from outside.
    pub fn answers(
        &mut self,
        (candidate, seed, fold): (usize, usize, usize),
        control: &Control,
    ) -> Result<&[Decided], AskError> {
        let seed = if self.candidate(candidate).shots == 0 { 0 } else { seed };
        let key = (candidate, seed, fold);
        if !self.said.contains_key(&key) {
            let asked = self.asked(candidate, seed, fold);
            let texts: Vec<&str> =
                self.texts.folds[fold].valid.iter().map(|(text, _)| text.as_str()).collect();
            let how = How { control, apart: 0 };
            let said = self.served.decide(self.candidate(candidate), &asked, &texts, how)?;
            self.said.insert(key, said);
        }
        Ok(&self.said[&key])
    }

    /// Errors on the held-out rows of a fold, 1 where the likeliest label is not the row's.
    ///
    /// # Errors
    /// As [`answers`](Self::answers).
    pub fn losses(
        &mut self,
        (candidate, seed, fold): (usize, usize, usize),
        control: &Control,
    ) -> Result<Vec<f64>, AskError> {
        let best: Vec<u32> =
            self.answers((candidate, seed, fold), control)?.iter().map(Decided::best).collect();
        let truth = self.texts.folds[fold].valid.iter().map(|(_, label)| *label);
        Ok(best.into_iter().zip(truth).map(|(best, truth)| f64::from(u8::from(best != truth))).collect())
    }

    /// Tokens that an answer read, the mean and the most of the first seed's; None before it was asked.
    pub fn tokens(&self, candidate: usize) -> Option<(f64, u64)> {
        let said = self.said.get(&(candidate, 0, 0))?;
        let all = || said.iter().map(|decided| decided.n_tokens);
        Some((all().sum::<u64>() as f64 / said.len().max(1) as f64, all().max()?))
    }

    /// The first seed's answers to the first fold, if they were asked for.
    pub fn first(&self, candidate: usize) -> Option<(&[Decided], &[Text])> {
        Some((self.said.get(&(candidate, 0, 0))?, &self.texts.folds[0].valid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize) -> Vec<Text> {
        (0..n).map(|i| (format!("text {i}"), u32::from(i % 3 == 0))).collect()
    }

    #[test]
    fn examples_take_classes_in_turn_and_seeds_draw_others() {
        let train = rows(60);
        let drawn = examples(&train, 5, 2, 1);
        assert_eq!(drawn.iter().map(|(_, label)| *label).collect::<Vec<_>>(), [0, 1, 0, 1, 0]);
        assert_eq!(drawn, examples(&train, 5, 2, 1));
        assert_ne!(drawn, examples(&train, 5, 2, 2));
        assert_eq!(examples(&train, 1000, 2, 1).len(), 60);
        assert!(examples(&train, 0, 2, 1).is_empty());
    }

    #[test]
    fn examples_stand_behind_the_instructions() {
        let own = Imported { name: "m".into(), model: "m".into(), shots: 2, instructions: None };
        let shared = Question {
            instructions: " Is it praise? ".into(),
            descriptions: BTreeMap::from([("no".to_owned(), "blame".to_owned())]),
        };
        let labels = ["yes".to_owned(), "no".to_owned()];
        let text = ("bad".to_owned(), 1);
        let asked = question(&own, Some(&shared), &labels, &[&text]);
        assert_eq!(asked.instructions, "Is it praise?\n\nExamples:\n\nText: bad\nAnswer: no");
        assert_eq!(asked.descriptions, [None, Some("blame".to_owned())]);
        let other = Imported { instructions: Some("Good?".into()), ..own };
        assert_eq!(question(&other, Some(&shared), &labels, &[]).instructions, "Good?");
    }
}
