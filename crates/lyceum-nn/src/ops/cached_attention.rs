//! Causal self-attention of new positions of many sequences to all that each has seen, kept in the pages of a
//! [`KvPool`].
//!
//! Serving only: it has no backward and refuses under a tape that records. With pages of f32 the bits of a row
//! are those of [`Tape::self_attention`] over the whole sequence, but where rows of its span's class have a way of their
//! own.

use super::Op;
use crate::tape::{Recording, Tape, Var};
use crate::{NnError, Shape};
use lyceum_kernels::attention::paged::{PagedAttention, paged_attention};

pub use lyceum_kernels::attention::paged::{
    PAGE, Pages as KvPool, PagesShape as KvShape, Span, Storage as KvStorage,
};

/// What cached attention is beside its inputs; heads of keys and the head size are the pool's.
#[derive(Clone, Copy, Debug)]
pub struct CachedOptions {
    /// Heads of queries.
    pub heads: usize,
    /// `1 / √D` where None.
    pub scale: Option<f32>,
    /// Keys that a query sees, its own among them; None: all before it.
    pub window: Option<usize>,
}

impl CachedOptions {
    /// All keys, the usual scale.
    pub fn causal(heads: usize) -> Self {
        CachedOptions { heads, scale: None, window: None }
    }
}

