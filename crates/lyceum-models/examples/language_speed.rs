//! Tokens a second of a language model in a GGUF file: a prompt that is read, and tokens that some sequences make
//! one after the other. What `lyceum bench llm` measures, without the rest of Lyceum, for work on kernels.
//!
//! `cargo run --release -p lyceum-models --example language_speed FILE [PROMPT [STEPS [SEQUENCES [ROUNDS [THREADS]]]]]`;
//! medians and the best of the rounds.

use lyceum_kernels::pool;
use lyceum_models::Model;
use lyceum_models::causal_lm::{Source, load};
use lyceum_models::decode::{DecodeRow, PAGE, RowClass, Rows};
use lyceum_nn::Workspace;
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_nn::ops::cached_attention::{KvPool, KvStorage};
use lyceum_types::control::Control;
use std::time::Instant;

fn main() {
    let path = std::env::args().nth(1).expect("a GGUF file");
    let number = |i: usize, otherwise: usize| {
        std::env::args().nth(i).map_or(otherwise, |x| x.parse().expect("a number"))
    };
    let (prompt, steps, sequences, rounds) = (number(2, 512), number(3, 32), number(4, 1), number(5, 5));
    if let Some(threads) = std::env::args().nth(6) {
        pool::set_threads(threads.parse().expect("the number of threads"));
    }
    let file = std::fs::File::open(path).expect("the file");
    let (checkpoint, header) = Checkpoint::gguf(Box::new(file)).expect("a GGUF file");
    let loaded = load(checkpoint, Source::Gguf { header: &header }, None, Some(4096), &Control::new());
    let model = Model::language(loaded.expect("a language model"));
    let runs = [Run { prompt, steps: 0, sequences: 1 }, Run { prompt: 0, steps, sequences }];
    for run in runs.into_iter().filter(|run| run.tokens() > 0) {
        let pages = usize::div_ceil(run.prompt + run.steps, PAGE);
        let kv = model.kv_shape(pages * run.sequences, KvStorage::F32).expect("it generates");
        let (mut kv, mut ws) = (KvPool::new(kv), Workspace::new());
        let speeds = (0..=rounds).map(|_| run.tokens() as f64 / run.seconds(&model, &mut kv, &mut ws));
        let mut speeds: Vec<f64> = speeds.skip(1).collect();
        speeds.sort_by(f64::total_cmp);
        let (median, best) = (speeds[speeds.len() / 2], speeds[speeds.len() - 1]);
        print!("{} + {} x {}: {median:.1} tokens/s, best {best:.1}", run.prompt, run.steps, run.sequences);
        let steps = if run.steps > 0 { median / run.sequences as f64 } else { 0.0 };
        println!(", weights {:.1} GB/s", model.params.bytes() as f64 * steps / 1e9);
    }
}

/// A prompt that is read, or steps of some sequences.
struct Run {
    prompt: usize,
    steps: usize,
    sequences: usize,
}

impl Run {
    fn tokens(&self) -> usize {
        self.prompt + self.steps * self.sequences
    }

    fn seconds(&self, model: &Model, kv: &mut KvPool, ws: &mut Workspace) -> f64 {
        let vocabulary = model.shape.output.width() as u32;
        let each = kv.shape().n_pages / self.sequences;
        let pages: Vec<Vec<u32>> = (0..self.sequences)
            .map(|i| (i * each..(i + 1) * each).map(|page| page as u32).collect())
            .collect();
        let mut states: Vec<_> = pages.iter().map(|_| model.start(ws, None).expect("it generates")).collect();
        let prompt: Vec<u32> = (0..self.prompt as u32).map(|i| (i * 7919 + 13) % vocabulary).collect();
        let mut pass = |tokens: &[u32], class| {
            let mut rows: Vec<DecodeRow<'_>> = states
                .iter_mut()
                .zip(&pages)
                .map(|(state, pages)| DecodeRow {
                    state,
                    tokens,
                    rows: Rows::Last,
                    pages,
                    adapter: None,
                    class,
                })
                .collect();
            model.decode(ws, Some(kv), &mut rows).expect("a pass");
        };
        let begin = Instant::now();
        if !prompt.is_empty() {
            pass(&prompt, RowClass::Bulk);
        }
        for step in 0..self.steps as u32 {
            pass(&[(step * 31 + 7) % vocabulary], RowClass::Step);
        }
        begin.elapsed().as_secs_f64()
    }
}
