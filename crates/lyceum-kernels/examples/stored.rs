//! What products with stored weights get of this machine: of its read bandwidth with one row, of its integer
//! or bf16 peak with many.
//!
//! `cargo run --release -p lyceum-kernels --example stored [TYPES [ROWS [SHAPES [CLASS [THREADS]]]]]`, lists with commas:
//! `q8_0,q4_k 1,512 1024x3072 step`; rows are of the class `bulk` otherwise. Weights go round in a ring larger than the caches; a round reads the stream,
//! runs the bare multiply-adds and then the product, so that all see the same machine. Shares are given between
//! the medians of the rounds and between the best rounds (the truer one on a busy machine).

use lyceum_kernels::class::RowClass;
use lyceum_kernels::matmul::Epilogue;
use lyceum_kernels::stored::{Stored, StoredWeight, matmul_stored, peak};
use lyceum_kernels::{cpu, pool};
use std::hint::black_box;
use std::time::Instant;

const TYPES: &str = "q8_0,q4_0,q4_1,q5_0,q5_1,q4_k,q5_k,q6_k,bf16,f16,f32";
const ROWS: &str = "1,8,32,512";
const SHAPES: &str = "1024x3072,2048x1024,151936x1024";
/// Bytes of the weights that a round goes through where one row streams them: more than any cache.
const RING_BYTES: usize = 160 << 20;
/// Bytes of the stream whose reading is the bandwidth.
const STREAM_BYTES: usize = 256 << 20;
const ROUNDS: usize = 25;
/// Multiply-adds of a round, about.
const ROUND_OPERATIONS: f64 = 8e9;

fn main() {
    cpu::check_env().expect("LYCEUM_CPU");
    let argument = |i: usize, all: &str| std::env::args().nth(i).unwrap_or_else(|| all.to_owned());
    let (types, rows, shapes) = (argument(1, TYPES), argument(2, ROWS), argument(3, SHAPES));
    let class = match argument(4, "bulk").as_str() {
        "bulk" => RowClass::Bulk,
        "step" => RowClass::Step,
        other => panic!("a class is bulk or step, not {other}"),
    };
    if let Some(threads) = std::env::args().nth(5) {
        assert!(pool::set_threads(threads.parse().expect("threads")), "set before the first kernel");
    }
    println!("engine {}, {} threads, {ROUNDS} rounds", peak::engine(), pool::threads());
    println!("type      n x k             m       us   GB/s of read   best     GOP/s of peak   best");
    let stream = peak::Stream::new(STREAM_BYTES);
    for name in types.split(',') {
        let kind = Stored::ALL.into_iter().find(|kind| kind.name() == name).expect("a stored type");
        for shape in shapes.split(',') {
            let (n, k) = shape.split_once('x').expect("N x K");
            let (n, k): (usize, usize) = (n.parse().expect("n"), k.parse().expect("k"));
            let weights = ring(kind, n, k);
            for m in rows.split(',').map(|m| m.parse::<usize>().expect("rows")) {
                // The largest result of the largest shape would be most of the memory.
                if m * n <= 1 << 26 {
                    measure(kind, &weights, (m, class), &stream);
                }
            }
        }
    }
}

/// Weights that together are larger than the caches.
fn ring(kind: Stored, n: usize, k: usize) -> Vec<StoredWeight> {
    let bytes: Vec<u8> = blocks(kind, n * k);
    (0..RING_BYTES.div_ceil(bytes.len())).map(|_| StoredWeight::pack(kind, &bytes, n, k)).collect()
}

/// Bytes of small numbers: every fourth kilobyte of a block type is random enough for speed.
fn blocks(kind: Stored, len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u32
    };
    let values: Vec<f32> = (0..4096).map(|_| next() as f32 / (1u64 << 31) as f32 - 0.5).collect();
    let n_bytes = kind.row_bytes(len).expect("whole blocks");
    let mut some = Vec::new();
    if lyceum_kernels::stored::quantise(kind, &values, &mut some).is_err() {
        // No number of a block of zeros and ones is large.
        some = (0..kind.row_bytes(4096).expect("whole blocks")).map(|_| next() as u8 & 1).collect();
    }
    some.into_iter().cycle().take(n_bytes).collect()
}

fn measure(kind: Stored, weights: &[StoredWeight], (m, class): (usize, RowClass), stream: &peak::Stream) {
    let (n, k) = (weights[0].n(), weights[0].k());
    let (x, mut out) = (vec![0.25f32; m * k], vec![0.0f32; m * n]);
    // Several weights in turn: activations and results stay in the cache, as between a model's layers.
    let turns =
        if m == 1 { weights.len() } else { ((ROUND_OPERATIONS / (2 * m * n * k) as f64) as usize).max(1) };
    let mut rounds: [Vec<f64>; 3] = Default::default();
    for round in 0..=ROUNDS {
        let read = peak::read(stream) / 1e9;
        let peak = peak::operations(kind) / 1e9;
        let start = Instant::now();
        for weight in weights.iter().cycle().take(turns) {
            matmul_stored(&x, (m, class), &[weight], black_box(&mut out), Epilogue::default());
        }
        let seconds = start.elapsed().as_secs_f64() / turns as f64;
        // The first warms up.
        if round > 0 {
            [seconds, read, peak].into_iter().zip(&mut rounds).for_each(|(x, rounds)| rounds.push(x));
        }
    }
    let (bytes, operations) = (weights[0].bytes() as f64 / 1e9, 2.0 * (m * n * k) as f64 / 1e9);
    let [seconds, read, peak] = &rounds;
    let bandwidth = |pick: fn(&[f64]) -> f64| bytes * pick(&inverses(seconds));
    let speed = |pick: fn(&[f64]) -> f64| operations * pick(&inverses(seconds));
    println!(
        "{:6} {n:8} x {k:<6} {m:6} {:9.1} {:6.1} {:5.0} % {:4.0} % {:9.1} {:5.0} % {:4.0} %",
        kind.name(),
        1e6 / median(&inverses(seconds)),
        bandwidth(median),
        100.0 * bandwidth(median) / median(read),
        100.0 * bandwidth(best) / best(read),
        speed(median),
        100.0 * speed(median) / median(peak),
        100.0 * speed(best) / best(peak),
    );
}

fn inverses(seconds: &[f64]) -> Vec<f64> {
    seconds.iter().map(|s| 1.0 / s).collect()
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn best(rates: &[f64]) -> f64 {
    rates.iter().copied().fold(0.0, f64::max)
}
