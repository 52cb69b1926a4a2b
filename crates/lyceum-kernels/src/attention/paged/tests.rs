use super::*;
use crate::attention::{Attention, Rows, attention};
use crate::testing::{close, each_path, numbers};

/// Some sequences: `[q | k | v]` rows of each, and the whole answer to each.
struct Case {
    heads: usize,
    kv_heads: usize,
    d: usize,
    window: Option<usize>,
}

impl Case {
    fn row(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.d
    }

    fn keys_at(&self) -> usize {
        self.heads * self.d
    }

    fn asked(&self) -> PagedAttention {
        let (q_row, out_row) = (self.row(), self.heads * self.d + 1);
        PagedAttention { heads: self.heads, scale: 0.6, window: self.window, q_row, out_row }
    }

    /// What [`attention`] says of a whole sequence of `n` rows, without gaps.
    fn whole(&self, qkv: &[f32], n: usize) -> Vec<f32> {
        let mask = match self.window {
            None => Mask::Causal { first_position: 0 },
            Some(size) => Mask::Window { first_position: 0, size },
        };
        let shape = Attention {
            batch: 1,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_size: self.d,
            n_queries: n,
            n_keys: n,
            scale: 0.6,
            mask,
            key_lens: None,
            dropout: None,
            may_round: false,
            q: Rows::dense(n, self.row()),
            kv: Rows::dense(n, self.row()),
            out: Rows::dense(n, self.heads * self.d),
        };
        let mut out = vec![0.0; n * self.heads * self.d];
        let (k, v) = (&qkv[self.keys_at()..], &qkv[self.keys_at() + self.kv_heads * self.d..]);
        attention(&shape, qkv, k, v, &mut out, None);
        out
    }

    /// Runs passes of `(sequence, rows)` until all is read; the answers, without gaps.
    fn paged(
        &self,
        (storage, class): (Storage, RowClass),
        qkv: &[Vec<f32>],
        passes: &[Vec<(usize, usize)>],
    ) -> Vec<Vec<f32>> {
        let (n, width) = (qkv.len(), self.heads * self.d);
        let n_pages = qkv.iter().map(|x| (x.len() / self.row()).div_ceil(PAGE)).sum::<usize>() + 3;
        let mut pages = Pages::new(PagesShape {
            n_layers: 2,
            n_pages,
            kv_heads: self.kv_heads,
            head_size: self.d,
            storage,
        });
        // What was never written must never be read.
        if let Data::F32(data) = &mut pages.data {
            data.fill(f32::NAN);
        }
        // Pages are handed out from the last, in turns.
        let mut free: Vec<u32> = (0..n_pages as u32).collect();
        let (mut tables, mut seen) = (vec![Vec::new(); n], vec![0; n]);
        let mut answers = vec![Vec::new(); n];
        for pass in passes {
            let mut x = numbers(3 * self.row(), 77);
            let mut first_row = 3;
            let mut rows = Vec::new();
            for &(i, n_rows) in pass {
                x.extend_from_slice(&qkv[i][seen[i] * self.row()..][..n_rows * self.row()]);
                while tables[i].len() * PAGE < seen[i] + n_rows {
                    tables[i].push(free.pop().unwrap());
                }
                rows.push((i, first_row, n_rows));
                first_row += n_rows;
            }
            let span = |&(i, first_row, n_rows): &(usize, usize, usize)| Span {
                first_row,
                n_rows,
                first_position: seen[i],
                pages: &tables[i],
                class,
            };
            let spans: Vec<Span<'_>> = rows.iter().map(span).collect();
            pages.write(1, &spans, &x, self.row(), self.keys_at());
            let mut out = vec![9.0; first_row * (width + 1)];
            paged_attention(&pages, 1, &self.asked(), &spans, &x, &mut out);
            assert!(out[..3 * (width + 1)].iter().all(|&x| x == 9.0), "rows of no span are left alone");
            for &(i, first, n_rows) in &rows {
                for row in out[first * (width + 1)..].chunks_exact(width + 1).take(n_rows) {
                    answers[i].extend_from_slice(&row[..width]);
                    assert_eq!(row[width], 9.0, "gaps are left alone");
                }
                seen[i] += n_rows;
            }
        }
        answers
    }
}

const CASES: [Case; 5] = [
    Case { heads: 2, kv_heads: 2, d: 16, window: None },
    Case { heads: 6, kv_heads: 2, d: 24, window: None },
    Case { heads: 7, kv_heads: 1, d: 33, window: None },
    Case { heads: 4, kv_heads: 2, d: 64, window: Some(300) },
    Case { heads: 2, kv_heads: 1, d: 8, window: Some(3) },
];

