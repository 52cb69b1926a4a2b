//! Low-rank adapters of a language model (LoRA): what they add to which layers, beside a base that stays as it is.
//!
//! An adapter is served beside its base ([`Beside`]: several in one pass, each row naming its own or none), or
//! stands within a model of its own: learnt over the frozen base ([`Model::learning`]), explained
//! ([`Model::with_adapter`]), or added to the base's matrices ([`Model::merged`]). Parameter names are PEFT's.
//!
//! Reading order: [`config`] (what a description means), `files` (PEFT's and llama.cpp's layouts), this file.

pub mod config;
mod export;
mod files;
#[cfg(test)]
mod norms;
#[cfg(test)]
mod tests;

pub use config::{AdapterConfig, Modules};
pub use files::Files;

use super::{CausalLm, Config};
use crate::from_checkpoint::{LoadError, Weights};
use crate::layers::Builder;
use crate::model::{Arch, Model, wrong_input};
use config::Chosen;
use lyceum_kernels::matmul::{Epilogue, Mat, Precision, Write, matmul};
use lyceum_kernels::stored::{Stored, StoredWeight};
use lyceum_nn::ops::lora::{LowRank, Owner};
use lyceum_nn::{Init, NnError, ParamId, ParamKind, Params, Tape, Var};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::sync::atomic::{AtomicU64, Ordering};

/// A linear layer that adapters may add to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Module {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl Module {
    pub const ALL: [Module; 7] = [
        Module::QProj,
        Module::KProj,
        Module::VProj,
        Module::OProj,
        Module::GateProj,
        Module::UpProj,
        Module::DownProj,
    ];

    /// Its name within a layer.
    pub fn name(self) -> &'static str {
        match self {
            Module::QProj => "self_attn.q_proj",
            Module::KProj => "self_attn.k_proj",
            Module::VProj => "self_attn.v_proj",
            Module::OProj => "self_attn.o_proj",
            Module::GateProj => "mlp.gate_proj",
            Module::UpProj => "mlp.up_proj",
            Module::DownProj => "mlp.down_proj",
        }
    }

    /// `[inputs, outputs]`.
    pub(crate) fn sizes(self, config: &Config) -> [usize; 2] {
        let (c, f, d) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (q, kv) = (config.num_attention_heads * d, config.num_key_value_heads * d);
        match self {
            Module::QProj => [c, q],
            Module::KProj | Module::VProj => [c, kv],
            Module::OProj => [q, c],
            Module::GateProj | Module::UpProj => [c, f],
            Module::DownProj => [f, c],
        }
    }

    /// The product that it is a part of.
    fn place(self) -> Place {
        match self {
            Module::QProj | Module::KProj | Module::VProj => Place::Qkv,
            Module::OProj => Place::Output,
            Module::GateProj | Module::UpProj => Place::GateUp,
            Module::DownProj => Place::Down,
        }
    }

    /// Where its columns begin there.
    fn first(self, config: &Config) -> usize {
        let (q, kv) = (config.num_attention_heads * config.head_dim, Module::KProj.sizes(config)[1]);
        match self {
            Module::KProj => q,
            Module::VProj => q + kv,
            Module::UpProj => config.intermediate_size,
            _ => 0,
        }
    }
}

/// A product of a layer: modules that share an input lie side by side in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Qkv,
    Output,
    GateUp,
    Down,
}

/// What an adapter adds, layer by layer and place by place.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Factors {
    layers: Vec<[Vec<LowRank>; 4]>,
}

impl Factors {
    fn build(config: &AdapterConfig, base: &Config, weights: &mut dyn Weights) -> Result<Self, LoadError> {
        let mut layers = vec![<[Vec<LowRank>; 4]>::default(); base.layers.len()];
        for Chosen { layer, module, r, scale } in config.choose(base)? {
            let [inputs, outputs] = module.sizes(base);
            let [a, b] = names(layer, module);
            // PEFT's start: A as a linear layer starts, B at nothing.
            let a = weights.table(&a, &[r, inputs], Init::Uniform(1.0 / (inputs as f64).sqrt()))?;
            let b = weights.table(&b, &[outputs, r], Init::Zeros)?;
            let part = LowRank { a, b, scale, first: module.first(base) };
            layers[layer][module.place() as usize].push(part);
        }
        Ok(Factors { layers })
    }

    pub(crate) fn at(&self, layer: usize, place: Place) -> &[LowRank] {
        self.layers.get(layer).map_or(&[], |places| &places[place as usize])
    }

    /// Every part with its layer and module.
    fn parts<'a>(&'a self, base: &'a Config) -> impl Iterator<Item = (usize, Module, LowRank)> + 'a {
        let modules = move |i: usize| {
            Module::ALL.into_iter().filter_map(move |module| {
                let parts = self.at(i, module.place());
                let part = parts.iter().find(|part| part.first == module.first(base))?;
                Some((i, module, *part))
            })
        };
        (0..self.layers.len()).flat_map(modules)
    }

