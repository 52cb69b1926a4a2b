//! What an adapter's description (`adapter_config.json` of PEFT) means: the modules that it adds to, and the rank
//! and scale of each. What is not understood is refused by name, unless it is absent, empty or off.

use super::Module;
use crate::causal_lm::Config;
use crate::causal_lm::families::DescribeError;
use fancy_regex::Regex;
use serde_json::{Map, Value, json};

/// A bound on ranks, far above any that is of use.
const RANK_MAX: usize = 4096;

/// Which linear layers an adapter adds to.
#[derive(Clone, Debug, PartialEq)]
pub enum Modules {
    /// `"all-linear"`: every one in the layers, not the head.
    AllLinear,
    /// Those whose name is one of these, or ends with a dot and one of them.
    Named(Vec<String>),
    /// Those whose whole name this expression matches.
    Matching(String),
}

/// An adapter's description.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    pub r: usize,
    pub lora_alpha: f64,
    /// The scale is α/√r instead of α/r (Kalajdzievski 2023, arXiv:2312.03732).
    pub use_rslora: bool,
    pub target_modules: Modules,
    pub exclude_modules: Option<Modules>,
    /// None: all layers.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Other ranks for modules whose name ends in what an expression matches.
    pub rank_pattern: Vec<(String, usize)>,
    pub alpha_pattern: Vec<(String, f64)>,
    /// Used while it is learnt.
    pub lora_dropout: f64,
    /// What the description says of its base: told, not relied on.
    pub base_model_name_or_path: Option<String>,
}

/// A module of one layer that an adapter adds to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Chosen {
    pub layer: usize,
    pub module: Module,
    pub r: usize,
    pub scale: f32,
}

fn bad(key: &str, problem: impl Into<String>) -> DescribeError {
    DescribeError::Key { key: key.into(), problem: problem.into() }
}

fn unsupported(what: impl Into<String>) -> DescribeError {
    DescribeError::Unsupported(format!("an adapter with {}", what.into()))
}

/// Keys that say how an adapter came to be, or how PEFT handles it, and change no number of its answers.
const SILENT: [&str; 10] = [
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_version",
    "megatron_core",
    "qalora_group_size",
    "loftq_config",
    "eva_config",
    "lora_dropout",
];
/// Keys that [`AdapterConfig::from_peft`] reads.
const READ: [&str; 15] = [
    "peft_type",
    "task_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "bias",
    "init_lora_weights",
    "fan_in_fan_out",
    "modules_to_save",
];

impl AdapterConfig {
    /// An adapter of rank `r` on every linear layer.
    pub fn new(r: usize, lora_alpha: f64) -> Self {
        AdapterConfig {
            r,
            lora_alpha,
            use_rslora: false,
            target_modules: Modules::AllLinear,
            exclude_modules: None,
            layers_to_transform: None,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            lora_dropout: 0.0,
            base_model_name_or_path: None,
        }
    }