/// Lengths 600 and 43: one pass each; pieces and single tokens, mixed; the second sequence alone first.
fn ways() -> [Vec<Vec<(usize, usize)>>; 3] {
    let tokens = |n: usize| std::iter::repeat_n(vec![(0, 1)], n);
    let mixed = [vec![(0, 200), (1, 5)], vec![(1, 1), (0, 1)], vec![(1, 37), (0, 310)]];
    [
        vec![vec![(0, 600), (1, 43)]],
        mixed.into_iter().chain(tokens(89)).collect(),
        [vec![(1, 43)], vec![(0, 7)], vec![(0, 500)]].into_iter().chain(tokens(93)).collect(),
    ]
}

#[test]
fn pages_of_floats_give_the_bits_of_the_whole_sequence_however_it_is_cut() {
    each_path(|| {
        for case in &CASES {
            let qkv = [numbers(600 * case.row(), 1), numbers(43 * case.row(), 2)];
            let want = [case.whole(&qkv[0], 600), case.whole(&qkv[1], 43)];
            for (i, way) in ways().iter().enumerate() {
                let got = case.paged((Storage::F32, RowClass::Step), &qkv, way);
                assert!(got == want, "{} heads, window {:?}, way {i}", case.heads, case.window);
            }
        }
    });
}

#[test]
fn rounded_pages_are_near_and_as_indifferent_to_cuts() {
    each_path(|| {
        for (storage, bound) in [(Storage::Bf16, 6e-3), (Storage::Int8, 1.2e-2)] {
            for case in &CASES {
                let qkv = [numbers(600 * case.row(), 1), numbers(43 * case.row(), 2)];
                let want = [case.whole(&qkv[0], 600), case.whole(&qkv[1], 43)];
                let got = case.paged((storage, RowClass::Step), &qkv, &ways()[0]);
                for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
                    close(*got, *want as f64, bound);
                }
                assert!(want != got[..], "rounding is visible");
                for way in &ways()[1..] {
                    assert!(case.paged((storage, RowClass::Step), &qkv, way) == got);
                }
            }
        }
    });
}

/// [`CASES`] with heads of whole steps of AMX's tiles among them.
const READ: [Case; 4] = [
    Case { heads: 2, kv_heads: 1, d: 64, window: None },
    Case { heads: 7, kv_heads: 1, d: 32, window: Some(40) },
    Case { heads: 4, kv_heads: 2, d: 128, window: Some(300) },
    Case { heads: 3, kv_heads: 3, d: 24, window: None },
];

#[test]
fn rows_that_are_read_are_near_and_as_indifferent_to_cuts() {
    each_path(|| {
        for storage in [Storage::F32, Storage::Bf16, Storage::Int8] {
            for case in &READ {
                let qkv = [numbers(600 * case.row(), 1), numbers(43 * case.row(), 2)];
                let class = (storage, RowClass::Bulk);
                let got = case.paged(class, &qkv, &ways()[0]);
                let as_steps = case.paged((storage, RowClass::Step), &qkv, &ways()[0]);
                for (got, want) in got.iter().flatten().zip(as_steps.iter().flatten()) {
                    close(*got, *want as f64, 1.2e-2);
                }
                let in_tiles = cpu::path() == CpuPath::Amx && case.d % 32 == 0;
                assert!((got != as_steps) == in_tiles, "only there it is another way");
                for way in &ways()[1..] {
                    assert!(case.paged(class, &qkv, way) == got, "{} heads, d {}", case.heads, case.d);
                }
            }
        }
    });
}

#[test]
fn bytes_are_what_the_shape_says() {
    for (storage, bytes) in [(Storage::F32, 4 * 16), (Storage::Bf16, 2 * 16), (Storage::Int8, 16 + 4)] {
        let shape = PagesShape { n_layers: 3, n_pages: 5, kv_heads: 2, head_size: 16, storage };
        assert_eq!(Pages::new(shape).bytes(), 3 * 5 * 2 * 2 * PAGE * bytes);
    }
}

#[test]
#[should_panic(expected = "33 positions in 1 pages")]
fn a_span_beyond_its_pages_is_refused() {
    let shape = PagesShape { n_layers: 1, n_pages: 2, kv_heads: 1, head_size: 4, storage: Storage::F32 };
    let span = Span { first_row: 0, n_rows: 1, first_position: 32, pages: &[1], class: RowClass::Step };
    Pages::new(shape).write(0, &[span], &[0.0; 12], 12, 4);
}
