//! Times Gaussian noise: `cargo run --release -p lyceum-kernels --example noise_speed [THREADS]`.

use lyceum_kernels::gaussian::add_normal;
use lyceum_kernels::{cpu, pool};
use std::time::Instant;

fn main() {
    cpu::check_env().expect("LYCEUM_CPU");
    if let Some(threads) = std::env::args().nth(1) {
        pool::set_threads(threads.parse().expect("the number of threads"));
    }
    println!("path {}, {} threads", cpu::path().name(), pool::threads());
    for n in [5_000, 535_818, 10_000_000] {
        let mut values = vec![0.0; n];
        let mut best = f64::INFINITY;
        for step in 0..30 {
            let start = Instant::now();
            add_normal(&[7; 32], step, 0, 1.0, &mut values);
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!("{n} numbers: {:.3} ms, {:.2} ns each", best * 1e3, best * 1e9 / n as f64);
    }
}