    /// The same with parameters that go by other ids.
    fn renamed(&self, mut id: impl FnMut(ParamId) -> ParamId) -> Factors {
        let mut layers = self.layers.clone();
        for part in layers.iter_mut().flatten().flatten() {
            (part.a, part.b) = (id(part.a), id(part.b));
        }
        Factors { layers }
    }
}

/// PEFT's names of A and B.
fn names(layer: usize, module: Module) -> [String; 2] {
    ["A", "B"]
        .map(|factor| format!("base_model.model.model.layers.{layer}.{}.lora_{factor}.weight", module.name()))
}

/// An adapter to be served beside its base.
#[derive(Debug)]
pub struct Adapter {
    pub params: Params,
    pub config: AdapterConfig,
    pub(crate) factors: Factors,
    base: Sizes,
    id: u64,
}

/// Sizes of a base that adapters depend on.
type Sizes = [usize; 6];

fn sizes(config: &Config) -> Sizes {
    [
        config.layers.len(),
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    ]
}

static LAST_ID: AtomicU64 = AtomicU64::new(0);

impl Adapter {
    fn new(mut params: Params, config: AdapterConfig, factors: Factors, base: &Config) -> Adapter {
        for id in params.ids() {
            params.freeze(id);
        }
        let id = LAST_ID.fetch_add(1, Ordering::Relaxed) + 1;
        Adapter { params, config, factors, base: sizes(base), id }
    }

    /// A number that no other adapter has while the process lives, also none that was loaded from the same files.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> usize {
        self.params.bytes()
    }

    /// Whether it adds to models of this one's sizes.
    ///
    /// # Errors
    /// In what the two differ.
    pub fn fits(&self, model: &Model) -> Result<(), NnError> {
        let Arch::CausalLm(base) = &model.arch else { return Err(wrong_input("lora", "a language model")) };
        let found = sizes(&base.config);
        if found == self.base {
            return Ok(());
        }
        let list = |s: Sizes| {
            let [layers, hidden, feed_forward, heads, kv, head] = s;
            format!(
                "{layers} layers, hidden {hidden}, feed-forward {feed_forward}, {heads} and {kv} heads of {head}"
            )
        };
        Err(NnError::Shape { op: "lora", what: "base", got: list(found), want: list(self.base) })
    }
}

/// Whose rows in a pass an adapter's are.
pub(crate) struct Use<'a> {
    pub owner: Owner,
    pub factors: &'a Factors,
    /// Rising.
    pub rows: Vec<u32>,
}

impl<'a> Use<'a> {
    /// The same where only the rows `wanted` (rising) are left of a pass; None where none of its own are.
    pub fn of_rows(&self, wanted: &[u32]) -> Option<Use<'a>> {
        let left = (0..).zip(wanted).filter(|(_, row)| self.rows.binary_search(row).is_ok());
        let rows: Vec<u32> = left.map(|(place, _)| place).collect();
        (!rows.is_empty()).then_some(Use { owner: self.owner, factors: self.factors, rows })
    }
}

/// The adapters of a pass: those beside the model, once each, with their rows.
#[derive(Default)]
pub(crate) struct Beside<'a> {
    pub params: Vec<&'a Params>,
    pub uses: Vec<Use<'a>>,
    ids: Vec<u64>,
}

impl<'a> Beside<'a> {
    /// The rows `rows` use `adapter`; rows come in rising order.
    pub fn add(&mut self, adapter: &'a Adapter, rows: std::ops::Range<u32>) {
        let i = self.ids.iter().position(|&id| id == adapter.id).unwrap_or_else(|| {
            let owner = Owner::Beside(self.params.len());
            self.ids.push(adapter.id);
            self.params.push(&adapter.params);
            self.uses.push(Use { owner, factors: &adapter.factors, rows: Vec::new() });
            self.ids.len() - 1
        });
        self.uses[i].rows.extend(rows);
    }
}

impl CausalLm {
    /// Adds what the adapters of a pass add to a product of layer `i`.
    pub(crate) fn adapt(
        &self,
        tape: &mut Tape<'_>,
        (i, place): (usize, Place),
        x: Var,
        mut y: Var,
        uses: &[Use<'_>],
    ) -> Result<Var, NnError> {
        for each in uses {
            // Of an adapter that is learnt; one mask for the layers that share an input.
            let x = match &self.own {
                Some(own) if each.owner == Owner::Model && own.0.lora_dropout > 0.0 => {
                    tape.dropout(x, own.0.lora_dropout)?
                }
                _ => x,
            };
            y = tape.lora(x, y, each.owner, each.factors.at(i, place), &each.rows)?;
        }
        Ok(y)
    }

    /// The model's own adapter, which all rows use.
    pub(crate) fn own_use(&self, n_rows: usize) -> Option<Use<'_>> {
        let (_, factors) = self.own.as_deref()?;
        Some(Use { owner: Owner::Model, factors, rows: (0..n_rows as u32).collect() })
    }
}

