//! `[privacy]`: training that promises how little it says about each example.

use serde::{Deserialize, Serialize};

/// Differentially private training: clipped gradients of Poisson-drawn examples, and noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrivacySpec {
    #[serde(rename = "type")]
    pub mechanism: PrivacyMechanism,
    pub noise: NoiseSpec,
    pub target_delta: f64,
    /// The most that one example's gradient may weigh, as its norm.
    pub max_grad_norm: f64,
    pub accountant: AccountantSpec,
    pub unit: PrivacyUnit,
    /// The probability with which a step draws an example. None: `batch_size · accumulate` over the number of
    /// training rows, which is then told.
    pub sampling_rate: Option<f64>,
    /// What the owner of the data declares to be no secret.
    pub public: Vec<PublicStatistic>,
    /// Noise from this seed, for tests: whoever knows it can take the noise away again.
    pub insecure_seed: Option<u64>,
    /// Made-up rows that show afterwards what the training gives away; None: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditSpec>,
}

/// An audit of the one run itself (Steinke, Nasr & Jagielski 2023).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditSpec {
    /// Rows of nobody, each trained on with probability 1/2.
    pub canaries: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrivacyMechanism {
    /// Abadi et al. 2016, with whatever optimiser `[train]` names.
    DpSgd,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseSpec {
    /// As much as this ε needs.
    TargetEpsilon(f64),
    /// This multiplier of `max_grad_norm`.
    Sigma(f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountantSpec {
    Rdp,
    Pld,
}

/// What is protected: one of these more or less changes hardly anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrivacyUnit {
    /// A row; of one long text, a window.
    Example,
}

/// Something that preparation or measuring takes from the data and that the noise does not protect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublicStatistic {
    /// How many training rows there are, and the hash of their file.
    Rows,
    /// Which columns there are and which of them are numbers.
    Columns,
    /// Which values a column of categories has.
    Categories,
    /// The names of the classes.
    Labels,
    /// Means and deviations of columns, pixels, channels and targets.
    Scales,
    /// The tokenizer that was learnt from the texts.
    Vocabulary,
    /// The longest row, and the shape of pictures.
    Lengths,
    /// The rows of `valid` and `test`: metrics and probes are of them.
    Evaluation,
}

/// Names of the statistics as the spec writes them.
pub const PUBLIC_STATISTICS: &[(&str, PublicStatistic)] = &[
    ("rows", PublicStatistic::Rows),
    ("columns", PublicStatistic::Columns),
    ("categories", PublicStatistic::Categories),
    ("labels", PublicStatistic::Labels),
    ("scales", PublicStatistic::Scales),
    ("vocabulary", PublicStatistic::Vocabulary),
    ("lengths", PublicStatistic::Lengths),
    ("evaluation", PublicStatistic::Evaluation),
];

impl PublicStatistic {
    /// The name as the spec writes it.
    pub fn as_str(self) -> &'static str {
        let found = PUBLIC_STATISTICS.iter().find(|(_, statistic)| *statistic == self);
        found.map(|(name, _)| *name).expect("every statistic has a name: bug")
    }
}

impl PrivacySpec {
    pub fn is_public(&self, statistic: PublicStatistic) -> bool {
        self.public.contains(&statistic)
    }
}
