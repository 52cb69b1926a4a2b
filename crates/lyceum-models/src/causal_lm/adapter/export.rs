//! The base with an adapter in its matrices, as files of other programs: GGUF (metadata, tokenizer and template are
//! the base file's own), or safetensors under Hugging Face's names.

use super::{Adapter, Module};
use crate::causal_lm::Config;
use crate::causal_lm::families::{FAMILIES, Family};
use crate::from_checkpoint::LoadError;
use crate::model::{Model, wrong_input};
use lyceum_kernels::matmul::{Epilogue, Mat, Precision, Write, matmul};
use lyceum_kernels::stored::{Stored, dequantise, quantise};
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_nn::gguf::{self, Header};
use lyceum_nn::ops::lora::LowRank;
use lyceum_nn::{NnError, ParamKind, Params, weights};
use std::collections::HashMap;
use std::io;

impl Adapter {
    /// Writes the base's file with `W + s·B·A` in the matrices that the adapter adds to. Those are stored as `kind`
    /// (F16 holds a small change that blocks of four bits would round away); everything else keeps its bytes.
    ///
    /// # Errors
    /// Of the files, and where the adapter is of another base.
    pub fn write_merged_gguf(
        &self,
        (checkpoint, header): (&Checkpoint, &Header),
        base: &Model,
        kind: Stored,
        out: &mut dyn io::Write,
    ) -> Result<(), LoadError> {
        self.fits(base)?;
        let config = base.language_config().ok_or_else(|| wrong_input("lora", "a language model"))?;
        let family = FAMILIES
            .iter()
            .find(|family| [family.model_type, family.gguf].contains(&config.model_type.as_str()));
        let family = family.expect("a loaded model has a family: bug");
        let mut changed: HashMap<String, (Module, LowRank)> = HashMap::new();
        for (layer, module, part) in self.factors.parts(config) {
            let name = format!("model.layers.{layer}.{}.weight", module.name());
            let name =
                Family::gguf_name(&name, config.post_norms).expect("every module has a name in GGUF: bug");
            changed.insert(name, (module, part));
        }
        let tensors: Vec<gguf::Tensor<'_>> = header
            .tensors
            .iter()
            .map(|tensor| {
                let change = changed.get(&tensor.name).copied();
                let data = move || {
                    let at = checkpoint.find(&tensor.name).expect("the header names it: bug");
                    let mut buffer = Vec::new();
                    let bytes = checkpoint.read(at, &mut buffer).map_err(io::Error::other)?;
                    let Some((module, part)) = change else { return Ok(bytes.to_vec()) };
                    let mut rows = vec![0.0; tensor.dims.iter().product()];
                    dequantise(tensor.kind, bytes, &mut rows);
                    let heads = heads_of(module, config).filter(|_| family.gguf_pairs_are_neighbours);
                    let heads = heads.map(|heads| (heads, module.sizes(config)[0]));
                    add(&mut rows, &self.product(module, part, config), heads);
                    let mut stored = Vec::new();
                    quantise(kind, &rows, &mut stored).map_err(io::Error::other)?;
                    Ok(stored)
                };
                gguf::Tensor {
                    name: tensor.name.clone(),
                    dims: tensor.dims.clone(),
                    kind: if change.is_some() { kind } else { tensor.kind },
                    data: Box::new(data),
                }
            })
            .collect();
        let known = |name: &String| header.tensors.iter().any(|tensor| tensor.name == *name);
        if let Some(name) = changed.keys().find(|name| !known(name)) {
            let problem = "is not in the base's file".into();
            return Err(LoadError::Tensor { name: name.clone(), problem });
        }
        gguf::write(out, &header.metadata, &tensors)
            .map_err(|error| LoadError::Nn(NnError::Weights(format!("writing failed: {error}"))))
    }

    /// `s·B·A`, `[outputs, inputs]`.
    fn product(&self, module: Module, part: LowRank, config: &Config) -> Vec<f32> {
        let [k, n] = module.sizes(config);
        let (a, b) = (self.params.value(part.a), self.params.value(part.b));
        let r = a.len() / k;
        let mut product = vec![0.0; n * k];
        let (b, a) = (Mat::new(b, n, r), Mat::new(a, r, k));
        matmul(b, a, &mut product, Write::Overwrite, Epilogue::default(), Precision::F32);
        product.iter_mut().for_each(|x| *x *= part.scale);
        product
    }
}

fn heads_of(module: Module, config: &Config) -> Option<usize> {
    match module {
        Module::QProj => Some(config.num_attention_heads),
        Module::KProj => Some(config.num_key_value_heads),
        _ => None,
    }
}

/// Adds rows whose rotary pairs are halves of a head; with `heads`, to rows whose pairs are neighbours.
fn add(rows: &mut [f32], change: &[f32], heads: Option<(usize, usize)>) {
    let Some((heads, row_len)) = heads else {
        return rows.iter_mut().zip(change).for_each(|(w, d)| *w += d);
    };
    let per_head = rows.len() / heads;
    for (rows, change) in rows.chunks_exact_mut(per_head).zip(change.chunks_exact(per_head)) {
        let half = per_head / row_len / 2;
        for (r, change) in change.chunks_exact(row_len).enumerate() {
            let at = 2 * (r % half) + r / half;
            rows[at * row_len..][..row_len].iter_mut().zip(change).for_each(|(w, d)| *w += d);
        }
    }
}

impl Model {
    /// The model's parameters under Hugging Face's names, f32.
    ///
    /// # Errors
    /// For models that were not read from a checkpoint.
    pub fn language_safetensors(&self) -> Result<Vec<u8>, NnError> {
        let config = self.language_config().ok_or_else(|| wrong_input("export", "a language model"))?;
        let mut plain = Params::new();
        for id in self.params.ids() {
            let (name, dims) = (self.params.name(id), self.params.shape(id));
            let mut value = match self.params.stored(id) {
                Some(stored) => {
                    let mut rows = vec![0.0; stored.n() * stored.k()];
                    rows.chunks_exact_mut(stored.k()).enumerate().for_each(|(i, row)| stored.row(i, row));
                    rows
                }
                None => self.params.value(id).to_vec(),
            };
            // Some families' files hold `w − 1`.
            if config.norm_weights_minus_one && name.ends_with("norm.weight") {
                value.iter_mut().for_each(|w| *w -= 1.0);
            }
            plain.add_value(name, dims.dims(), ParamKind::Weight, value);
        }
        weights::to_safetensors(&plain)
    }
}
