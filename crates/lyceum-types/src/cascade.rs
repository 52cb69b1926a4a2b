//! A cascade as it is stored: which versions answer one question, when the first of them does, and what was measured of
//! it. It has no weights of its own, so its identity is the hash of its definition (`cascade.json`), which names its members
//! by the hashes of theirs.

use crate::manifest::{DataFile, Metric};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The file of a version's folder that holds the [`Cascade`].
pub const DEFINITION: &str = "cascade.json";
/// The family and the task of such versions.
pub const FAMILY: &str = "cascade";

/// `manifest.json` of a cascade.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CascadeManifest {
    pub format_version: u32,
    /// Tells it from the manifests of other versions.
    pub kind: CascadeKind,
    pub name: String,
    pub version: u32,
    /// Seconds since 1970.
    pub created: u64,
    /// sha256 of `cascade.json`, which is the version's.
    pub definition_sha256: String,
    /// Files of the folder, with sha256.
    pub files: BTreeMap<String, String>,
    /// What its held-out rows showed.
    pub report: CascadeReport,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CascadeKind {
    Cascade,
}

/// `cascade.json`: everything that decides an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cascade {
    pub small: Member,
    pub large: Member,
    pub question: CascadeQuestion,
    /// When the small member answers.
    pub small_set: Threshold,
    /// What stands behind an escalated answer; None: nothing, it is the large member's likeliest label.
    pub large_set: Option<Threshold>,
    pub escalated: Escalated,
    pub calibration: CascadeRows,
}

/// A version by what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `name@3`
    pub model: String,
    pub family: String,
    /// Of its weights.
    pub sha256: String,
    /// Of its manifest: how the weights are read.
    pub manifest_sha256: String,
    /// Of the weights that an adapter adds to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_sha256: Option<String>,
}

/// The one question that was calibrated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CascadeQuestion {
    pub instructions: String,
    /// As both members are asked for them, in this order.
    pub labels: Vec<String>,
    pub descriptions: Vec<Option<String>>,
}

/// Of a member's conformal sets: a label is in the set where `1 − p ≤ threshold`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    pub alpha: f64,
    /// `lac`
    pub score: String,
    /// Calibration rows.
    pub n: u64,
    /// `⌈(n + 1)(1 − alpha)⌉`
    pub rank: u64,
    pub threshold: f64,
}

/// What becomes of a question that the small member does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Escalated {
    /// The large member's likeliest label.
    #[default]
    Answer,
    /// That, and the large member's prediction set.
    Set,
    /// That where the large member's set has one label, else an abstention.
    Abstain,
}

impl Escalated {
    pub const ALL: [Escalated; 3] = [Escalated::Answer, Escalated::Set, Escalated::Abstain];

    pub fn as_str(self) -> &'static str {
        match self {
            Escalated::Answer => "answer",
            Escalated::Set => "set",
            Escalated::Abstain => "abstain",
        }
    }
}

/// Where the calibration rows came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CascadeRows {
    pub file: DataFile,
    /// Rows that gave the thresholds; the others of the file, or another file, were held out.
    pub n: u64,
    /// Of the split.
    pub seed: u64,
    /// What was checked of their being no training rows, and what could not be.
    pub disjoint: String,
}

/// What the held-out rows showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CascadeReport {
    pub held_out: DataFile,
    pub n: u64,
    /// Shares of the held-out rows with Clopper and Pearson's interval.
    pub shares: BTreeMap<String, Metric>,
    /// The miscoverage of these very calibration rows is below this with probability 0.95 over them.
    pub miscoverage_bound95: f64,
    /// What one answer costs on the mean, and its spread, as asked one after another where it was made.
    pub cost: BTreeMap<String, MemberCost>,
    /// What is guaranteed, and what is not, in words.
    pub statement: String,
    /// Seconds since 1970.
    pub measured_at: u64,
}

/// Of one answer, on the mean over the held-out rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemberCost {
    pub seconds: f64,
    pub input_tokens: f64,
    /// Millionths of a dollar by the price list of the day; None: it has no price for this model.
    pub micro_usd: Option<f64>,
}
