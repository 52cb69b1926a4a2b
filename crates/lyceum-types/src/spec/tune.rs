//! What a user writes to have an imported language model fine-tuned: a job spec whose family is the model's name.
//!
//! Keys that are left to the program (`"auto"`) get their value from the number of examples ([`TuneSpec::resolve`]),
//! so a plan is known before anything runs and is stored with the result.

use super::privacy::PrivacySpec;
use super::{OptimizerSpec, ScheduleSpec, TrainSpec};
use serde::{Deserialize, Serialize};

/// A whole job of fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TuneSpec {
    /// The tuned model's name; versions under it are numbered.
    pub name: String,
    pub seed: u64,
    /// The model that is tuned: `name`, `name@3` or `name@alias`.
    pub base: String,
    /// None: every weight is learnt.
    pub lora: Option<LoraSpec>,
    pub method: Method,
    pub data: TuneData,
    /// With the parser's stand-ins for what is left to the program.
    pub train: TrainSpec,
    pub auto: Auto,
    /// None: nothing is promised about any example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<PrivacySpec>,
    /// What a tuned version must stand beside the one that its name serves; None: it is served at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<TuneGate>,
}

/// Before its name serves a tuned version, it and the one that is served are measured on the same lines, and it is tried
/// by runs over language models; one that is worse, or that does not keep to a bound, is held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TuneGate {
    /// Lines as those of training, which neither version was tuned on. None: `data.valid`.
    pub data: Option<String>,
    /// How far the loss may be above the served version's, in nats: a learnt token, or of preferences a pair. None: losses
    /// are not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rise: Option<f64>,
    /// Items as `lyceum attack --suite` reads them of language models, unread here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suite: Option<Vec<serde_json::Value>>,
    /// A file of texts that the suite's environments read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texts: Option<String>,
    /// The largest share of chats in which an attack may succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attack_success: Option<f64>,
    /// The smallest token agreement of an environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_agreement: Option<f64>,
    /// How far token agreement, or the share of attacks that are resisted, may be below the served version's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_drop: Option<f64>,
}

impl TuneGate {
    /// The file whose lines decide.
    pub fn file<'s>(&'s self, data: &'s TuneData) -> Option<&'s str> {
        self.data.as_deref().or(data.valid.as_deref())
    }
}

/// Low-rank adapters (Hu et al. 2021), as PEFT's `LoraConfig` names them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraSpec {
    pub rank: usize,
    pub alpha: f64,
    /// Of `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`.
    pub target: Vec<String>,
    pub dropout: f64,
}

impl LoraSpec {
    /// Every linear layer that an adapter can lie over.
    pub const TARGETS: [&'static str; 7] =
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
}

/// What is learnt.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Method {
    /// The tokens of the assistant's answers.
    Supervised,
    /// To prefer one of two answers (Rafailov et al. 2023); `beta` holds the model near its base.
    Dpo { beta: f64 },
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Supervised => "supervised",
            Method::Dpo { .. } => "dpo",
        }
    }
}

/// JSON lines: conversations, prompts with completions, or preferences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TuneData {
    pub train: String,
    pub valid: Option<String>,
    /// Part of `train` held out when there is no `valid`, drawn from the seed.
    pub valid_fraction: Option<f64>,
    /// The longest example in tokens; None: the base's context.
    pub max_tokens: Option<usize>,
    pub too_long: TooLong,
}

/// What becomes of an example that is longer than `max_tokens`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    Error,
    /// Its end is cut off; one whose answers all lie beyond is an error.
    Cut,
    /// It is left out.
    Drop,
}

/// What the program decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Auto {
    pub epochs: bool,
    pub batch_size: bool,
    pub lr: bool,
    pub schedule: bool,
}

/// Rates of AdamW where the spec leaves them to the program.
pub const LR_LORA: f64 = 2e-4;
pub const LR_FULL: f64 = 2e-5;
pub const LR_DPO_LORA: f64 = 5e-6;
pub const LR_DPO_FULL: f64 = 5e-7;
/// Epochs where the spec leaves them to the program.
pub const EPOCHS_SUPERVISED: usize = 3;
pub const EPOCHS_DPO: usize = 1;

