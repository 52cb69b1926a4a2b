use super::*;
use crate::testing::{close, each_path, numbers};

/// What a test varies; strides follow from `layout`.
#[derive(Clone, Copy, Debug)]
struct Case {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    d: usize,
    t: usize,
    s: usize,
    mask: Mask,
    lens: Option<&'static [u32]>,
    dropout: f32,
}

const CAUSAL: Mask = Mask::Causal { first_position: 0 };

impl Case {
    fn new(batch: usize, heads: usize, d: usize, t: usize, s: usize, mask: Mask) -> Case {
        Case { batch, heads, kv_heads: heads, d, t, s, mask, lens: None, dropout: 0.0 }
    }

    fn shape(&self, q_row: usize, kv_row: usize) -> Attention<'static> {
        let out_row = self.heads * self.d + 3;
        Attention {
            batch: self.batch,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_size: self.d,
            n_queries: self.t,
            n_keys: self.s,
            scale: 0.7,
            mask: self.mask,
            key_lens: self.lens,
            dropout: (self.dropout > 0.0).then_some(Dropout { p: self.dropout, seed: 5, stream: 9 }),
            may_round: false,
            q: Rows::dense(self.t, q_row),
            kv: Rows::dense(self.s, kv_row),
            out: Rows::dense(self.t, out_row),
        }
    }
}

/// Output and dQ in f64, dense `[B, T, H·D]`; dK and dV, `[B, S, H_kv·D]`.
fn twin(a: &Attention<'_>, q: &[f32], k: &[f32], v: &[f32], dout: &[f32]) -> [Vec<f64>; 4] {
    let (d, c, c_kv) = (a.head_size, a.heads * a.head_size, a.kv_heads * a.head_size);
    let (of_queries, of_keys) = (a.batch * a.n_queries * c, a.batch * a.n_keys * c_kv);
    let mut result = [of_queries, of_queries, of_keys, of_keys].map(|n| vec![0.0; n]);
    for b in 0..a.batch {
        for h in 0..a.heads {
            let h_kv = h * a.kv_heads / a.heads;
            for t in 0..a.n_queries {
                let seen = seen(a, b, t);
                let q = &q[b * a.q.batch + t * a.q.row + h * d..][..d];
                let dout = &dout[b * a.out.batch + t * a.out.row + h * d..][..d];
                let row =
                    |x: &[f32], s: usize, i: usize| x[b * a.kv.batch + s * a.kv.row + h_kv * d + i] as f64;
                let scores: Vec<f64> = (seen.iter())
                    .map(|&s| (0..d).map(|i| q[i] as f64 * row(k, s, i)).sum::<f64>() * a.scale as f64)
                    .collect();
                let sum: f64 = scores.iter().map(|s| s.exp()).sum();
                let p: Vec<f64> = scores.iter().map(|s| s.exp() / sum).collect();
                let mut f = vec![1.0; a.n_keys];
                if let Some(dropout) = a.dropout {
                    let first = ((b * a.heads + h) * a.n_queries + t) * a.n_keys;
                    dropout.factors(first as u64, &mut f);
                }
                let dp: Vec<f64> = (seen.iter())
                    .map(|&s| (0..d).map(|i| dout[i] as f64 * row(v, s, i)).sum::<f64>() * f[s] as f64)
                    .collect();
                let delta: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for (j, &s) in seen.iter().enumerate() {
                    let ds = p[j] * (dp[j] - delta) * a.scale as f64;
                    for i in 0..d {
                        let at = (b * a.n_queries + t) * c + h * d + i;
                        let s_at = (b * a.n_keys + s) * c_kv + h_kv * d + i;
                        result[0][at] += p[j] * f[s] as f64 * row(v, s, i);
                        result[1][at] += ds * row(k, s, i);
                        result[2][s_at] += ds * q[i] as f64;
                        result[3][s_at] += p[j] * f[s] as f64 * dout[i] as f64;
                    }
                }
            }
        }
    }
    result
}

/// The definition of the masks, key by key.
fn seen(a: &Attention<'_>, b: usize, t: usize) -> Vec<usize> {
    let n = a.key_lens.map_or(a.n_keys, |lens| lens[b] as usize);
    let sees = |s: usize| match a.mask {
        Mask::Full => true,
        Mask::Causal { first_position } => s <= first_position + t,
        Mask::Window { first_position, size } => s <= first_position + t && s + size > first_position + t,
    };
    (0..n).filter(|&s| sees(s)).collect()
}

#[track_caller]
fn compare(batch: usize, rows: Rows, n: usize, got: &[f32], want: &[f64], before: f64) {
    let c = want.len() / (batch * n).max(1);
    for b in 0..batch {
        for t in 0..n {
            for i in 0..c {
                close(got[b * rows.batch + t * rows.row + i], before + want[(b * n + t) * c + i], 1e-5);
            }
        }
    }
}

