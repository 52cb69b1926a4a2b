//! `O = dropout(softmax(scale·Q·Kᵀ + mask))·V`, H heads of D numbers, C = H·D (Vaswani et al. 2017,
//! arXiv:1706.03762). Keys and values have H_kv heads, each read by H / H_kv neighbouring heads of queries
//! (Ainslie et al. 2023, arXiv:2305.13245); C_kv = H_kv·D. D is what the inputs' width says: it need not be
//! the model's width over its heads.
//!
//! Three ways to give the same inputs, for the same bits: one `[q | k | v]` tensor `[B, T, C + 2·C_kv]` (from
//! one product), queries `[B, T, C]` with `[k | v]` `[B, S, 2·C_kv]` (cross attention), or three tensors.
//! Output `[B, T, C]`. Backward, with P the probabilities recomputed from saved log-sum-exps:
//! `dV = Pᵀ·dO`, `dS = P ⊙ (dO·Vᵀ − rowsum(dO ⊙ O))·scale`, `dQ = dS·K`, `dK = dSᵀ·Q`.

use super::{Op, Operation};
use crate::tape::relevance::inner;
use crate::tape::{
    AttentionMap, Backward, Ledger, Phase, Saved, SavedIds, Slot, StoredProducts, Tape, Var, View,
};
use crate::{NnError, Shape};
use lyceum_kernels::attention::paged::{
    PAGE, PagedAttention, Pages, PagesShape, Span, Storage, paged_attention,
};
use lyceum_kernels::attention::{self as kernel, Gradients, Rows};
use lyceum_kernels::class::RowClass;
use lyceum_kernels::dropout;
use lyceum_kernels::matmul::Write;

pub use lyceum_kernels::attention::Mask;

/// What attention is beside its inputs.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOptions<'a> {
    pub heads: usize,
    /// Heads of keys and values: a divisor of `heads`, as many in plain multi-head attention.
    pub kv_heads: usize,
    /// `1 / √D` where None.
    pub scale: Option<f32>,
    pub mask: Mask,
    /// How many keys of each example are real; the others are padding. A query that sees no key gives 0.
    pub key_lens: Option<&'a [u32]>,
    /// Probability with which a weight is dropped in training.
    pub dropout: f64,
    /// Whether the inputs and the weights may be rounded to bf16 where that is faster, and where nothing is recorded: an
    /// encoder's texts, and sequences as they are when served, with the same bits.
    pub may_round: bool,
}

