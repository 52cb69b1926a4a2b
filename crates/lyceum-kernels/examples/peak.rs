//! What this machine's arithmetic can do, and how much of it the matrix product gets.
//!
//! `cargo run --release -p lyceum-kernels --example peak [THREADS [NAME]]`, where NAME picks shapes. For each shape a round times the bare
//! multiply-adds and then the product, so that both see the same machine. The share of the peak is given
//! twice: between the medians of the rounds, and between the best rounds (the truer one on a busy machine).

use lyceum_kernels::activation::Activation;
use lyceum_kernels::matmul::peak::multiply_adds;
use lyceum_kernels::matmul::{Epilogue, Mat, Packed, Precision, Write, matmul, matmul_packed};
use lyceum_kernels::{cpu, pool};
use std::hint::black_box;
use std::time::Instant;

/// Name, m, n, k, and whether each operand is transposed.
type Shape = (&'static str, usize, usize, usize, bool, bool);

const SHAPES: &[Shape] = &[
    ("square 1024", 1024, 1024, 1024, false, false),
    ("square 1024, x wT", 1024, 1024, 1024, false, true),
    ("square 512, x wT", 512, 512, 512, false, true),
    ("gpt-128 qkv", 768, 384, 128, false, true),
    ("gpt-128 up", 768, 512, 128, false, true),
    ("gpt-128 down", 768, 128, 512, false, true),
    ("gpt-128 dx of up", 768, 128, 512, false, false),
    ("gpt-128 dw of up", 512, 128, 768, true, false),
    ("gpt-128 dw of proj", 128, 128, 768, true, false),
    ("gpt-384 qkv", 4096, 1152, 384, false, true),
    ("gpt-384 down", 4096, 384, 1536, false, true),
    ("gpt-384 dx of up", 4096, 384, 1536, false, false),
    ("gpt-384 dw of proj", 384, 384, 4096, true, false),
    ("mlp 784-512", 128, 512, 784, false, true),
    ("mlp dw 512x784", 512, 784, 128, true, false),
    ("mlp 256-10", 128, 10, 256, false, true),
    ("lstm step", 128, 512, 128, false, true),
    ("lstm dw of inputs", 512, 64, 4096, true, false),
    ("lstm dw of states", 512, 128, 4096, true, false),
    ("gpt-384 dw of up", 1536, 384, 4096, true, false),
    ("gpt-384 up", 4096, 1536, 384, false, true),
    ("gpt-384 logits", 4096, 65, 384, false, true),
    ("small 12x64x64", 12, 64, 64, false, true),
    ("small 12x64x64, b as is", 12, 64, 64, false, false),
    ("row 1x4096x4096", 1, 4096, 4096, false, true),
];

fn main() {
    cpu::check_env().expect("LYCEUM_CPU");
    if let Some(threads) = std::env::args().nth(1) {
        pool::set_threads(threads.parse().expect("the number of threads"));
    }
    let (path, threads) = (cpu::path(), pool::threads());
    println!("path {}, bf16 instruction {}, {threads} threads; GFLOP/s", path.name(), cpu::has_bf16());
    let title = |name| format!("{name:>9} {:>6} {:>6}", "median", "best");
    println!("{:24} {:>9} {} {} {:>9} {:>13}", "", "peak", title("f32"), title("bf16"), "packed", "best f32");
    let name = std::env::args().nth(2).unwrap_or_default();
    for shape in SHAPES.iter().filter(|shape| shape.0.contains(&name)) {
        measure(shape, threads);
    }
}

fn measure(&(name, m, n, k, a_trans, b_trans): &Shape, threads: usize) {
    let (a, b) = (vec![0.5f32; m * k], vec![0.25f32; k * n]);
    let mut out = vec![0.0f32; m * n];
    let a_mat = if a_trans { Mat::new(&a, k, m).t() } else { Mat::new(&a, m, k) };
    let b_mat = if b_trans { Mat::new(&b, n, k).t() } else { Mat::new(&b, k, n) };
    let packed = b_trans.then(|| Packed::pack(&b, n, k));
    let flops = 2.0 * (m * n * k) as f64;
    let repeats = ((4e7 / flops) as usize).clamp(1, 20_000);
    let mut rates: [Vec<f64>; 5] = Default::default();
    for _ in 0..41 {
        for (slot, precision) in [(0, Precision::F32), (2, Precision::Bf16)] {
            rates[slot + 1].push(peak(threads, precision));
            let seconds = time(repeats, || {
                matmul(a_mat, b_mat, black_box(&mut out), Write::Overwrite, Epilogue::default(), precision);
            });
            rates[slot].push(flops / seconds);
        }
        if let Some(packed) = &packed {
            let epilogue = || Epilogue { activation: Activation::None, ..Epilogue::default() };
            let seconds = time(repeats, || matmul_packed(&a, m, packed, black_box(&mut out), epilogue()));
            rates[4].push(flops / seconds);
        }
    }
    let of = |slot: usize| {
        let share = |pick: fn(&[f64]) -> f64| 100.0 * pick(&rates[slot]) / pick(&rates[slot + 1]);
        format!("{:9.1} {:4.0} % {:4.0} %", median(&rates[slot]) / 1e9, share(median), share(best))
    };
    let packed = if packed.is_some() { format!("{:9.1}", median(&rates[4]) / 1e9) } else { String::new() };
    println!(
        "{name:24} {:9.1} {} {} {packed:9} {:10.1} µs",
        median(&rates[1]) / 1e9,
        of(0),
        of(2),
        flops / best(&rates[0]) * 1e6
    );
}

/// Seconds that one call takes, over `repeats` of them.
fn time(repeats: usize, mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..repeats).for_each(|_| f());
    start.elapsed().as_secs_f64() / repeats as f64
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn best(rates: &[f64]) -> f64 {
    rates.iter().copied().fold(0.0, f64::max)
}

/// Operations a second (two per multiply-add) with operands in registers, on `threads` threads.
fn peak(threads: usize, precision: Precision) -> f64 {
    let (steps, path) = (100_000, cpu::path());
    let start = Instant::now();
    let flops = multiply_adds(path, precision, steps);
    let seconds = if threads == 1 {
        start.elapsed().as_secs_f64()
    } else {
        // Each thread does the same again, at the same time.
        let start = Instant::now();
        pool::parallel_for(threads, |_| _ = multiply_adds(path, precision, steps));
        start.elapsed().as_secs_f64()
    };
    threads as f64 * flops / seconds
}
