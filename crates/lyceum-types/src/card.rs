//! The accountability card of a model version: what is known of it, how that is known, and what is not.
//!
//! A document, like the manifest: the shape here is what is signed and handed on, so it derives serde. It knows
//! neither files nor models nor drawings. Nothing on it is blank: a number says its method, rows, interval, seed,
//! date and the command that computes it again, and what was not measured is listed as such, with the reason and
//! the command that would measure it.

mod canonical;

pub use canonical::canonical;

use serde::{Deserialize, Serialize};

/// The card's own version; a reader refuses a newer one.
pub const FORMAT_VERSION: u32 = 1;
/// What `object` says.
pub const OBJECT: &str = "model_card";
/// What a signature is worth, on every card.
pub const STATEMENT: &str = "The signature proves that this card was issued by the holder of this key and was not \
     changed since. It does not prove that what the card says is true: verify recomputes what is cheap, and every \
     number names the command that computes it again.";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    pub object: String,
    pub format_version: u32,
    /// `name@3`
    pub model: String,
    /// RFC 3339, UTC.
    pub issued_at: String,
    /// The program that issued it.
    pub issued_by: String,
    pub sections: Sections,
    pub signed_by: SignedBy,
}

/// Who signs, and over what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedBy {
    /// `Ed25519` (RFC 8032)
    pub algorithm: String,
    /// 32 bytes, hexadecimal.
    pub public_key: String,
    /// Which bytes are signed.
    pub over: String,
    pub statement: String,
}

/// In the order in which a card is read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sections {
    pub identity: Section,
    pub data: Section,
    pub training: Section,
    pub quality: Section,
    pub calibration: Section,
    pub privacy: Section,
    pub explainability: Section,
    pub robustness: Section,
    pub environments: Section,
    pub cost: Section,
}

/// Which part of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Identity,
    Data,
    Training,
    Quality,
    Calibration,
    Privacy,
    Explainability,
    Robustness,
    Environments,
    Cost,
}

impl Part {
    pub const ALL: [Part; 10] = [
        Part::Identity,
        Part::Data,
        Part::Training,
        Part::Quality,
        Part::Calibration,
        Part::Privacy,
        Part::Explainability,
        Part::Robustness,
        Part::Environments,
        Part::Cost,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Part::Identity => "Identity",
            Part::Data => "Data",
            Part::Training => "Training",
            Part::Quality => "Quality",
            Part::Calibration => "Calibration",
            Part::Privacy => "Privacy",
            Part::Explainability => "Explainability",
            Part::Robustness => "Robustness",
            Part::Environments => "Environments",
            Part::Cost => "Cost",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// What is so by record: names, hashes, choices.
    pub facts: Vec<Fact>,
    /// What was measured.
    pub numbers: Vec<Number>,
    /// What it means, and its limits.
    pub statements: Vec<String>,
    pub not_evaluated: Vec<NotEvaluated>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    pub name: String,
    pub value: String,
}

/// A number that was computed, with all that it takes to judge it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Number {
    pub name: String,
    /// Whose: the version, or a baseline beside it.
    pub of: String,
    pub value: f64,
    pub unit: String,
    pub ci95: Stated<[f64; 2]>,
    /// How the interval was made.
    pub interval: String,
    /// Rows (or what `method` counts) behind it.
    pub n: Stated<u64>,
    /// Its place on a curve: ε of an attack, mean confidence of a bin.
    pub at: Option<At>,
    pub method: String,
    pub seed: Stated<u64>,
    /// When it was measured; RFC 3339, UTC.
    pub date: String,
    /// The command that computes it again.
    pub recompute: String,
    /// What makes it doubtful, such as a raised sign of a masked gradient.
    pub doubts: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct At {
    pub name: String,
    pub value: f64,
    pub unit: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotEvaluated {
    pub what: String,
    pub why: String,
    /// What would measure it; where nothing here can, that.
    pub how: String,
}

/// A value, or the words why there is none: `not_evaluated: …` or `not_applicable: …`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Stated<T> {
    Is(T),
    Not(String),
}

impl<T> Stated<T> {
    pub fn not_evaluated(why: &str) -> Self {
        Stated::Not(format!("not_evaluated: {why}"))
    }