impl AttentionOptions<'_> {
    /// Every query sees every key; as many heads of keys; nothing is dropped.
    pub fn full(heads: usize) -> Self {
        AttentionOptions {
            heads,
            kv_heads: heads,
            scale: None,
            mask: Mask::Full,
            key_lens: None,
            dropout: 0.0,
            may_round: false,
        }
    }

    /// Query `t` sees the last `window` of the keys `0..=t`, or all of them; nothing is dropped.
    pub fn grouped(heads: usize, kv_heads: usize, window: Option<usize>) -> Self {
        let mask = match window {
            None => Mask::Causal { first_position: 0 },
            Some(size) => Mask::Window { first_position: 0, size },
        };
        AttentionOptions { kv_heads, mask, ..Self::full(heads) }
    }

    /// Query `t` sees keys `0..=t`; nothing is dropped.
    pub fn causal(heads: usize) -> Self {
        AttentionOptions { mask: Mask::Causal { first_position: 0 }, ..Self::full(heads) }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Attention {
    inputs: Inputs,
    heads: Heads,
    mask: Mask,
    key_lens: Option<SavedIds>,
    dropout: Option<dropout::Dropout>,
    lse: Saved,
}

/// How a width falls into heads.
#[derive(Clone, Copy)]
struct Heads {
    queries: usize,
    keys: usize,
    scale: Option<f32>,
}

#[derive(Clone, Copy)]
enum Inputs {
    Fused(Var),
    Paired { q: Var, kv: Var },
    Separate { q: Var, k: Var, v: Var },
}

/// Sizes, and where queries, keys and values lie.
struct Layout {
    batch: usize,
    n_queries: usize,
    n_keys: usize,
    heads: Heads,
    head_size: usize,
    q_row: usize,
    kv_row: usize,
}

impl Tape<'_> {
    /// A sequence attends to itself: `qkv` is `[B, T, C + 2·C_kv]`.
    pub fn self_attention(&mut self, qkv: Var, options: AttentionOptions<'_>) -> Result<Var, NnError> {
        self.attend(Inputs::Fused(qkv), options)
    }

    /// Queries `[B, T, C]` attend to another sequence, `kv` `[B, S, 2·C_kv]`.
    pub fn cross_attention(
        &mut self,
        q: Var,
        kv: Var,
        options: AttentionOptions<'_>,
    ) -> Result<Var, NnError> {
        self.attend(Inputs::Paired { q, kv }, options)
    }

    /// Queries `[B, T, C]`, keys and values `[B, S, C_kv]`.
    pub fn attention(
        &mut self,
        q: Var,
        k: Var,
        v: Var,
        options: AttentionOptions<'_>,
    ) -> Result<Var, NnError> {
        self.attend(Inputs::Separate { q, k, v }, options)
    }

    fn attend(&mut self, inputs: Inputs, options: AttentionOptions<'_>) -> Result<Var, NnError> {
        let layout = self.attention_layout(inputs, options)?;
        let (batch, n_queries, width) = (layout.batch, layout.n_queries, layout.width());
        let records = match inputs {
            Inputs::Fused(qkv) => self.needs_grad(&[qkv], &[]),
            Inputs::Paired { q, kv } => self.needs_grad(&[q, kv], &[]),
            Inputs::Separate { q, k, v } => self.needs_grad(&[q, k, v], &[]),
        };
        let drops = self.phase() == Phase::Train && options.dropout > 0.0;
        if let (Inputs::Fused(qkv), Some(window)) = (inputs, served_window(&options))
            && !records
            && !drops
            && self.stored_products() == StoredProducts::Served
        {
            return Ok(self.attend_in_pages(qkv, &layout, window, options.key_lens));
        }
        let dropout = drops.then(|| self.dropout_mask(options.dropout));
        let mut lse = records.then(|| self.take(batch * options.heads * n_queries));
        let mut out = self.take(batch * n_queries * width);
        let mut shape = layout.shape(options.mask, options.key_lens, dropout);
        shape.may_round = options.may_round;
        let [q, k, v] = inputs.slices(&layout, |var| self.value(var));
        kernel::attention(&shape, q, k, v, &mut out, lse.as_deref_mut());
        let out_shape = Shape::new(&[batch, n_queries, width]);
        let Some(lse) = lse else { return Ok(self.push(Op::Leaf, out_shape, out, false)) };
        let lse = self.save(lse);
        let key_lens = options.key_lens.map(|lens| self.save_ids(lens));
        let op = Attention { inputs, heads: layout.heads, mask: options.mask, key_lens, dropout, lse };
        Ok(self.push(Op::Attention(op), out_shape, out, true))
    }

    /// [`attend`](Self::attend) by the kernel of serving, for the bits that a served sequence has. Rows of padding are zeros.
    fn attend_in_pages(
        &mut self,
        qkv: Var,
        layout: &Layout,
        window: Option<usize>,
        key_lens: Option<&[u32]>,
    ) -> Var {
        let (batch, time, width) = (layout.batch, layout.n_queries, layout.width());
        let each = time.div_ceil(PAGE);
        let numbers: Vec<u32> = (0..(batch * each) as u32).collect();
        let span = |b: usize| Span {
            first_row: b * time,
            n_rows: key_lens.map_or(time, |lens| lens[b] as usize),
            first_position: 0,
            pages: &numbers[b * each..(b + 1) * each],
            class: RowClass::Bulk,
        };
        let spans: Vec<Span<'_>> = (0..batch).map(span).collect();
        let mut pages = Pages::new(PagesShape {
            n_layers: 1,
            n_pages: numbers.len(),
            kv_heads: layout.heads.keys,
            head_size: layout.head_size,
            storage: Storage::F32,
        });
        let asked = PagedAttention {
            heads: layout.heads.queries,
            scale: layout.scale(),
            window,
            q_row: layout.q_row,
            out_row: width,
        };
        let mut out = self.take(batch * time * width);
        for span in &spans {
            out[(span.first_row + span.n_rows) * width..(span.first_row + time) * width].fill(0.0);
        }
        let x = self.value(qkv);
        pages.write(0, &spans, x, layout.q_row, width);
        paged_attention(&pages, 0, &asked, &spans, x, &mut out);
        self.push(Op::Leaf, Shape::new(&[batch, time, width]), out, false)
    }

    fn attention_layout(&self, inputs: Inputs, options: AttentionOptions<'_>) -> Result<Layout, NnError> {
        let heads = Heads { queries: options.heads, keys: options.kv_heads, scale: options.scale };
        let refuse = |what: &'static str, got: &[usize], want: String| {
            Err(NnError::shape("attention", what, Shape::new(got), want))
        };
        if heads.keys == 0 || heads.queries == 0 || !heads.queries.is_multiple_of(heads.keys) {
            let want = format!("a divisor of the {} heads of queries", heads.queries);
            return refuse("number of heads of keys", &[heads.keys], want);
        }
        if matches!(options.mask, Mask::Window { size: 0, .. }) {
            return refuse("window", &[0], "at least the query itself".into());
        }
        let layout = Layout::of(inputs, heads, |var| self.shape(var))?;
        if let Some(lens) = options.key_lens {
            if lens.len() != layout.batch {
                return refuse("key lengths", &[lens.len()], format!("[{}]", layout.batch));
            }
            if let Some((position, &n)) = lens.iter().enumerate().find(|&(_, &n)| n as usize > layout.n_keys)
            {
                let size = layout.n_keys + 1;
                return Err(NnError::Index { op: "attention", index: n.into(), position, size });
            }
        }
        Ok(layout)
    }
}