#[test]
fn separate_buffers_agree_with_f64() {
    let mut cases = vec![
        Case::new(1, 1, 1, 1, 1, Mask::Full),
        Case::new(2, 3, 8, 7, 5, Mask::Full),
        Case::new(1, 2, 20, 13, 40, Mask::Full),
        Case::new(2, 1, 33, 30, 30, CAUSAL),
        Case::new(1, 4, 32, 64, 64, CAUSAL),
        Case::new(1, 1, 64, 77, 77, CAUSAL),
        Case::new(1, 2, 48, 5, 25, Mask::Causal { first_position: 20 }),
        Case::new(1, 2, 16, 0, 9, Mask::Full),
    ];
    cases.push(Case { lens: Some(&[9, 1, 0]), ..Case::new(3, 2, 12, 11, 9, Mask::Full) });
    cases.push(Case { lens: Some(&[40, 3]), ..Case::new(2, 2, 8, 40, 40, CAUSAL) });
    cases.push(Case { dropout: 0.3, lens: Some(&[31, 50]), ..Case::new(2, 2, 24, 50, 50, CAUSAL) });
    let window = |first_position, size| Mask::Window { first_position, size };
    cases.push(Case { kv_heads: 2, ..Case::new(2, 6, 24, 37, 37, CAUSAL) });
    cases.push(Case { kv_heads: 1, dropout: 0.2, ..Case::new(2, 4, 17, 33, 33, window(0, 9)) });
    cases.push(Case { kv_heads: 3, lens: Some(&[70, 11]), ..Case::new(2, 3, 16, 90, 90, window(0, 40)) });
    cases.push(Case::new(1, 2, 64, 50, 150, window(100, 1)));
    cases.push(Case { kv_heads: 1, dropout: 0.1, ..Case::new(1, 2, 8, 530, 530, window(0, 270)) });
    cases.push(Case { kv_heads: 1, ..Case::new(1, 2, 8, 100, 100, window(0, 1000)) });
    cases.push(Case { dropout: 0.5, ..Case::new(2, 2, 16, 9, 35, Mask::Full) });
    each_path(|| {
        for case in &cases {
            let c = case.heads * case.d;
            let a = case.shape(c + 1, case.kv_heads * case.d + 2);
            let (q, k, v) = (
                numbers(case.batch * a.q.batch, 1),
                numbers(case.batch * a.kv.batch, 2),
                numbers(case.batch * a.kv.batch, 3),
            );
            let dout = numbers(case.batch * a.out.batch, 4);
            let (mut out, mut lse) = (vec![9.0; dout.len()], vec![0.0; case.batch * case.heads * case.t]);
            attention(&a, &q, &k, &v, &mut out, Some(&mut lse));
            let want = twin(&a, &q, &k, &v, &dout);
            compare(case.batch, a.out, case.t, &out, &want[0], 0.0);
            assert!(out.chunks_exact(a.out.row).all(|row| row[c..] == [9.0; 3]), "gaps are left alone");
            for (write, before) in [(Write::Overwrite, 0.0), (Write::Add, 1.0)] {
                let start = if write == Write::Add { 1.0 } else { f32::NAN };
                let (mut dq, mut dk, mut dv) =
                    (vec![start; q.len()], vec![start; k.len()], vec![start; v.len()]);
                let gradients = Gradients::Separate {
                    q: Some((&mut dq, write)),
                    k: Some((&mut dk, write)),
                    v: Some((&mut dv, write)),
                };
                attention_backward(&a, &q, &k, &v, &out, &lse, &dout, gradients);
                compare(case.batch, a.q, case.t, &dq, &want[1], before);
                compare(case.batch, a.kv, case.s, &dk, &want[2], before);
                compare(case.batch, a.kv, case.s, &dv, &want[3], before);
            }
        }
    });
}

