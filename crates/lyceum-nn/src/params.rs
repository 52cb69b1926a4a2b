//! The parameters of a model under the names that its checkpoint carries, and their gradients.

use crate::ops::recurrent::RecurrentWeights;
use crate::{NnError, Shape};
use lyceum_kernels::cpu::{self, CpuPath};
use lyceum_kernels::matmul::{Packed, Write};
use lyceum_kernels::recurrent::{Cell, CellWeights, PackedCell};
use lyceum_kernels::stored::{Stored, StoredWeight, tells_classes_apart};
use rand::Rng;
use rand::RngExt;
use std::collections::HashMap;
use std::sync::Arc;

/// A parameter of one [`Params`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ParamId(u32);

impl ParamId {
    /// Its number, in the order of [`Params::ids`].
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a parameter is to training.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParamKind {
    /// Learnt by gradient.
    Weight,
    /// Part of the checkpoint, not learnt by gradient (running statistics).
    Buffer,
    /// A count, stored as one i64 (PyTorch's `num_batches_tracked`); exact up to 2^24.
    Counter,
}

/// How a parameter starts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Init {
    Zeros,
    Ones,
    /// U(−bound, bound).
    Uniform(f64),
    /// N(0, std²).
    Normal(f64),
    /// Glorot & Bengio 2010, uniform: bound √(6 / (fan_in + fan_out)) over a matrix `[out, in]`.
    XavierUniform,
}

#[derive(Clone, Debug)]
struct Param {
    name: String,
    shape: Shape,
    kind: ParamKind,
    /// Empty where the weight is stored in another form.
    value: Vec<f32>,
    packed: Option<Packed>,
    /// Shared between clones: it does not change.
    stored: Option<Arc<StoredWeight>>,
}

/// All parameters of a model, in the order in which its builder added them.
#[derive(Clone, Debug, Default)]
pub struct Params {
    list: Vec<Param>,
    by_name: HashMap<String, ParamId>,
    /// Recurrent layers that are packed for serving; empty in training.
    cells: Vec<FrozenCell>,
}

/// One direction of a recurrent layer, packed.
#[derive(Clone, Debug)]
struct FrozenCell {
    weights: RecurrentWeights,
    /// The instruction set that it is packed for.
    path: CpuPath,
    packed: PackedCell,
}

impl Params {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a parameter; draws from `rng` only for random starts.
    ///
    /// # Panics
    /// When the name is taken: two layers with one name is a bug of the builder.
    pub fn add(
        &mut self,
        name: &str,
        dims: &[usize],
        kind: ParamKind,
        init: Init,
        rng: &mut impl Rng,
    ) -> ParamId {
        let shape = Shape::new(dims);
        let n = shape.len();
        let uniform = |bound: f64, rng: &mut dyn FnMut() -> f64| {
            (0..n).map(|_| ((rng() * 2.0 - 1.0) * bound) as f32).collect::<Vec<f32>>()
        };
        let mut unit = || rng.random::<f64>();
        let value = match init {
            Init::Zeros => vec![0.0; n],
            Init::Ones => vec![1.0; n],
            Init::Uniform(bound) => uniform(bound, &mut unit),
            Init::XavierUniform => {
                let fan_sum = (shape.first() + n / shape.first().max(1)) as f64;
                uniform((6.0 / fan_sum).sqrt(), &mut unit)
            }
            Init::Normal(std) => (0..n).map(|_| (normal(&mut unit) * std) as f32).collect(),
        };
        self.add_value(name, dims, kind, value)
    }

    /// Adds a matrix `[out, in]` in the form in which it was laid out for serving: it is not learnt, and only
    /// [`Tape::linear`](crate::Tape::linear) and [`Tape::embedding`](crate::Tape::embedding) read it.
    ///
    /// # Panics
    /// When the name is taken.
    pub fn add_stored(&mut self, name: &str, weight: StoredWeight) -> ParamId {
        let shape = Shape::new(&[weight.n(), weight.k()]);
        self.push(
            name,
            Param {
                name: name.to_owned(),
                shape,
                kind: ParamKind::Buffer,
                value: Vec::new(),
                packed: None,
                stored: Some(Arc::new(weight)),
            },
        )
    }

    /// Adds a parameter with its value.
    ///
    /// # Panics
    /// When the name is taken, or the value is not as long as the dimensions say.
    pub fn add_value(&mut self, name: &str, dims: &[usize], kind: ParamKind, value: Vec<f32>) -> ParamId {
        let shape = Shape::new(dims);
        assert_eq!(value.len(), shape.len(), "parameter \"{name}\" is not {shape}");
        self.push(name, Param { name: name.to_owned(), shape, kind, value, packed: None, stored: None })
    }

    fn push(&mut self, name: &str, param: Param) -> ParamId {
        let id = ParamId(self.list.len() as u32);
        let before = self.by_name.insert(name.to_owned(), id);
        assert!(before.is_none(), "parameter \"{name}\" was added twice");
        self.list.push(param);
        id
    }