/// The window of a sequence from its start that may be rounded, which has a way of its own: that of serving.
fn served_window(options: &AttentionOptions<'_>) -> Option<Option<usize>> {
    match options.mask {
        _ if !options.may_round => None,
        Mask::Causal { first_position: 0 } => Some(None),
        Mask::Window { first_position: 0, size } => Some(Some(size)),
        _ => None,
    }
}

impl Layout {
    fn of(inputs: Inputs, heads: Heads, shape: impl Fn(Var) -> Shape) -> Result<Layout, NnError> {
        let refuse =
            |what: &'static str, got: Shape, want: String| Err(NnError::shape("attention", what, got, want));
        let (q, n_heads) = match inputs {
            Inputs::Fused(qkv) => (shape(qkv), heads.queries + 2 * heads.keys),
            Inputs::Paired { q, .. } | Inputs::Separate { q, .. } => (shape(q), heads.queries),
        };
        if q.rank() != 3 || q[2] == 0 || !q[2].is_multiple_of(n_heads) {
            return refuse(
                "queries",
                q,
                format!("[B, T, {n_heads}·D], the number of heads times their size"),
            );
        }
        let (batch, n_queries, head_size) = (q[0], q[1], q[2] / n_heads);
        let width = heads.keys * head_size;
        let (n_keys, kv_row) = match inputs {
            Inputs::Fused(_) => (n_queries, q[2]),
            Inputs::Paired { kv, .. } => {
                let kv = shape(kv);
                if kv.rank() != 3 || kv[0] != batch || kv[2] != 2 * width {
                    return refuse("keys and values", kv, format!("[{batch}, S, {}]", 2 * width));
                }
                (kv[1], kv[2])
            }
            Inputs::Separate { k, v, .. } => {
                let (k, v) = (shape(k), shape(v));
                if k.rank() != 3 || k[0] != batch || k[2] != width {
                    return refuse("keys", k, format!("[{batch}, S, {width}]"));
                }
                if v != k {
                    return refuse("values", v, format!("{k}, as the keys"));
                }
                (k[1], width)
            }
        };
        Ok(Layout { batch, n_queries, n_keys, heads, head_size, q_row: q[2], kv_row })
    }