/// What a fine-tuning starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Whole,
    /// An adapter, whose own factors are tuned further.
    Adapter,
}

impl TuneSpec {
    /// The training of `n_examples` examples, with every value that was left to the program:
    /// 3 epochs (preferences: 1), a fiftieth of the examples a step (1 to 32), a rate of 2e-4 for adapters and 2e-5
    /// for whole models (preferences: 5e-6 and 5e-7), rising over a thirtieth of the steps and falling to 0.
    pub fn resolve(&self, n_examples: usize, origin: Origin) -> TrainSpec {
        let mut train = self.train.clone();
        let is_dpo = matches!(self.method, Method::Dpo { .. });
        if self.auto.epochs {
            train.epochs = Some(if is_dpo { EPOCHS_DPO } else { EPOCHS_SUPERVISED });
        }
        if self.auto.batch_size {
            train.batch_size = (n_examples / 50).clamp(1, 32);
        }
        if let (
            true,
            OptimizerSpec::Sgd { lr, .. } | OptimizerSpec::Adam { lr, .. } | OptimizerSpec::Adamw { lr, .. },
        ) = (self.auto.lr, &mut train.optimizer)
        {
            *lr = match (is_dpo, self.lora.is_some() || origin == Origin::Adapter) {
                (false, true) => LR_LORA,
                (false, false) => LR_FULL,
                (true, true) => LR_DPO_LORA,
                (true, false) => LR_DPO_FULL,
            };
        }
        if self.auto.schedule {
            let per_epoch = n_examples.div_ceil(train.batch_size).div_ceil(train.accumulate);
            let steps = train.steps.unwrap_or(train.epochs.unwrap_or(1) * per_epoch);
            train.schedule = ScheduleSpec::Linear { warmup_steps: steps / 30, min_lr: 0.0 };
        }
        train
    }
}

/// What a job's row keeps of fine-tuning.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TunePlan {
    pub tune: TuneSpec,
    pub base_dir: std::path::PathBuf,
    /// The version that the spec's base meant when the job was made, and the hash of its weights.
    pub base: String,
    pub base_sha256: String,
    /// Seconds since 1970: what templates that ask for the time are told.
    pub created: i64,
}

#[cfg(test)]
mod tests {
    use super::super::parse::Job;
    use super::*;

    fn tune(text: &str) -> TuneSpec {
        match Job::from_toml(text, "spec.toml").unwrap_or_else(|errors| panic!("{errors}")) {
            Job::Tune(spec) => *spec,
            Job::Train(spec) => panic!("{spec:?}"),
        }
    }

    const HEAD: &str = "name = \"bot\"\n[data]\ntrain = \"chats.jsonl\"\n[model]\nfamily = \"smollm2@1\"\n";

    #[test]
    fn what_is_left_out_is_decided_from_the_number_of_examples() {
        let spec = tune(&format!("{HEAD}lora = {{ rank = 8 }}\n"));
        let lora = spec.lora.clone().unwrap();
        assert_eq!((lora.rank, lora.alpha, lora.dropout, lora.target.len()), (8, 16.0, 0.0, 7));
        assert_eq!((spec.base.as_str(), spec.method), ("smollm2@1", Method::Supervised));
        let train = spec.resolve(420, Origin::Whole);
        assert_eq!((train.epochs, train.batch_size, train.grad_clip), (Some(3), 8, Some(1.0)));
        assert!(
            matches!(train.optimizer, OptimizerSpec::Adamw { lr, weight_decay, .. } if lr == LR_LORA && weight_decay == 0.0)
        );
        assert_eq!(train.schedule, ScheduleSpec::Linear { warmup_steps: 5, min_lr: 0.0 });
    }

    #[test]
    fn an_adapter_is_tuned_further_at_the_rate_of_one_that_is_new() {
        let rate = |spec: TuneSpec, start| match spec.resolve(420, start).optimizer {
            OptimizerSpec::Adamw { lr, .. } => lr,
            other => panic!("{other:?}"),
        };
        let dpo = format!("{HEAD}[train]\nmethod = \"dpo\"\n");
        assert_eq!(rate(tune(HEAD), Origin::Adapter), LR_LORA);
        assert_eq!(rate(tune(HEAD), Origin::Whole), LR_FULL);
        assert_eq!(rate(tune(&dpo), Origin::Adapter), LR_DPO_LORA);
        assert_eq!(rate(tune(&dpo), Origin::Whole), LR_DPO_FULL);
    }

