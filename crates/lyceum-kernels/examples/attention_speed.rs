//! Times attention at the sizes of small GPTs: `cargo run -p lyceum-kernels --example attention_speed`.

use lyceum_kernels::attention::{Attention, Gradients, Mask, Rows, attention, attention_backward};
use lyceum_kernels::elementwise::Write;
use std::time::Instant;

fn main() {
    println!("threads {}", lyceum_kernels::pool::threads());
    for (batch, t, heads, d) in [(12, 64, 4, 32), (16, 256, 6, 64), (1, 1024, 6, 64)] {
        let c = heads * d;
        let shape = Attention {
            batch,
            heads,
            kv_heads: heads,
            head_size: d,
            n_queries: t,
            n_keys: t,
            scale: 1.0 / (d as f32).sqrt(),
            mask: Mask::Causal { first_position: 0 },
            key_lens: None,
            dropout: None,
            may_round: false,
            q: Rows::dense(t, 3 * c),
            kv: Rows::dense(t, 3 * c),
            out: Rows::dense(t, c),
        };
        let qkv: Vec<f32> =
            (0..batch * t * 3 * c).map(|i| ((i * 7919 % 1009) as f32 / 1009.0) - 0.5).collect();
        let (mut out, mut lse) = (vec![0.0; batch * t * c], vec![0.0; batch * heads * t]);
        let mut dqkv = vec![0.0; qkv.len()];
        // Multiply-adds of one product over the visible half.
        let product = (batch * heads * d * t * (t + 1) / 2) as f64 * 2.0;
        let mut best = [f64::INFINITY; 2];
        for _ in 0..15 {
            let start = Instant::now();
            attention(&shape, &qkv, &qkv[c..], &qkv[2 * c..], &mut out, Some(&mut lse));
            best[0] = best[0].min(start.elapsed().as_secs_f64());
            let start = Instant::now();
            let gradients = Gradients::Fused(&mut dqkv, Write::Overwrite);
            attention_backward(&shape, &qkv, &qkv[c..], &qkv[2 * c..], &out, &lse, &out, gradients);
            best[1] = best[1].min(start.elapsed().as_secs_f64());
        }
        for (name, seconds, products) in [("forward", best[0], 2.0), ("backward", best[1], 5.0)] {
            let rate = product * products / seconds / 1e9;
            println!("B {batch} T {t} H {heads} D {d} {name}: {:.3} ms, {rate:.1} GFLOP/s", seconds * 1e3);
        }
    }
}