    pub fn ids(&self) -> impl ExactSizeIterator<Item = ParamId> + use<> {
        (0..self.list.len() as u32).map(ParamId)
    }

    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.by_name.get(name).copied()
    }

    pub fn name(&self, id: ParamId) -> &str {
        &self.list[id.0 as usize].name
    }

    pub fn shape(&self, id: ParamId) -> Shape {
        self.list[id.0 as usize].shape
    }

    pub fn kind(&self, id: ParamId) -> ParamKind {
        self.list[id.0 as usize].kind
    }

    /// # Panics
    /// For a weight that is stored in another form.
    pub fn value(&self, id: ParamId) -> &[f32] {
        let param = &self.list[id.0 as usize];
        assert!(param.stored.is_none(), "parameter \"{}\" is stored in blocks: bug", param.name);
        &param.value
    }

    /// The weight that is laid out for serving, where it is.
    pub fn stored(&self, id: ParamId) -> Option<&StoredWeight> {
        self.list[id.0 as usize].stored.as_deref()
    }

    /// Whether products with a weight round the other operand: those of stored forms other than floats.
    pub fn rounds_activations(&self, id: ParamId) -> bool {
        self.stored(id).is_some_and(|weight| !matches!(weight.tile_kind(), Stored::F32 | Stored::F16))
    }

    /// Whether a stored weight gives rows of the two classes different bits here ([`RowClass`](crate::RowClass)).
    pub fn tells_row_classes_apart(&self) -> bool {
        let mut stored = self.list.iter().filter_map(|param| param.stored.as_deref());
        stored.any(|weight| tells_classes_apart(weight.tile_kind()))
    }

    /// The value for change; a packed copy made by [`freeze`](Self::freeze) is dropped.
    pub fn value_mut(&mut self, id: ParamId) -> &mut [f32] {
        self.thaw_cells(id);
        let param = &mut self.list[id.0 as usize];
        param.packed = None;
        &mut param.value
    }

    /// A parameter that is learnt from now on; one that was laid out for serving becomes numbers.
    ///
    /// # Errors
    /// It is stored in blocks of few bits.
    pub fn learn(&mut self, id: ParamId) -> Result<(), NnError> {
        let param = &mut self.list[id.0 as usize];
        if let Some(stored) = &param.stored {
            let kind = stored.kind();
            if !matches!(kind, Stored::F32 | Stored::F16 | Stored::Bf16) {
                let problem = format!("is stored as {}, which cannot be learnt", kind.name());
                return Err(NnError::Tensor { name: param.name.clone(), problem });
            }
            let (n, k) = (stored.n(), stored.k());
            param.value = vec![0.0; n * k];
            param.value.chunks_exact_mut(k).enumerate().for_each(|(i, row)| stored.row(i, row));
            param.stored = None;
        }
        if param.kind == ParamKind::Buffer {
            param.kind = ParamKind::Weight;
        }
        Ok(())
    }

    /// Numbers that are learnt.
    pub fn n_trainable(&self) -> usize {
        self.list.iter().filter(|p| p.kind == ParamKind::Weight).map(|p| p.value.len()).sum()
    }

    /// Memory of all values and of their packed copies.
    pub fn bytes(&self) -> usize {
        let one = |p: &Param| {
            p.value.capacity() * size_of::<f32>()
                + p.packed.as_ref().map_or(0, Packed::bytes)
                + p.stored.as_deref().map_or(0, StoredWeight::bytes)
        };
        self.list.iter().map(one).sum::<usize>()
            + self.cells.iter().map(|cell| cell.packed.bytes()).sum::<usize>()
    }

    /// Packs the matrix `id` (`[out, in]`) once for products of few rows; the model will not be trained.
    pub fn freeze(&mut self, id: ParamId) {
        let param = &mut self.list[id.0 as usize];
        if param.packed.is_none() && param.stored.is_none() && param.shape.rank() == 2 {
            param.packed = Some(Packed::pack(&param.value, param.shape[0], param.shape[1]));
        }
    }

    pub(crate) fn packed(&self, id: ParamId) -> Option<&Packed> {
        self.list[id.0 as usize].packed.as_ref()
    }

    /// Packs the weights of a recurrent layer once, where packing them at every call would cost as much as a
    /// step of generation; the model will not be trained.
    pub fn freeze_cell(&mut self, cell: Cell, weights: RecurrentWeights) {
        if self.cells.iter().any(|frozen| frozen.weights == weights) {
            return;
        }
        let (input, hidden) = (self.shape(weights.w_ih).last(), self.shape(weights.w_hh).last());
        let plain = CellWeights {
            w_ih: self.value(weights.w_ih),
            w_hh: self.value(weights.w_hh),
            b_ih: weights.b_ih.map(|id| self.value(id)),
            b_hh: weights.b_hh.map(|id| self.value(id)),
        };
        let packed = PackedCell::new(cell, input, hidden, &plain);
        self.cells.push(FrozenCell { weights, path: cpu::path(), packed });
    }

    /// The packed layer of these weights, if it is packed for the calling thread's instruction set.
    pub(crate) fn packed_cell(&self, weights: &RecurrentWeights) -> Option<&PackedCell> {
        let fits = |frozen: &&FrozenCell| frozen.weights == *weights && frozen.path == cpu::path();
        self.cells.iter().find(fits).map(|frozen| &frozen.packed)
    }

    /// Drops the packed layers that a parameter is part of.
    fn thaw_cells(&mut self, id: ParamId) {
        let holds = |w: &RecurrentWeights| [Some(w.w_ih), Some(w.w_hh), w.b_ih, w.b_hh].contains(&Some(id));
        self.cells.retain(|frozen| !holds(&frozen.weights));
    }

    /// It is learnt no longer: part of the checkpoint, as running statistics are.
    pub fn fix(&mut self, id: ParamId) {
        let kind = &mut self.list[id.0 as usize].kind;
        if *kind == ParamKind::Weight {
            *kind = ParamKind::Buffer;
        }
    }

    /// Replaces a matrix by one that is laid out for serving; it is not learnt.
    ///
    /// # Panics
    /// When it has another shape.
    pub fn replace_stored(&mut self, id: ParamId, weight: StoredWeight) {
        let param = &mut self.list[id.0 as usize];
        assert_eq!(param.shape.dims(), [weight.n(), weight.k()], "parameter \"{}\"", param.name);
        (param.kind, param.value, param.packed) = (ParamKind::Buffer, Vec::new(), None);
        param.stored = Some(Arc::new(weight));
    }

    /// Replaces a value after checking its shape.
    pub fn set(&mut self, id: ParamId, dims: &[usize], value: Vec<f32>) -> Result<(), NnError> {
        let param = &mut self.list[id.0 as usize];
        if param.shape.dims() != dims || value.len() != param.shape.len() {
            let problem = format!("has shape {dims:?}, the model needs {}", param.shape);
            return Err(NnError::Tensor { name: param.name.clone(), problem });
        }
        param.value = value;
        param.packed = None;
        self.thaw_cells(id);
        Ok(())
    }
}