    /// C, the width of queries and output.
    fn width(&self) -> usize {
        self.heads.queries * self.head_size
    }

    /// C_kv, the width of keys and of values.
    fn kv_width(&self) -> usize {
        self.heads.keys * self.head_size
    }

    fn scale(&self) -> f32 {
        self.heads.scale.unwrap_or(1.0 / (self.head_size as f32).sqrt())
    }

    fn shape<'a>(
        &self,
        mask: Mask,
        key_lens: Option<&'a [u32]>,
        dropout: Option<dropout::Dropout>,
    ) -> kernel::Attention<'a> {
        kernel::Attention {
            batch: self.batch,
            heads: self.heads.queries,
            kv_heads: self.heads.keys,
            head_size: self.head_size,
            n_queries: self.n_queries,
            n_keys: self.n_keys,
            scale: self.scale(),
            mask,
            key_lens,
            dropout,
            may_round: false,
            q: Rows::dense(self.n_queries, self.q_row),
            kv: Rows::dense(self.n_keys, self.kv_row),
            out: Rows::dense(self.n_queries, self.width()),
        }
    }
}

impl Inputs {
    /// Where queries, keys and values begin.
    fn slices<'v>(&self, layout: &Layout, value: impl Fn(Var) -> &'v [f32]) -> [&'v [f32]; 3] {
        let from = |x: &'v [f32], at: usize| x.get(at..).unwrap_or_default();
        let (width, kv_width) = (layout.width(), layout.kv_width());
        match *self {
            Inputs::Fused(qkv) => {
                let x = value(qkv);
                [x, from(x, width), from(x, width + kv_width)]
            }
            Inputs::Paired { q, kv } => {
                let x = value(kv);
                [value(q), x, from(x, kv_width)]
            }
            Inputs::Separate { q, k, v } => [value(q), value(k), value(v)],
        }
    }
}

impl Attention {
    fn layout(&self, view: View<'_>) -> Layout {
        Layout::of(self.inputs, self.heads, |var| view.shape(var)).expect("the forward call accepted it: bug")
    }

    fn run(&self, view: View<'_>, dout: &[f32], gradients: Gradients<'_>) {
        let layout = self.layout(view);
        let key_lens = self.key_lens.map(|lens| view.ids(lens));
        let shape = layout.shape(self.mask, key_lens, self.dropout);
        let [q, k, v] = self.inputs.slices(&layout, |var| view.value(var));
        kernel::attention_backward(&shape, q, k, v, view.output(), view.saved(self.lse), dout, gradients);
    }
}

impl Attention {
    /// The probabilities, recomputed from the saved log-sum-exps: `exp(scale · q·k − lse)`.
    pub(crate) fn map(&self, view: View<'_>) -> AttentionMap {
        let layout = self.layout(view);
        let Layout { batch, n_queries, n_keys, head_size, q_row, kv_row, .. } = layout;
        let heads = self.heads.queries;
        let [q, k, _] = self.inputs.slices(&layout, |var| view.value(var));
        let (scale, lse) = (layout.scale(), view.saved(self.lse));
        let mut weights = vec![0.0; batch * heads * n_queries * n_keys];
        for (i, row) in weights.chunks_exact_mut(n_keys.max(1)).enumerate() {
            let (b, h, t) = (i / (heads * n_queries), i / n_queries % heads, i % n_queries);
            let real = self.key_lens.map_or(n_keys, |lens| view.ids(lens)[b] as usize);
            let query = &q[(b * n_queries + t) * q_row + h * head_size..][..head_size];
            let h = h * self.heads.keys / heads;
            for s in self.mask.keys(real, t) {
                let key = &k[(b * n_keys + s) * kv_row + h * head_size..][..head_size];
                let score: f32 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                row[s] = (scale * score - lse[i]).exp();
            }
        }
        let is_self = matches!(self.inputs, Inputs::Fused(_));
        AttentionMap { batch, heads, n_queries, n_keys, is_self, weights }
    }
}