impl Tape<'_> {
    /// `qkv` `[1, R, (H + 2·H_kv)·D]` holds new positions of some sequences, the rows of each a span, in order
    /// and without gaps. Their keys and values are written to the spans' pages, and each query sees all up to
    /// itself. Value `[1, R, H·D]`.
    pub fn cached_attention(
        &mut self,
        qkv: Var,
        options: CachedOptions,
        pool: &mut KvPool,
        layer: usize,
        spans: &[Span<'_>],
    ) -> Result<Var, NnError> {
        self.remember(qkv, options, pool, layer, spans)?;
        self.look_back(qkv, options, pool, layer, spans)
    }

    /// The first half of [`cached_attention`](Self::cached_attention): the keys and values of `qkv` are written.
    pub fn remember(
        &mut self,
        qkv: Var,
        options: CachedOptions,
        pool: &mut KvPool,
        layer: usize,
        spans: &[Span<'_>],
    ) -> Result<(), NnError> {
        let keys_at = self.checked(qkv, options, pool, layer, spans)?;
        let row = self.shape(qkv).last();
        pool.write(layer, spans, self.value(qkv), row, keys_at);
        Ok(())
    }

    /// The second half: what the queries of `qkv` see. Its keys and values were written before, maybe with others that
    /// nobody asks for: the spans are of the rows of `qkv`.
    pub fn look_back(
        &mut self,
        qkv: Var,
        options: CachedOptions,
        pool: &KvPool,
        layer: usize,
        spans: &[Span<'_>],
    ) -> Result<Var, NnError> {
        let width = self.checked(qkv, options, pool, layer, spans)?;
        let (rows, head_size) = (self.shape(qkv)[1], pool.shape().head_size);
        let mut out = self.take(rows * width);
        let asked = PagedAttention {
            heads: options.heads,
            scale: options.scale.unwrap_or(1.0 / (head_size as f32).sqrt()),
            window: options.window,
            q_row: self.shape(qkv).last(),
            out_row: width,
        };
        paged_attention(pool, layer, &asked, spans, self.value(qkv), &mut out);
        Ok(self.push(Op::Leaf, Shape::new(&[1, rows, width]), out, false))
    }

    /// Where the keys of a row begin: the width of its queries.
    fn checked(
        &self,
        qkv: Var,
        options: CachedOptions,
        pool: &KvPool,
        layer: usize,
        spans: &[Span<'_>],
    ) -> Result<usize, NnError> {
        if self.recording() != Recording::Off {
            return Err(NnError::NoBackward { op: OP });
        }
        check(self.shape(qkv), options, pool, layer, spans)?;
        Ok(options.heads * pool.shape().head_size)
    }
}

const OP: &str = "cached_attention";

fn check(
    shape: Shape,
    options: CachedOptions,
    pool: &KvPool,
    layer: usize,
    spans: &[Span<'_>],
) -> Result<(), NnError> {
    let KvShape { n_layers, n_pages, kv_heads, head_size, .. } = pool.shape();
    let index =
        |index: usize, position, size| Err(NnError::Index { op: OP, index: index as i64, position, size });
    if options.heads == 0 || !options.heads.is_multiple_of(kv_heads) {
        let want = format!("a multiple of the pool's {kv_heads} heads of keys");
        return Err(NnError::shape(OP, "number of heads", Shape::new(&[options.heads]), want));
    }
    if options.window == Some(0) {
        return Err(NnError::shape(OP, "window", Shape::new(&[0]), "at least the query itself"));
    }
    let rows: usize = spans.iter().map(|span| span.n_rows).sum();
    let width = (options.heads + 2 * kv_heads) * head_size;
    if shape.rank() != 3 || shape[0] != 1 || shape[1] != rows || shape[2] != width {
        return Err(NnError::shape(OP, "input", shape, format!("[1, {rows}, {width}]")));
    }
    if layer >= n_layers {
        return index(layer, 0, n_layers);
    }
    let mut first_row = 0;
    for (i, span) in spans.iter().enumerate() {
        if span.first_row != first_row {
            return index(span.first_row, i, first_row + 1);
        }
        first_row += span.n_rows;
        if span.first_position + span.n_rows > span.pages.len() * PAGE {
            let want =
                format!("at most {} positions, the room in the pages of span {i}", span.pages.len() * PAGE);
            return Err(NnError::shape(OP, "span", Shape::new(&[span.first_position + span.n_rows]), want));
        }
        if let Some((at, &page)) = span.pages.iter().enumerate().find(|&(_, &page)| page as usize >= n_pages)
        {
            return index(page as usize, at, n_pages);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::attention::AttentionOptions;
    use crate::{Examples, Params, Workspace};
    use lyceum_kernels::class::RowClass;
    use lyceum_kernels::cpu;

    fn tape<'a>(ws: &'a mut Workspace, params: &'a Params) -> Tape<'a> {
        Tape::new(ws, params, Recording::Off, Examples::Even(1))
    }

    fn pool(n_pages: usize, kv_heads: usize, head_size: usize) -> KvPool {
        KvPool::new(KvShape { n_layers: 1, n_pages, kv_heads, head_size, storage: KvStorage::F32 })
    }

    #[test]
    fn sequences_in_pages_get_the_bits_of_whole_sequences() {
        let (heads, kv_heads, d, n) = (4, 2, 12, 40);
        let width = (heads + 2 * kv_heads) * d;
        let number = |i: usize| ((i * 7919 % 1013) as f32 / 1013.0 - 0.5) * 2.0;
        let rows: Vec<Vec<f32>> =
            (0..2).map(|s| (0..n * width).map(|i| number(i + 31 * s)).collect()).collect();
        let (params, mut ws) = (Params::new(), Workspace::new());
        for &path in cpu::available() {
            cpu::with_path(path, || {
                let whole = |ws: &mut Workspace, x: &[f32]| {
                    let mut tape = tape(ws, &params);
                    let x = tape.input(&[1, n, width], x).unwrap();
                    let y = tape.self_attention(x, AttentionOptions::grouped(heads, kv_heads, Some(25)));
                    tape.value(y.unwrap()).to_vec()
                };
                let want: Vec<Vec<f32>> = rows.iter().map(|x| whole(&mut ws, x)).collect();
                let mut pool = pool(5, kv_heads, d);
                let (pages, mut seen) = ([[4, 0], [1, 3]], [0; 2]);
                // The second first reads 13 positions, the first five; then they step together.
                for pass in [vec![(1, 13)], vec![(0, 5)]].into_iter().chain(vec![vec![(0, 1), (1, 1)]; 20]) {
                    let (mut x, mut spans) = (Vec::new(), Vec::new());
                    for &(i, n_rows) in &pass {
                        let (first_row, first_position) = (x.len() / width, seen[i]);
                        let (pages, class) = (&pages[i][..], RowClass::Step);
                        spans.push(Span { first_row, n_rows, first_position, pages, class });
                        x.extend_from_slice(&rows[i][seen[i] * width..][..n_rows * width]);
                    }
                    let mut tape = tape(&mut ws, &params);
                    let x = tape.input(&[1, x.len() / width, width], &x).unwrap();
                    let options = CachedOptions { window: Some(25), ..CachedOptions::causal(heads) };
                    let y = tape.cached_attention(x, options, &mut pool, 0, &spans).unwrap();
                    for (span, &(i, n_rows)) in spans.iter().zip(&pass) {
                        let c = heads * d;
                        let got = &tape.value(y)[span.first_row * c..][..n_rows * c];
                        assert_eq!(got, &want[i][seen[i] * c..][..n_rows * c]);
                        seen[i] += n_rows;
                    }
                }
            });
        }
    }

    #[test]
    fn it_refuses_to_be_recorded_and_what_does_not_fit() {
        let (params, mut ws) = (Params::new(), Workspace::new());
        let mut pool = pool(2, 2, 2);
        let mut run = |recording, first_position: usize, pages: &[u32], options| {
            let mut tape = Tape::new(&mut ws, &params, recording, Examples::Even(1));
            let x = tape.input(&[1, 2, 12], &[0.0; 24]).unwrap();
            let span = Span { first_row: 0, n_rows: 2, first_position, pages, class: RowClass::Step };
            tape.cached_attention(x, options, &mut pool, 0, &[span]).map(|_| ()).map_err(|e| e.to_string())
        };
        let causal = CachedOptions::causal(2);
        assert!(run(Recording::Off, 30, &[1], causal).is_ok());
        let refused = [
            (run(Recording::Weights, 30, &[1], causal), "has no backward"),
            (run(Recording::Off, 31, &[1], causal), "at most 32 positions"),
            (run(Recording::Off, 0, &[2], causal), "index 2 at position 0"),
            (run(Recording::Off, 0, &[1], CachedOptions::causal(3)), "multiple of the pool's 2 heads"),
            (run(Recording::Off, 0, &[1], CachedOptions { window: Some(0), ..causal }), "window"),
        ];
        for (got, want) in refused {
            assert!(got.as_ref().is_err_and(|error| error.contains(want)), "{got:?}: {want}");
        }
    }
}