    pub fn not_applicable(why: &str) -> Self {
        Stated::Not(format!("not_applicable: {why}"))
    }

    pub fn value(&self) -> Option<&T> {
        match self {
            Stated::Is(value) => Some(value),
            Stated::Not(_) => None,
        }
    }

    /// The words, where there is no value.
    fn is_spelled_out(&self) -> bool {
        match self {
            Stated::Is(_) => true,
            Stated::Not(words) => {
                let why = words.strip_prefix("not_evaluated: ").or(words.strip_prefix("not_applicable: "));
                why.is_some_and(|why| !why.trim().is_empty())
            }
        }
    }
}

/// What was measured of a version after its training: a file beside its weights, in the words of the card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    pub format_version: u32,
    /// Of the weights that were measured: evidence about other weights is none.
    pub weights_sha256: String,
    /// Seconds since 1970.
    pub created: u64,
    pub part: Part,
    pub section: Section,
}

impl Section {
    pub fn fact(&mut self, name: &str, value: impl Into<String>) {
        self.facts.push(Fact { name: name.to_owned(), value: value.into() });
    }

    pub fn missing(&mut self, what: &str, why: impl Into<String>, how: impl Into<String>) {
        self.not_evaluated.push(NotEvaluated { what: what.to_owned(), why: why.into(), how: how.into() });
    }

    /// Adds what `newer` found; its numbers take the place of older ones of the same name, method and place.
    pub fn take(&mut self, newer: Section) {
        let same =
            |a: &Number, b: &Number| (&a.name, &a.of, &a.method, &a.at) == (&b.name, &b.of, &b.method, &b.at);
        self.numbers.retain(|old| !newer.numbers.iter().any(|new| same(old, new)));
        self.numbers.extend(newer.numbers);
        self.facts.retain(|old| !newer.facts.iter().any(|new| new.name == old.name));
        self.facts.extend(newer.facts);
        for statement in newer.statements {
            if !self.statements.contains(&statement) {
                self.statements.push(statement);
            }
        }
        self.not_evaluated.retain(|old| !newer.not_evaluated.iter().any(|new| new.what == old.what));
        self.not_evaluated.extend(newer.not_evaluated);
    }

    fn problems(&self, name: &str, problems: &mut Vec<String>) {
        let mut say = |text: String| problems.push(format!("{name}: {text}"));
        if self.facts.is_empty() && self.numbers.is_empty() && self.not_evaluated.is_empty() {
            say("is blank".into());
        }
        for fact in self.facts.iter().filter(|fact| fact.value.trim().is_empty()) {
            say(format!("the fact {} is blank", fact.name));
        }
        for missing in &self.not_evaluated {
            if [&missing.what, &missing.why, &missing.how].iter().any(|text| text.trim().is_empty()) {
                say(format!("{:?} is not evaluated without a reason", missing.what));
            }
        }
        for number in &self.numbers {
            let words = [
                &number.name,
                &number.of,
                &number.unit,
                &number.interval,
                &number.method,
                &number.date,
                &number.recompute,
            ];
            let spelled =
                number.ci95.is_spelled_out() && number.n.is_spelled_out() && number.seed.is_spelled_out();
            if words.iter().any(|text| text.trim().is_empty()) || !spelled {
                say(format!("the number {} does not say all that it must", number.name));
            }
            let ends = number.ci95.value().copied().unwrap_or_default();
            let at = number.at.as_ref().map_or(0.0, |at| at.value);
            if ![number.value, ends[0], ends[1], at].iter().all(|x| x.is_finite()) {
                say(format!("the number {} is not finite", number.name));
            }
        }
    }
}