fn target(slot: &mut Option<Slot>) -> Option<(&mut [f32], Write)> {
    slot.as_mut().map(|slot| (&mut slot.data[..], slot.write))
}

impl Operation for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        match self.inputs {
            Inputs::Fused(qkv) => {
                back.grad(qkv, |view, dy, dx, write| self.run(view, dy, Gradients::Fused(dx, write)));
            }
            Inputs::Paired { q, kv } if q != kv => back.grads([q, kv], |view, dy, [q, kv]| {
                self.run(view, dy, Gradients::Paired { q: target(q), kv: target(kv) });
            }),
            Inputs::Separate { q, k, v } if q != k && k != v && v != q => {
                back.grads([q, k, v], |view, dy, [q, k, v]| {
                    self.run(view, dy, Gradients::Separate { q: target(q), k: target(k), v: target(v) });
                });
            }
            // One tensor in two roles: a call for each, so that the second adds to the first.
            Inputs::Separate { q, k, v } => {
                let none = || Gradients::Separate { q: None, k: None, v: None };
                for (role, input) in [q, k, v].into_iter().enumerate() {
                    back.grad(input, |view, dy, dx, write| {
                        let mut gradients = none();
                        if let Gradients::Separate { q, k, v } = &mut gradients {
                            *[q, k, v][role] = Some((dx, write));
                        }
                        self.run(view, dy, gradients);
                    });
                }
            }
            Inputs::Paired { .. } => unreachable!("[B, T, C] is never [B, S, 2·C]: bug"),
        }
    }

    /// AttnLRP: each factor of a product takes half. So values get `½·Pᵀ·c`, and queries and keys a quarter of
    /// what gradients would be: half at `P·V`, softmax as its linearisation, half at `Q·Kᵀ`.
    fn relevance(&self, back: &mut Backward<'_>, ledger: &mut Ledger) -> Result<(), NnError> {
        ledger.absorbed += inner(&back.dy, back.view().output());
        let view = back.view();
        let layout = self.layout(view);
        // Of each input, where the values begin in its rows.
        let (width, kv_width) = (layout.width(), layout.kv_width());
        let value_parts = match self.inputs {
            Inputs::Fused(qkv) => vec![(qkv, width + kv_width)],
            Inputs::Paired { q, kv } => vec![(q, width), (kv, kv_width)],
            Inputs::Separate { q, k, v } => vec![(q, width), (k, kv_width), (v, 0)],
        };
        let mut sent: Vec<Vec<f32>> =
            value_parts.iter().map(|(var, _)| vec![0.0; view.shape(*var).len()]).collect();
        let write = Write::Overwrite;
        let gradients = match (&self.inputs, &mut sent[..]) {
            (Inputs::Fused(_), [qkv]) => Gradients::Fused(qkv, write),
            (Inputs::Paired { .. }, [q, kv]) => {
                Gradients::Paired { q: Some((&mut q[..], write)), kv: Some((&mut kv[..], write)) }
            }
            (Inputs::Separate { .. }, [q, k, v]) => Gradients::Separate {
                q: Some((&mut q[..], write)),
                k: Some((&mut k[..], write)),
                v: Some((&mut v[..], write)),
            },
            _ => unreachable!("as many parts as inputs: bug"),
        };
        self.run(view, &back.dy, gradients);
        for ((var, values), mut c) in value_parts.into_iter().zip(sent) {
            for row in c.chunks_exact_mut(back.view().shape(var).last()) {
                let (factors, values) = row.split_at_mut(values);
                factors.iter_mut().for_each(|c| *c *= 0.25);
                values.iter_mut().for_each(|c| *c *= 0.5);
            }
            if back.wants(var) {
                ledger.absorbed -= inner(&c, back.view().value(var));
            }
            back.send(var, &c);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
