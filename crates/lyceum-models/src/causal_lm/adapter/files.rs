//! Adapters in files: PEFT's layout (`adapter_config.json`, `adapter_model.safetensors`) and llama.cpp's (GGUF).

use super::{Adapter, AdapterConfig, Factors, Module, Modules};
use crate::causal_lm::Config;
use crate::causal_lm::families::{DescribeError, FAMILIES, Family};
use crate::from_checkpoint::{LoadError, Naming, Reader};
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_nn::gguf::{Header, Value as Meta};
use lyceum_nn::{NnError, weights};
use lyceum_types::control::Control;
use serde_json::Value;

/// PEFT's two files.
pub struct Files {
    /// `adapter_config.json`.
    pub description: Value,
    /// `adapter_model.safetensors`, f32.
    pub weights: Vec<u8>,
}

impl Adapter {
    /// An adapter of a base of these sizes in PEFT's layout.
    ///
    /// # Errors
    /// What the description asks for and is not supported, and tensors that are missing, foreign or of another shape.
    pub fn from_peft(
        checkpoint: Checkpoint,
        description: &Value,
        base: &Config,
        control: &Control,
    ) -> Result<Adapter, LoadError> {
        let config = AdapterConfig::from_peft(description)?;
        read(checkpoint, &Peft, config, base, control)
    }

    /// The same as llama.cpp's converter writes it.
    ///
    /// # Errors
    /// As [`from_peft`](Self::from_peft).
    pub fn from_gguf(
        checkpoint: Checkpoint,
        header: &Header,
        base: &Config,
        control: &Control,
    ) -> Result<Adapter, LoadError> {
        let text = |key: &str| header.value(key).and_then(Meta::as_str);
        let unsupported = |what: String| LoadError::Describe(DescribeError::Unsupported(what));
        if (text("general.type"), text("adapter.type")) != (Some("adapter"), Some("lora")) {
            return Err(unsupported("a GGUF file that is no adapter of type lora".into()));
        }
        if header.value("adapter.alora.invocation_tokens").is_some() {
            return Err(unsupported("an adapter that is invoked by tokens (aLoRA)".into()));
        }
        let family = FAMILIES.iter().find(|family| family.model_type == base.model_type);
        let family = family.expect("a described model has a family: bug");
        let (found, own) = (text("general.architecture").unwrap_or_default(), family.gguf);
        // Mistral's files call themselves llama.
        if found != own && (found, own) != ("llama", "mistral") {
            return Err(unsupported(format!("an adapter for \"{found}\" over a base of \"{own}\"")));
        }
        let names = GgufNames { family, config: base };
        let alpha = header.value("adapter.lora.alpha").and_then(Meta::as_f64).unwrap_or(0.0);
        let config = described(&checkpoint, &names, alpha)?;
        read(checkpoint, &names, config, base, control)
    }

    /// PEFT's layout.
    pub fn to_peft(&self) -> Result<Files, NnError> {
        Ok(Files { description: self.config.to_peft(), weights: weights::to_safetensors(&self.params)? })
    }
}

fn read(
    checkpoint: Checkpoint,
    naming: &dyn Naming,
    config: AdapterConfig,
    base: &Config,
    control: &Control,
) -> Result<Adapter, LoadError> {
    let mut reader = Reader::new(checkpoint, naming, None, control);
    let factors = Factors::build(&config, base, &mut reader)?;
    let Reader { checkpoint, params, .. } = reader;
    if let Some(name) = checkpoint.names().next() {
        let problem = match () {
            () if name.contains("lora_magnitude_vector") => "is a magnitude of DoRA, which is not supported",
            () if name.contains("lora_embedding") || name.contains("embed_tokens") => {
                "adds to the table of embeddings, which is not supported"
            }
            () if name.contains("lm_head") => "adds to the head, which is not supported",
            () => "belongs to no module that the description means",
        };
        return Err(LoadError::Tensor { name: name.into(), problem: problem.into() });
    }
    Ok(Adapter::new(params, config, factors, base))
}

/// Parameters have the tensors' names.
struct Peft;

impl Naming for Peft {
    fn tensor(&self, name: &str) -> String {
        name.into()
    }
}

struct GgufNames<'a> {
    family: &'static Family,
    config: &'a Config,
}

impl Naming for GgufNames<'_> {
    fn tensor(&self, name: &str) -> String {
        let inner = name.strip_prefix("base_model.model.").unwrap_or(name);
        let (module, factor) = match inner.strip_suffix(".lora_A.weight") {
            Some(module) => (module, "a"),
            None => (inner.trim_end_matches(".lora_B.weight"), "b"),
        };
        let weight = Family::gguf_name(&format!("{module}.weight"), self.config.post_norms);
        format!("{}.lora_{factor}", weight.expect("every module has a name in GGUF: bug"))
    }

    /// Rows of B are those of the layer.
    fn neighbours(&self, name: &str) -> Option<usize> {
        let heads = match () {
            () if !name.ends_with(".lora_B.weight") => None,
            () if name.contains("self_attn.q_proj.") => Some(self.config.num_attention_heads),
            () if name.contains("self_attn.k_proj.") => Some(self.config.num_key_value_heads),
            () => None,
        };
        heads.filter(|_| self.family.gguf_pairs_are_neighbours)
    }
}

/// A description of the modules that a GGUF file has factors of. Its scale is α/r, or 1 where α is 0.
fn described(checkpoint: &Checkpoint, names: &GgufNames<'_>, alpha: f64) -> Result<AdapterConfig, LoadError> {
    let (mut modules, mut ranks) = (Vec::new(), Vec::new());
    for layer in 0..names.config.layers.len() {
        for module in Module::ALL {
            let [a, _] = super::names(layer, module);
            let Some(tensor) = checkpoint.find(&names.tensor(&a)) else { continue };
            let name = format!("model.layers.{layer}.{}", module.name());
            ranks.push((name.replace('.', "\\."), tensor.dims.first().copied().unwrap_or(0)));
            modules.push(name);
        }
    }
    let Some(&(_, r)) = ranks.first() else {
        let name = checkpoint.names().next().unwrap_or_default().into();
        return Err(LoadError::Tensor {
            name,
            problem: "belongs to no layer that adapters can add to".into(),
        });
    };
    let alphas = match alpha == 0.0 {
        true => ranks.iter().map(|(name, r)| (name.clone(), *r as f64)).collect(),
        false => Vec::new(),
    };
    ranks.retain(|&(_, other)| other != r);
    Ok(AdapterConfig {
        target_modules: Modules::Named(modules),
        rank_pattern: ranks,
        alpha_pattern: alphas,
        ..AdapterConfig::new(r, alpha)
    })
}