impl Sections {
    pub fn of(&self, part: Part) -> &Section {
        match part {
            Part::Identity => &self.identity,
            Part::Data => &self.data,
            Part::Training => &self.training,
            Part::Quality => &self.quality,
            Part::Calibration => &self.calibration,
            Part::Privacy => &self.privacy,
            Part::Explainability => &self.explainability,
            Part::Robustness => &self.robustness,
            Part::Environments => &self.environments,
            Part::Cost => &self.cost,
        }
    }

    pub fn of_mut(&mut self, part: Part) -> &mut Section {
        match part {
            Part::Identity => &mut self.identity,
            Part::Data => &mut self.data,
            Part::Training => &mut self.training,
            Part::Quality => &mut self.quality,
            Part::Calibration => &mut self.calibration,
            Part::Privacy => &mut self.privacy,
            Part::Explainability => &mut self.explainability,
            Part::Robustness => &mut self.robustness,
            Part::Environments => &mut self.environments,
            Part::Cost => &mut self.cost,
        }
    }

    /// What is blank or half said; a card with problems is never issued.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        Part::ALL.iter().for_each(|&part| self.of(part).problems(part.title(), &mut problems));
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number() -> Number {
        Number {
            name: "valid_accuracy".into(),
            of: "digits@1".into(),
            value: 0.9,
            unit: "share".into(),
            ci95: Stated::Is([0.8, 0.95]),
            interval: "Wilson".into(),
            n: Stated::Is(100),
            at: None,
            method: "share of right answers".into(),
            seed: Stated::not_applicable("nothing is drawn"),
            date: "2026-01-01T00:00:00Z".into(),
            recompute: "lyceum eval".into(),
            doubts: vec![],
        }
    }

    fn full() -> Sections {
        let mut sections = Sections::default();
        for part in Part::ALL {
            sections.of_mut(part).missing("all", "nobody did", "do it");
        }
        sections
    }

    #[test]
    fn nothing_may_be_blank_or_half_said() {
        assert_eq!(Sections::default().problems().len(), 10);
        let mut sections = full();
        sections.quality.numbers.push(number());
        assert_eq!(sections.problems(), Vec::<String>::new());
        type Harm = fn(&mut Number);
        let harms: [Harm; 6] = [
            |n| n.recompute.clear(),
            |n| n.value = f64::NAN,
            |n| n.ci95 = Stated::Not(String::new()),
            |n| n.n = Stated::Not("not_evaluated: ".into()),
            |n| n.method = " ".into(),
            |n| n.ci95 = Stated::Is([f64::NEG_INFINITY, 1.0]),
        ];
        for harm in harms {
            let mut harmed = sections.clone();
            harm(&mut harmed.quality.numbers[0]);
            assert_eq!(harmed.problems().len(), 1, "{:?}", harmed.quality.numbers[0]);
        }
        sections.cost.not_evaluated[0].how.clear();
        assert_eq!(sections.problems().len(), 1);
    }

    #[test]
    fn a_newer_number_takes_the_place_of_the_same_one_only() {
        let mut section = Section { numbers: vec![number()], ..Section::default() };
        section.missing("attacks", "nobody ran one", "lyceum attack");
        let at = |value: f64| Some(At { name: "eps".into(), value, unit: "pixel".into() });
        let newer = |value: f64, at: Option<At>| Section {
            numbers: vec![Number { value, at, ..number() }],
            ..Section::default()
        };
        section.take(newer(0.5, None));
        section.take(newer(0.4, at(0.1)));
        section.take(newer(0.3, at(0.2)));
        section.take(newer(0.35, at(0.2)));
        assert_eq!(section.numbers.iter().map(|n| n.value).collect::<Vec<_>>(), [0.5, 0.4, 0.35]);
        assert_eq!(section.not_evaluated.len(), 1);
    }
}