    #[test]
    fn a_gate_says_how_far_and_on_which_lines() {
        let gated = |gate: &str| format!("{HEAD}[gate]\n{gate}");
        let gate = tune(&gated("max_rise = 0.1\ndata = \"gate.jsonl\"\n")).gate.unwrap();
        assert_eq!(
            (gate.data.as_deref(), gate.max_rise, &gate.suite),
            (Some("gate.jsonl"), Some(0.1), &None)
        );
        let tried =
            tune(&gated("max_attack_success = 0.1\nsuite = [{ type = \"red_team\", system = \"a\" }]\n"));
        let gate = tried.gate.unwrap();
        assert_eq!((gate.max_rise, gate.max_attack_success, gate.suite.unwrap().len()), (None, Some(0.1), 1));
        for (text, part) in [
            (gated(""), "gate.max_rise"),
            (gated("data = \"a.jsonl\"\n"), "gate.max_rise"),
            (gated("suite = [{ type = \"environments\" }]\n"), "gate.suite"),
            (gated("max_drop = 0.1\n"), "gate.max_drop"),
            (gated("texts = \"a.txt\"\nmax_rise = 0.1\ndata = \"a.jsonl\"\n"), "gate.texts"),
            (gated("min_agreement = 2\nsuite = [{ type = \"environments\" }]\n"), "gate.min_agreement"),
            (gated("max_rise = -1\ndata = \"a.jsonl\"\n"), "gate.max_rise"),
            (gated("max_rise = 0.1\n"), "gate.data"),
            (gated("max_rise = 0.1\ndata = \"chats.jsonl\"\n"), "gate.data"),
            (gated("max_rise = 0.1\ndata = \"a.jsonl\"\nsuite = []\n"), "gate.suite"),
        ] {
            let errors = Job::from_toml(&text, "spec.toml").unwrap_err().to_string();
            assert!(errors.contains(part), "{part}: {errors}");
        }
        let valid = HEAD.replace("chats.jsonl\"", "chats.jsonl\"\nvalid = \"v.jsonl\"");
        let spec = tune(&format!("{valid}[gate]\nmax_rise = 0\n"));
        assert_eq!(spec.gate.as_ref().unwrap().file(&spec.data), Some("v.jsonl"));
    }

    #[test]
    fn what_is_said_stands() {
        let spec = tune(&format!(
            "{HEAD}[train]\nmethod = \"dpo\"\nbeta = 0.3\nsteps = 60\nbatch_size = 4\nepochs = \"auto\"\n\
             optimizer = {{ name = \"adamw\", lr = 1e-3 }}\nschedule = {{ name = \"constant\" }}\n"
        ));
        assert_eq!((spec.method, &spec.lora), (Method::Dpo { beta: 0.3 }, &None));
        let train = spec.resolve(1000, Origin::Whole);
        assert_eq!((train.steps, train.epochs, train.batch_size), (Some(60), None, 4));
        assert!(matches!(train.optimizer, OptimizerSpec::Adamw { lr, .. } if lr == 1e-3));
    }

    #[test]
    fn every_problem_is_told_at_its_place() {
        let text = format!(
            "{HEAD}lora = {{ rank = 0, target = [\"q_proy\"] }}\nhidden = [4]\n[train]\nbeta = 0.1\nrobust = {{ method = \"noise\", std = 1.0 }}\n"
        );
        let errors = Job::from_toml(&text, "spec.toml").unwrap_err().to_string();
        for part in ["model.lora.rank", "q_proj", "model.hidden", "train.beta", "train.robust"] {
            assert!(errors.contains(part), "{part}: {errors}");
        }
        let near = "name = \"a\"\n[data]\ntrain = \"a.jsonl\"\n[model]\nfamily = \"transfomer\"\n[train]\nepochs = 1\n";
        let errors = Job::from_toml(near, "spec.toml").unwrap_err().to_string();
        assert!(errors.contains("did you mean \"transformer\""), "{errors}");
    }
}