    /// PEFT's `adapter_config.json`.
    ///
    /// # Errors
    /// What is wrong, missing or not supported, by name.
    pub fn from_peft(description: &Value) -> Result<Self, DescribeError> {
        let keys = description.as_object().ok_or_else(|| bad("adapter_config.json", "is no object"))?;
        let find = |key: &str| keys.get(key).filter(|value| !value.is_null());
        match find("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            other => return Err(unsupported(format!("peft_type {other:?}; \"LORA\" is"))),
        }
        if let Some(task) = find("task_type").filter(|task| task.as_str() != Some("CAUSAL_LM")) {
            return Err(unsupported(format!("task_type {task}; \"CAUSAL_LM\" is")));
        }
        refuse_the_rest(keys)?;
        let count = |key: &str, value: &Value| {
            let n = value.as_u64().and_then(|n| usize::try_from(n).ok());
            n.ok_or_else(|| bad(key, format!("is {value}, a whole number is needed")))
        };
        let number = |key: &str, value: &Value| {
            value.as_f64().ok_or_else(|| bad(key, format!("is {value}, a number is needed")))
        };
        let needed = |key: &str| find(key).ok_or_else(|| bad(key, "is missing"));
        let layers = match find("layers_to_transform") {
            None => None,
            Some(Value::Array(all)) if all.is_empty() => None,
            Some(Value::Array(all)) => {
                Some(all.iter().map(|n| count("layers_to_transform", n)).collect::<Result<_, _>>()?)
            }
            Some(one) => Some(vec![count("layers_to_transform", one)?]),
        };
        let pattern = |key: &str| match find(key) {
            None => Ok(None),
            Some(Value::Object(all)) => Ok(Some(all)),
            Some(other) => Err(bad(key, format!("is {other}, an object is needed"))),
        };
        let (ranks, alphas) = (pattern("rank_pattern")?, pattern("alpha_pattern")?);
        let config = AdapterConfig {
            r: count("r", needed("r")?)?,
            lora_alpha: number("lora_alpha", needed("lora_alpha")?)?,
            use_rslora: find("use_rslora").and_then(Value::as_bool).unwrap_or(false),
            target_modules: modules("target_modules", needed("target_modules")?)?,
            exclude_modules: find("exclude_modules")
                .map(|value| modules("exclude_modules", value))
                .transpose()?
                .filter(|modules| *modules != Modules::Named(Vec::new())),
            layers_to_transform: layers,
            rank_pattern: ranks
                .into_iter()
                .flatten()
                .map(|(name, r)| Ok((name.clone(), count("rank_pattern", r)?)))
                .collect::<Result<_, DescribeError>>()?,
            alpha_pattern: alphas
                .into_iter()
                .flatten()
                .map(|(name, alpha)| Ok((name.clone(), number("alpha_pattern", alpha)?)))
                .collect::<Result<_, DescribeError>>()?,
            lora_dropout: find("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0),
            base_model_name_or_path: find("base_model_name_or_path").and_then(Value::as_str).map(Into::into),
        };
        Ok(config)
    }

    /// PEFT's `adapter_config.json`.
    pub fn to_peft(&self) -> Value {
        let modules = |modules: &Modules| match modules {
            Modules::AllLinear => {
                // PEFT itself writes the names that its word stood for.
                let names = Module::ALL.map(|module| module.name().rsplit_once('.').map_or("", |(_, n)| n));
                json!(names)
            }
            Modules::Named(names) => json!(names),
            Modules::Matching(pattern) => json!(pattern),
        };
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base_model_name_or_path,
            "inference_mode": true,
            "r": self.r,
            "lora_alpha": self.lora_alpha,
            "use_rslora": self.use_rslora,
            "use_dora": false,
            "lora_dropout": self.lora_dropout,
            "fan_in_fan_out": false,
            "bias": "none",
            "init_lora_weights": true,
            "target_modules": modules(&self.target_modules),
            "exclude_modules": self.exclude_modules.as_ref().map(modules),
            "layers_to_transform": self.layers_to_transform,
            "layers_pattern": null,
            "rank_pattern": self.rank_pattern.iter().map(|(k, v)| (k.clone(), json!(v))).collect::<Map<_, _>>(),
            "alpha_pattern": self.alpha_pattern.iter().map(|(k, v)| (k.clone(), json!(v))).collect::<Map<_, _>>(),
            "modules_to_save": null,
        })
    }

    /// The modules of a base that the adapter adds to, layer by layer.
    ///
    /// # Errors
    /// Expressions that are none, ranks and scales that are no use, names that the base has no module of.
    pub(crate) fn choose(&self, base: &Config) -> Result<Vec<Chosen>, DescribeError> {
        let targets = Choice::of("target_modules", &self.target_modules)?;
        let excluded = self.exclude_modules.as_ref().map(|m| Choice::of("exclude_modules", m)).transpose()?;
        let ranks = patterns("rank_pattern", &self.rank_pattern)?;
        let alphas = patterns("alpha_pattern", &self.alpha_pattern)?;
        // PEFT asks layers only of modules that are named.
        let layers = self.layers_to_transform.as_ref().filter(|_| matches!(targets, Choice::Names(_)));
        if let Some(layer) = layers.and_then(|all| all.iter().find(|&&i| i >= base.layers.len())) {
            let problem = format!("names layer {layer} of {}", base.layers.len());
            return Err(bad("layers_to_transform", problem));
        }
        let mut chosen = Vec::new();
        for layer in 0..base.layers.len() {
            for module in Module::ALL {
                let name = format!("model.layers.{layer}.{}", module.name());
                let wanted = targets.holds(&name)?
                    && layers.is_none_or(|all| all.contains(&layer))
                    && !excluded.as_ref().map_or(Ok(false), |choice| choice.holds(&name))?;
                if !wanted {
                    continue;
                }
                let r = the_first(&ranks, &name)?.unwrap_or(self.r);
                let alpha = the_first(&alphas, &name)?.unwrap_or(self.lora_alpha);
                if !(1..=RANK_MAX).contains(&r) {
                    return Err(bad("r", format!("is {r} for {name}; 1 to {RANK_MAX} is needed")));
                }
                let scale = alpha / if self.use_rslora { (r as f64).sqrt() } else { r as f64 };
                if !scale.is_finite() {
                    return Err(bad("lora_alpha", format!("is {alpha} for {name}")));
                }
                chosen.push(Chosen { layer, module, r, scale: scale as f32 });
            }
        }
        if let Modules::Named(names) = &self.target_modules
            && let Some(name) = names.iter().find(|name| !knows(name))
        {
            return Err(unsupported(format!("the target module \"{name}\"; {} are", known())));
        }
        if chosen.is_empty() {
            return Err(bad(
                "target_modules",
                format!("means no module of this base; {} are there", known()),
            ));
        }
        Ok(chosen)
    }
}