#[test]
fn fused_and_paired_buffers_give_the_bits_of_separate_ones() {
    each_path(|| {
        let case = Case { lens: Some(&[37, 20]), dropout: 0.1, ..Case::new(2, 3, 16, 37, 37, CAUSAL) };
        let c = case.heads * case.d;
        let fused = case.shape(3 * c, 3 * c);
        let qkv = numbers(case.batch * fused.q.batch, 1);
        let (q, k, v) = (&qkv[..], &qkv[c..], &qkv[2 * c..]);
        let dout = numbers(case.batch * fused.out.batch, 2);
        let (mut out, mut lse) = (vec![0.0; dout.len()], vec![0.0; case.batch * case.heads * case.t]);
        attention(&fused, q, k, v, &mut out, Some(&mut lse));
        let mut dqkv = vec![f32::NAN; qkv.len()];
        attention_backward(&fused, q, k, v, &out, &lse, &dout, Gradients::Fused(&mut dqkv, Write::Overwrite));

        let rows = case.batch * case.t;
        let cut = |x: &[f32], from: usize, n: usize| -> Vec<f32> {
            (0..rows).flat_map(|r| x[r * 3 * c + from..][..n].to_vec()).collect()
        };
        let paired = case.shape(c, 2 * c);
        let (q, kv) = (cut(&qkv, 0, c), cut(&qkv, c, 2 * c));
        let (mut out2, mut lse2) = (vec![0.0; dout.len()], vec![0.0; lse.len()]);
        attention(&paired, &q, &kv, &kv[c..], &mut out2, Some(&mut lse2));
        assert_eq!((&out, &lse), (&out2, &lse2));
        let (mut dq, mut dkv) = (vec![f32::NAN; q.len()], vec![f32::NAN; kv.len()]);
        let gradients = Gradients::Paired {
            q: Some((&mut dq, Write::Overwrite)),
            kv: Some((&mut dkv, Write::Overwrite)),
        };
        attention_backward(&paired, &q, &kv, &kv[c..], &out, &lse, &dout, gradients);
        assert_eq!(dq, cut(&dqkv, 0, c));
        assert_eq!(dkv, cut(&dqkv, c, 2 * c));
    });
}

#[test]
fn decoding_against_a_cache_repeats_the_bits_of_the_whole_sequence() {
    each_path(|| {
        for d in [32, 40, 64] {
            let case = Case::new(1, 2, d, 70, 70, CAUSAL);
            let c = case.heads * case.d;
            let whole = case.shape(3 * c, 3 * c);
            let qkv = numbers(whole.q.batch, 1);
            let mut out = vec![0.0; whole.out.batch];
            attention(&whole, &qkv, &qkv[c..], &qkv[2 * c..], &mut out, None);
            // A cache with room for more, filled with what must never be read.
            let capacity = 96;
            let (mut k, mut v) = (vec![f32::NAN; capacity * c], vec![f32::NAN; capacity * c]);
            for (first, n) in (0..20).map(|t| (t, 1)).chain([(20, 7), (27, 30), (57, 1), (58, 12)]) {
                for t in first..first + n {
                    k[t * c..][..c].copy_from_slice(&qkv[t * 3 * c + c..][..c]);
                    v[t * c..][..c].copy_from_slice(&qkv[t * 3 * c + 2 * c..][..c]);
                }
                let step = Attention {
                    n_queries: n,
                    n_keys: capacity,
                    mask: Mask::Causal { first_position: first },
                    kv: Rows::dense(capacity, c),
                    ..whole
                };
                let mut rows = vec![0.0; n * whole.out.row];
                attention(&step, &qkv[first * 3 * c..], &k, &v, &mut rows, None);
                assert_eq!(rows, out[first * whole.out.row..][..rows.len()], "d {d}, position {first}");
            }
        }
    });
}

#[test]
fn one_decode_step_of_many_examples_gives_each_the_bits_it_has_alone() {
    each_path(|| {
        let lens: &[u32] = &[1, 40, 17, 96];
        let case = Case { lens: Some(lens), ..Case::new(4, 2, 32, 1, 96, Mask::Full) };
        let c = case.heads * case.d;
        let a = case.shape(c, c);
        let (q, k, v) = (numbers(4 * c, 1), numbers(4 * 96 * c, 2), numbers(4 * 96 * c, 3));
        let mut all = vec![0.0; 4 * a.out.batch];
        attention(&a, &q, &k, &v, &mut all, None);
        for b in 0..4 {
            let alone = Attention { batch: 1, n_keys: lens[b] as usize, key_lens: None, ..a };
            let mut out = vec![0.0; a.out.batch];
            attention(&alone, &q[b * c..], &k[b * 96 * c..], &v[b * 96 * c..], &mut out, None);
            assert_eq!(out, all[b * a.out.batch..][..a.out.batch]);
        }
    });
}

#[test]
fn what_a_query_may_not_see_does_not_reach_it_even_when_it_is_not_a_number() {
    each_path(|| {
        let case = Case::new(1, 1, 16, 33, 33, CAUSAL);
        let a = case.shape(48, 48);
        let mut qkv = numbers(a.q.batch, 1);
        let run = |qkv: &[f32]| {
            let mut out = vec![0.0; a.out.batch];
            attention(&a, qkv, &qkv[16..], &qkv[32..], &mut out, None);
            out
        };
        let before = run(&qkv);
        qkv[20 * 48..].fill(f32::NAN);
        let after = run(&qkv);
        assert_eq!(before[..20 * a.out.row], after[..20 * a.out.row]);
        assert!(after[20 * a.out.row].is_nan(), "and what it sees is not hidden");
    });
}

