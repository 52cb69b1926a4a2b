//! Causal self-attention of new positions to all that a sequence has seen, kept in a [`KvCache`].
//!
//! Serving only: it has no backward and refuses under a tape that records. The bits of a row are those of
//! [`Tape::self_attention`] over the whole sequence.

use super::Op;
use super::attention::Mask;
use crate::tape::{Recording, Tape, Var};
use crate::{NnError, Shape};
use lyceum_kernels::attention::{Attention, Rows, attention};

/// Keys and values of the sequences that are being generated: a slot each, with room for `capacity`
/// positions in every layer.
#[derive(Debug)]
pub struct KvCache {
    width: usize,
    capacity: usize,
    /// Per layer: keys and values, `[slots, capacity, width]`.
    layers: Vec<[Vec<f32>; 2]>,
    lens: Vec<u32>,
}

impl KvCache {
    /// `width` is the number of floats of one position's keys (heads · head size).
    pub fn new(n_layers: usize, n_slots: usize, capacity: usize, width: usize) -> KvCache {
        let buffer = || vec![0.0; n_slots * capacity * width];
        let layers = (0..n_layers).map(|_| [buffer(), buffer()]).collect();
        KvCache { width, capacity, layers, lens: vec![0; n_slots] }
    }

    pub fn n_slots(&self) -> usize {
        self.lens.len()
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Positions that `slot` holds.
    pub fn len(&self, slot: usize) -> usize {
        self.lens[slot] as usize
    }

    /// Whether `slot` holds nothing.
    pub fn is_empty(&self, slot: usize) -> bool {
        self.lens[slot] == 0
    }

    pub fn bytes(&self) -> usize {
        self.layers.iter().flatten().map(|buffer| size_of_val(&buffer[..])).sum()
    }

    /// Keeps the first `len` positions of `slot`; 0 frees it for another sequence.
    pub fn truncate(&mut self, slot: usize, len: usize) {
        self.lens[slot] = self.lens[slot].min(len as u32);
    }

    /// Counts `n` positions that every layer has written by [`Tape::cached_attention`].
    ///
    /// # Panics
    /// Beyond the capacity.
    pub fn advance(&mut self, slot: usize, n: usize) {
        assert!(self.len(slot) + n <= self.capacity, "kv cache: slot {slot} is full: bug");
        self.lens[slot] += n as u32;
    }
}

impl Tape<'_> {
    /// `qkv` `[B, T, 3·C]` holds T new positions of each of B sequences, which live in `slots`; their keys
    /// and values are written behind what the slots hold, and each query sees all up to itself. Value
    /// `[B, T, C]`. Call [`KvCache::advance`] once all layers are done.
    pub fn cached_attention(
        &mut self,
        qkv: Var,
        heads: usize,
        cache: &mut KvCache,
        layer: usize,
        slots: &[usize],
    ) -> Result<Var, NnError> {
        const OP: &str = "cached_attention";
        if self.recording() != Recording::Off {
            return Err(NnError::NoBackward { op: OP });
        }
        let (shape, width) = (self.shape(qkv), cache.width);
        if shape.rank() != 3 || shape[2] != 3 * width || shape[0] != slots.len() {
            let want = format!("[{}, T, {}]", slots.len(), 3 * width);
            return Err(NnError::shape(OP, "input", shape, want));
        }
        if heads == 0 || !width.is_multiple_of(heads) {
            let want = format!("a divisor of the width {width}");
            return Err(NnError::shape(OP, "number of heads", Shape::new(&[heads]), want));
        }
        let (n_new, capacity) = (shape[1], cache.capacity);
        for (position, &slot) in slots.iter().enumerate() {
            if slot >= cache.n_slots() || slots[..position].contains(&slot) {
                let size = cache.n_slots();
                return Err(NnError::Index { op: OP, index: slot as i64, position, size });
            }
            if cache.len(slot) + n_new > capacity {
                let want =
                    format!("at most {} positions, the room in slot {slot}", capacity - cache.len(slot));
                return Err(NnError::shape(OP, "input", shape, want));
            }
        }
        let mut out = self.take(slots.len() * n_new * width);
        let x = self.value(qkv);
        let head_size = width / heads;
        let [keys, values] = &mut cache.layers[layer];
        for (b, &slot) in slots.iter().enumerate() {
            let (x, first) = (&x[b * n_new * 3 * width..], cache.lens[slot] as usize);
            let room = slot * capacity * width..(slot + 1) * capacity * width;
            let (keys, values) = (&mut keys[room.clone()], &mut values[room]);
            for (t, row) in x.chunks_exact(3 * width).take(n_new).enumerate() {
                let at = (first + t) * width..(first + t + 1) * width;
                keys[at.clone()].copy_from_slice(&row[width..2 * width]);
                values[at].copy_from_slice(&row[2 * width..]);
            }
            let step = Attention {
                batch: 1,
                heads,
                kv_heads: heads,
                head_size,
                n_queries: n_new,
                n_keys: first + n_new,
                scale: 1.0 / (head_size as f32).sqrt(),
                mask: Mask::Causal { first_position: first },
                key_lens: None,
                dropout: None,
                q: Rows::dense(n_new, 3 * width),
                kv: Rows::dense(capacity, width),
                out: Rows::dense(n_new, width),
            };
            attention(&step, x, keys, values, &mut out[b * n_new * width..][..n_new * width], None);
        }
        Ok(self.push(Op::Leaf, Shape::new(&[slots.len(), n_new, width]), out, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::attention::AttentionOptions;
    use crate::{Examples, Params, Workspace};
    use lyceum_kernels::cpu;

    fn tape<'a>(ws: &'a mut Workspace, params: &'a Params) -> Tape<'a> {
        Tape::new(ws, params, Recording::Off, Examples::Even(1))
    }

    #[test]
    fn sequences_in_slots_get_the_bits_of_whole_sequences() {
        let (heads, width, n) = (2, 24, 40);
        let number = |i: usize| ((i * 7919 % 1013) as f32 / 1013.0 - 0.5) * 2.0;
        let rows: Vec<Vec<f32>> =
            (0..2).map(|s| (0..n * 3 * width).map(|i| number(i + 31 * s)).collect()).collect();
        let (params, mut ws) = (Params::new(), Workspace::new());
        for &path in cpu::available() {
            cpu::with_path(path, || {
                let want: Vec<Vec<f32>> = rows
                    .iter()
                    .map(|x| {
                        let mut tape = tape(&mut ws, &params);
                        let x = tape.input(&[1, n, 3 * width], x).unwrap();
                        let y = tape.self_attention(x, AttentionOptions::causal(heads)).unwrap();
                        tape.value(y).to_vec()
                    })
                    .collect();
                let mut cache = KvCache::new(1, 3, 50, width);
                // Slot 2 first reads 13 positions, slot 0 five; then they step together.
                let mut run = |slots: &[(usize, usize)], n_new: usize| {
                    let mut x = Vec::new();
                    for &(slot, sequence) in slots {
                        x.extend_from_slice(
                            &rows[sequence][cache.len(slot) * 3 * width..][..n_new * 3 * width],
                        );
                    }
                    let mut tape = tape(&mut ws, &params);
                    let x = tape.input(&[slots.len(), n_new, 3 * width], &x).unwrap();
                    let numbers: Vec<usize> = slots.iter().map(|s| s.0).collect();
                    let y = tape.cached_attention(x, heads, &mut cache, 0, &numbers).unwrap();
                    for (b, &(slot, sequence)) in slots.iter().enumerate() {
                        let first = cache.len(slot) * width;
                        let got = &tape.value(y)[b * n_new * width..][..n_new * width];
                        assert_eq!(got, &want[sequence][first..][..n_new * width]);
                        cache.advance(slot, n_new);
                    }
                };
                run(&[(2, 1)], 13);
                run(&[(0, 0)], 5);
                for _ in 0..20 {
                    run(&[(0, 0), (2, 1)], 1);
                }
            });
        }
    }

    #[test]
    fn it_refuses_to_be_recorded_and_to_overflow() {
        let (params, mut ws) = (Params::new(), Workspace::new());
        let mut cache = KvCache::new(1, 1, 2, 4);
        let run = |ws: &mut Workspace, recording, n: usize, slots: &[usize], cache: &mut KvCache| {
            let mut tape = Tape::new(ws, &params, recording, Examples::Even(1));
            let x = tape.input(&[slots.len(), n, 12], &vec![0.0; slots.len() * n * 12]).unwrap();
            tape.cached_attention(x, 2, cache, 0, slots).map(|_| ()).map_err(|e| e.to_string())
        };
        assert!(run(&mut ws, Recording::Off, 2, &[0], &mut cache).is_ok());
        let error = run(&mut ws, Recording::Weights, 2, &[0], &mut cache).unwrap_err();
        assert!(error.contains("has no backward"), "{error}");
        let error = run(&mut ws, Recording::Off, 3, &[0], &mut cache).unwrap_err();
        assert!(error.contains("at most 2 positions"), "{error}");
        assert!(run(&mut ws, Recording::Off, 1, &[1], &mut cache).is_err());
        assert!(run(&mut ws, Recording::Off, 1, &[0, 0], &mut cache).is_err(), "a slot holds one sequence");
    }
}