/// Box–Muller from two uniform numbers.
fn normal(unit: &mut impl FnMut() -> f64) -> f64 {
    let u = 1.0 - unit();
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * unit()).cos()
}

/// One gradient buffer a learnt parameter.
///
/// A buffer that nobody has written since [`clear`](Self::clear) is overwritten by the first contribution
/// and added to by the next ones, so that clearing costs no pass over memory.
#[derive(Clone, Debug, Default)]
pub struct Grads {
    buffers: Vec<Vec<f32>>,
    written: Vec<bool>,
}

impl Grads {
    /// Buffers for every learnt parameter.
    pub fn new(params: &Params) -> Self {
        let buffers = params.list.iter().map(|p| match p.kind {
            ParamKind::Weight => vec![0.0; p.value.len()],
            _ => Vec::new(),
        });
        Grads { buffers: buffers.collect(), written: vec![false; params.list.len()] }
    }

    /// Forgets all gradients.
    pub fn clear(&mut self) {
        self.written.fill(false);
    }

    /// Makes parameters that no operation used have a zero gradient; call it before reading.
    pub fn finish(&mut self) {
        for (buffer, written) in self.buffers.iter_mut().zip(&mut self.written) {
            if !std::mem::replace(written, true) {
                buffer.fill(0.0);
            }
        }
    }

    /// The gradient (empty for buffers that are not learnt).
    pub fn value(&self, id: ParamId) -> &[f32] {
        &self.buffers[id.0 as usize]
    }

    pub fn value_mut(&mut self, id: ParamId) -> &mut [f32] {
        &mut self.buffers[id.0 as usize]
    }

    /// The gradients that came to be, in the order of the parameters.
    pub fn into_written(self) -> impl Iterator<Item = Vec<f32>> {
        self.buffers.into_iter().zip(self.written).filter_map(|(buffer, written)| written.then_some(buffer))
    }

    /// The buffer and whether to overwrite or add to it.
    pub(crate) fn slot(&mut self, id: ParamId) -> (&mut [f32], Write) {
        let i = id.0 as usize;
        let write = if std::mem::replace(&mut self.written[i], true) { Write::Add } else { Write::Overwrite };
        (&mut self.buffers[i], write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn starts_have_their_spread_and_a_seed_repeats_them() {
        let build = || {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
            let mut p = Params::new();
            p.add("a", &[100, 100], ParamKind::Weight, Init::Normal(0.5), &mut rng);
            p.add("b", &[100, 300], ParamKind::Weight, Init::XavierUniform, &mut rng);
            p
        };
        let (p, q) = (build(), build());
        let std = |v: &[f32]| (v.iter().map(|x| (x * x) as f64).sum::<f64>() / v.len() as f64).sqrt();
        for id in p.ids() {
            assert_eq!(p.value(id), q.value(id));
        }
        assert!((std(p.value(ParamId(0))) - 0.5).abs() < 0.02);
        let bound = (6.0f64 / 400.0).sqrt();
        assert!((std(p.value(ParamId(1))) - bound / 3f64.sqrt()).abs() < 0.002);
    }
}