/// The nearest bf16 numbers.
fn rounded(x: Vec<f32>) -> Vec<f32> {
    let to_bf16 = |x: f32| f32::from_bits((x.to_bits() + 0x7fff + (x.to_bits() >> 16 & 1)) & 0xffff_0000);
    x.into_iter().map(to_bf16).collect()
}

#[test]
fn texts_that_may_be_rounded_agree_with_f64_of_rounded_inputs_whatever_padding_follows() {
    let cases = [
        Case { lens: Some(&[70, 1, 0, 33]), ..Case::new(4, 2, 32, 70, 70, Mask::Full) },
        Case { kv_heads: 1, ..Case::new(2, 3, 64, 33, 300, Mask::Full) },
        Case { lens: Some(&[16, 130]), ..Case::new(2, 1, 96, 1, 130, Mask::Full) },
        Case { lens: Some(&[31]), ..Case::new(1, 2, 24, 40, 31, Mask::Full) },
        Case::new(1, 2, 32, 40, 40, CAUSAL),
        Case { dropout: 0.1, ..Case::new(1, 2, 32, 40, 40, Mask::Full) },
    ];
    each_path(|| {
        for case in &cases {
            let exact = case.shape(case.heads * case.d + 1, case.kv_heads * case.d + 2);
            let q = rounded(numbers(case.batch * exact.q.batch, 1));
            let mut kv = [2, 3].map(|seed| rounded(numbers(case.batch * exact.kv.batch, seed)));
            let want = &twin(&exact, &q, &kv[0], &kv[1], &vec![0.0; case.batch * exact.out.batch])[0];
            let a = Attention { may_round: true, ..exact };
            let run = |a: &Attention<'_>, [k, v]: &[Vec<f32>; 2]| {
                let mut out = vec![9.0; case.batch * a.out.batch];
                attention(a, &q, k, v, &mut out, None);
                out
            };
            let got = run(&a, &kv);
            for (b, got) in got.chunks_exact(a.out.batch).enumerate() {
                for (t, got) in got.chunks_exact(a.out.row).enumerate() {
                    let width = case.heads * case.d;
                    for (i, got) in got[..width].iter().enumerate() {
                        close(*got, want[(b * case.t + t) * width + i], 4e-3);
                    }
                    assert_eq!(got[width..], [9.0; 3], "gaps are left alone");
                }
            }
            let in_tiles = cpu::path() == CpuPath::Amx
                && case.d % 32 == 0
                && case.mask == Mask::Full
                && case.dropout == 0.0;
            assert_eq!(run(&exact, &kv) != got, in_tiles, "only there it is another way: {case:?}");
            // What stands where no key is reaches nobody.
            for (b, &n) in case.lens.unwrap_or_default().iter().enumerate() {
                for x in &mut kv {
                    x[b * a.kv.batch + n as usize * a.kv.row..(b + 1) * a.kv.batch].fill(f32::NAN);
                }
            }
            assert_eq!(run(&a, &kv), got);
        }
    });
}

#[test]
fn a_text_that_may_be_rounded_has_the_bits_it_has_without_padding() {
    each_path(|| {
        let case = Case { lens: Some(&[45, 90]), ..Case::new(2, 2, 32, 90, 90, Mask::Full) };
        let c = case.heads * case.d;
        let a = Attention { may_round: true, ..case.shape(3 * c, 3 * c) };
        let qkv = numbers(2 * a.q.batch, 1);
        let mut out = vec![0.0; 2 * a.out.batch];
        attention(&a, &qkv, &qkv[c..], &qkv[2 * c..], &mut out, None);
        let short = Case::new(1, 2, 32, 45, 45, Mask::Full).shape(3 * c, 3 * c);
        let short = Attention { may_round: true, ..short };
        let mut alone = vec![0.0; short.out.batch];
        attention(&short, &qkv, &qkv[c..], &qkv[2 * c..], &mut alone, None);
        assert_eq!(alone, out[..alone.len()]);
    });
}

#[test]
#[should_panic(expected = "a key length exceeds 4")]
fn a_key_length_beyond_the_keys_is_refused() {
    let a = Case { lens: Some(&[5]), ..Case::new(1, 1, 4, 2, 4, Mask::Full) }.shape(4, 4);
    attention(&a, &[0.0; 8], &[0.0; 16], &[0.0; 16], &mut [0.0; 14], None);
}