impl Model {
    /// The model with a fresh adapter within, to be learnt: every parameter but the adapter's is fixed. A starts as
    /// U(±1/√K), B at 0 (PEFT's start); equal seeds give equal parameters.
    ///
    /// # Errors
    /// Where it is no language model, has an adapter already, or the description means none of its layers.
    pub fn learning(&self, config: &AdapterConfig, seed: u64) -> Result<Model, LoadError> {
        let (mut model, base) = self.without_own()?;
        for id in model.params.ids().collect::<Vec<_>>() {
            model.params.fix(id);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut builder = Builder { params: &mut model.params, rng: &mut rng };
        let factors = Factors::build(config, &base, &mut builder)?;
        model.own(config.clone(), factors);
        Ok(model)
    }

    /// The model with a copy of the adapter within, fixed: for passes whose inputs are differentiated.
    ///
    /// # Errors
    /// Where the adapter does not fit, or the model has one already.
    pub fn with_adapter(&self, adapter: &Adapter) -> Result<Model, LoadError> {
        adapter.fits(self)?;
        let (mut model, _) = self.without_own()?;
        let factors = adapter.factors.renamed(|id| {
            let (name, dims) = (adapter.params.name(id), adapter.params.shape(id));
            let value = adapter.params.value(id).to_vec();
            model.params.add_value(name, dims.dims(), ParamKind::Buffer, value)
        });
        model.own(adapter.config.clone(), factors);
        Ok(model)
    }

    /// A copy of the adapter within the model, to be written or served beside its base.
    pub fn own_adapter(&self) -> Option<Adapter> {
        let Arch::CausalLm(causal) = &self.arch else { return None };
        let (config, factors) = causal.own.as_deref()?;
        let mut params = Params::new();
        let factors = factors.renamed(|id| {
            let (name, dims) = (self.params.name(id), self.params.shape(id));
            params.add_value(name, dims.dims(), ParamKind::Weight, self.params.value(id).to_vec())
        });
        Some(Adapter::new(params, config.clone(), factors, &causal.config))
    }

    /// The base with what the adapter adds put into its matrices: `W + s·B·A`, computed in f32 and stored as `kind`
    /// (None: as the base's matrix is stored).
    ///
    /// # Errors
    /// Where the adapter does not fit, or rows are no whole number of blocks of `kind`.
    pub fn merged(&self, adapter: &Adapter, kind: Option<Stored>) -> Result<Model, LoadError> {
        adapter.fits(self)?;
        let (mut model, base) = self.without_own()?;
        for (layer, module, part) in adapter.factors.parts(&base) {
            let name = format!("model.layers.{layer}.{}.weight", module.name());
            let id = model.params.find(&name).expect("every module has a weight: bug");
            let [k, n] = module.sizes(&base);
            let mut rows = vec![0.0; n * k];
            let stored = model.params.stored(id);
            match stored {
                Some(stored) => rows.chunks_exact_mut(k).enumerate().for_each(|(i, row)| stored.row(i, row)),
                None => rows.copy_from_slice(model.params.value(id)),
            }
            let kind = kind.or_else(|| stored.map(StoredWeight::kind)).unwrap_or(Stored::F32);
            let (a, b) = (adapter.params.value(part.a), adapter.params.value(part.b));
            let r = a.len() / k;
            let mut added = vec![0.0; n * k];
            let (b, a) = (Mat::new(b, n, r), Mat::new(a, r, k));
            matmul(b, a, &mut added, Write::Overwrite, Epilogue::default(), Precision::F32);
            rows.iter_mut().zip(&added).for_each(|(w, d)| *w += part.scale * d);
            let weight = StoredWeight::from_f32(kind, &rows, n, k)
                .map_err(|error| LoadError::Quantise(format!("{name}: {error}")))?;
            model.params.replace_stored(id, weight);
        }
        Ok(model)
    }

    /// A copy (matrices that are stored in blocks are shared), and its configuration.
    fn without_own(&self) -> Result<(Model, Config), NnError> {
        let Arch::CausalLm(causal) = &self.arch else { return Err(wrong_input("lora", "a language model")) };
        if causal.own.is_some() {
            return Err(wrong_input("lora", "a model without an adapter of its own"));
        }
        Ok((self.clone(), causal.config.clone()))
    }

    fn own(&mut self, config: AdapterConfig, factors: Factors) {
        if let Arch::CausalLm(causal) = &mut self.arch {
            causal.own = Some(Box::new((config, factors)));
        }
    }
}
