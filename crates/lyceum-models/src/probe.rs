//! What a language model said when its training ended: texts with the tokens that it held for likeliest, so that
//! whoever serves it can see that it is the same.

use crate::batch::{Input, Tokens};
use crate::causal_lm::Adapter;
use crate::decode::{DecodeRow, PAGE, RowClass, Rows};
use crate::model::Model;
use lyceum_nn::ops::cached_attention::{KvPool, KvStorage};
use lyceum_nn::{Examples, NnError, Recording, Tape, Workspace};
use serde::{Deserialize, Serialize};

/// Tokens whose log-probabilities are kept.
const LIKELIEST: usize = 8;
/// The largest difference of a log-probability: other instruction sets round differently.
pub const TOLERANCE: f32 = 2e-2;

/// A text, and the likeliest tokens after it with their log-probabilities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub ids: Vec<u32>,
    pub likeliest: Vec<(u32, f32)>,
}

impl Probe {
    /// Asks the model as it is trained: whole sequences.
    pub fn record(model: &Model, ids: Vec<u32>) -> Result<Self, NnError> {
        let mut ws = Workspace::new();
        let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(1));
        let forward = model.forward(&mut tape, &Input::Tokens(Tokens::single(&ids)))?;
        let width = model.shape.output.width();
        let logits = tape.value(forward.logits);
        let last = log_softmax(&logits[logits.len() - width..]);
        let mut order: Vec<u32> = (0..width as u32).collect();
        order.sort_by(|&a, &b| last[b as usize].total_cmp(&last[a as usize]).then(a.cmp(&b)));
        let likeliest = order.iter().take(LIKELIEST).map(|&id| (id, last[id as usize])).collect();
        Ok(Probe { ids, likeliest })
    }

    /// The largest difference of a recorded log-probability to these logits of the next token.
    pub fn difference(&self, logits: &[f32]) -> f32 {
        let found = log_softmax(logits);
        let difference = |&(id, recorded): &(u32, f32)| {
            found.get(id as usize).map_or(f32::INFINITY, |found| (found - recorded).abs())
        };
        self.likeliest.iter().map(difference).fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
    }
}

/// Logits of the next token as they are served: read through pages, with an adapter beside the model.
pub fn served(model: &Model, adapter: Option<&Adapter>, ids: &[u32]) -> Result<Vec<f32>, NnError> {
    let (mut ws, n_pages) = (Workspace::new(), ids.len().div_ceil(PAGE));
    let mut pool = model.kv_shape(n_pages, KvStorage::F32).map(KvPool::new);
    let pages: Vec<u32> = (0..n_pages as u32).collect();
    let mut state = model.start(&mut ws, None)?;
    let row = DecodeRow {
        state: &mut state,
        tokens: ids,
        rows: Rows::Last,
        pages: &pages,
        adapter,
        class: RowClass::Bulk,
    };
    model.decode(&mut ws, pool.as_mut(), &mut [row])
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&z| f64::from(z - max).exp()).sum();
    let lse = f64::from(max) + sum.ln();
    logits.iter().map(|&z| (f64::from(z) - lse) as f32).collect()
}