/// Whether a name can mean one of the modules that there are.
fn knows(name: &str) -> bool {
    let ends = |module: Module| {
        let whole = module.name();
        whole == name || whole.ends_with(&format!(".{name}")) || name.ends_with(&format!(".{whole}"))
    };
    Module::ALL.into_iter().any(ends)
}

fn known() -> String {
    Module::ALL.map(|module| module.name().rsplit_once('.').map_or("", |(_, name)| name)).join(", ")
}

fn modules(key: &str, value: &Value) -> Result<Modules, DescribeError> {
    match value {
        Value::String(all) if all.eq_ignore_ascii_case("all-linear") => Ok(Modules::AllLinear),
        Value::String(pattern) => Ok(Modules::Matching(pattern.clone())),
        Value::Array(names) => {
            let name =
                |n: &Value| n.as_str().map(str::to_owned).ok_or_else(|| bad(key, format!("holds {n}")));
            names.iter().map(name).collect::<Result<_, _>>().map(Modules::Named)
        }
        other => Err(bad(key, format!("is {other}, a list of names or an expression is needed"))),
    }
}

/// Refuses what would change an answer and is not computed here.
fn refuse_the_rest(keys: &Map<String, Value>) -> Result<(), DescribeError> {
    let of = |key: &str| keys.get(key).unwrap_or(&Value::Null);
    if !off(of("bias")) && of("bias") != "none" {
        return Err(unsupported(format!("bias {}; \"none\" is", of("bias"))));
    }
    match of("init_lora_weights") {
        Value::Null | Value::Bool(_) => {}
        // The others start from parts that they take out of the base.
        Value::String(how) if ["gaussian", "eva", "orthogonal"].contains(&how.as_str()) => {}
        other => {
            let why = "it changes the base: convert it to plain LoRA when it is saved";
            return Err(unsupported(format!("init_lora_weights {other} ({why})")));
        }
    }
    match of("layers_pattern") {
        value if off(value) || value == "layers" => {}
        Value::Array(all) if all.iter().any(|p| p == "layers") => {}
        other => return Err(unsupported(format!("layers_pattern {other}; \"layers\" is"))),
    }
    for key in ["fan_in_fan_out", "modules_to_save"] {
        if !off(of(key)) {
            return Err(unsupported(format!("{key} {}", of(key))));
        }
    }
    for (key, value) in keys {
        if !READ.contains(&key.as_str()) && !SILENT.contains(&key.as_str()) && !off(value) {
            return Err(unsupported(format!("{key} {value}")));
        }
    }
    Ok(())
}

/// Absent, empty or off.
fn off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// Modules, ready to be asked.
enum Choice<'a> {
    All,
    Names(&'a [String]),
    Matching(Regex),
}

impl<'a> Choice<'a> {
    fn of(key: &str, modules: &'a Modules) -> Result<Choice<'a>, DescribeError> {
        Ok(match modules {
            Modules::AllLinear => Choice::All,
            Modules::Named(names) => Choice::Names(names),
            Modules::Matching(pattern) => Choice::Matching(expression(key, &format!("^(?:{pattern})$"))?),
        })
    }

    fn holds(&self, name: &str) -> Result<bool, DescribeError> {
        match self {
            Choice::All => Ok(true),
            Choice::Names(names) => Ok(names.iter().any(|n| n == name || name.ends_with(&format!(".{n}")))),
            Choice::Matching(pattern) => matches(pattern, name),
        }
    }
}

fn expression(key: &str, pattern: &str) -> Result<Regex, DescribeError> {
    Regex::new(pattern).map_err(|error| bad(key, format!("holds no expression: {error}")))
}

fn matches(pattern: &Regex, name: &str) -> Result<bool, DescribeError> {
    pattern.is_match(name).map_err(|error| bad("expression", format!("took too long: {error}")))
}

/// PEFT's patterns: what a module's name ends in.
fn patterns<T: Copy>(key: &str, all: &[(String, T)]) -> Result<Vec<(Regex, T)>, DescribeError> {
    all.iter().map(|(p, value)| Ok((expression(key, &format!("^(?:.*\\.)?(?:{p})$"))?, *value))).collect()
}

/// The first pattern's value that means this module.
fn the_first<T: Copy>(all: &[(Regex, T)], name: &str) -> Result<Option<T>, DescribeError> {
    for (pattern, value) in all {
        if matches(pattern, name)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}
