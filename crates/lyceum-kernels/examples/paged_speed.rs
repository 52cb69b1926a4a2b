//! Attention over pages beside what the machine can do: bytes a second of a decode step that looks back over
//! 2,048 positions against plain reading, and the share of the peak of a prompt of 512.
//!
//! `cargo run --release -p lyceum-kernels --example paged_speed [THREADS]`. Rounds alternate; medians.

use lyceum_kernels::attention::paged::{
    PAGE, PagedAttention, Pages, PagesShape, Span, Storage, paged_attention,
};
use lyceum_kernels::class::RowClass;
use lyceum_kernels::matmul::Precision;
use lyceum_kernels::matmul::peak::multiply_adds;
use lyceum_kernels::{cpu, pool};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: usize = 15;
const CONTEXT: usize = 2048;
const PROMPT: usize = 512;

/// Name, layers, heads, heads of keys, head size.
const MODELS: [(&str, usize, usize, usize, usize); 3] = [
    ("0.5 B (14 heads, 2 of keys)", 24, 14, 2, 64),
    ("1 B (32 heads, 8 of keys)", 16, 32, 8, 64),
    ("135 M (9 heads, 3 of keys)", 30, 9, 3, 64),
];

fn main() {
    if let Some(threads) = std::env::args().nth(1) {
        pool::set_threads(threads.parse().expect("the number of threads"));
    }
    println!("path {}, {} threads", cpu::path().name(), pool::threads());
    let far = vec![1.0f32; 1 << 26];
    for (name, n_layers, heads, kv_heads, head_size) in MODELS {
        for storage in [Storage::F32, Storage::Bf16, Storage::Int8] {
            let shape =
                PagesShape { n_layers, n_pages: CONTEXT.div_ceil(PAGE), kv_heads, head_size, storage };
            let mut pages = Pages::new(shape);
            let row = (heads + 2 * kv_heads) * head_size;
            let x: Vec<f32> = (0..CONTEXT * row).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect();
            // Not in their order.
            let table: Vec<u32> = (0..shape.n_pages as u32).map(|i| i * 13 % shape.n_pages as u32).collect();
            let span = |first_position, n_rows| {
                let class = if n_rows == 1 { RowClass::Step } else { RowClass::Bulk };
                Span { first_row: 0, n_rows, first_position, pages: &table, class }
            };
            (0..n_layers).for_each(|layer| {
                pages.write(layer, &[span(0, CONTEXT)], &x, row, heads * head_size);
            });
            let out_row = heads * head_size;
            let asked = PagedAttention { heads, scale: 0.125, window: None, q_row: row, out_row };
            let mut out = vec![0.0; PROMPT * out_row];
            let (mut decode, mut read, mut prompt, mut peak) = (vec![], vec![], vec![], vec![]);
            for _ in 0..ROUNDS {
                let bytes = pages.bytes() as f64;
                decode.push(
                    bytes
                        / seconds(|| {
                            for layer in 0..n_layers {
                                paged_attention(&pages, layer, &asked, &[span(CONTEXT - 1, 1)], &x, &mut out);
                            }
                        }),
                );
                read.push((far.len() * 4) as f64 / seconds(|| sum(&far)));
                let flops = (heads * head_size * PROMPT * (PROMPT + 1) / 2 * 4) as f64;
                prompt.push(
                    flops / seconds(|| paged_attention(&pages, 0, &asked, &[span(0, PROMPT)], &x, &mut out)),
                );
                let mut n = 0.0;
                let time = seconds(|| {
                    n = multiply_adds(cpu::path(), Precision::F32, 0);
                    pool::parallel_for(pool::threads(), |_| {
                        black_box(multiply_adds(cpu::path(), Precision::F32, 100_000));
                    });
                });
                n += multiply_adds(cpu::path(), Precision::F32, 1) * 100_000.0 * pool::threads() as f64;
                peak.push(n / time);
            }
            let [decode, read, prompt, peak] = [decode, read, prompt, peak].map(|x| median(x) / 1e9);
            println!(
                "{name}, {storage:?}: decode {decode:.1} GB/s of {read:.1} read ({:.0} %), {:.0} µs a layer; prompt {prompt:.1} GFLOP/s of {peak:.1} ({:.0} %)",
                100.0 * decode / read,
                pages.bytes() as f64 / n_layers as f64 / decode / 1e3,
                100.0 * prompt / peak
            );
        }
    }
}

/// Reads everything once, on all threads.
fn sum(far: &[f32]) {
    let piece = far.len() / 64;
    pool::parallel_for(64, |i| {
        let mut sums = [0.0f32; 64];
        for chunk in far[i * piece..(i + 1) * piece].chunks_exact(64) {
            sums.iter_mut().zip(chunk).for_each(|(s, x)| *s += x);
        }
        black_box(sums);
    });
}

fn seconds(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}
