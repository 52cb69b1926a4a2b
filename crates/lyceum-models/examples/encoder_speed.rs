//! Seconds that an encoder takes for a batch of rows of one length, in each form of its weights.
//!
//! `cargo run --release -p lyceum-models --example encoder_speed FOLDER [TYPES [ROWS [TOKENS]]]`: a folder in Hugging Face's
//! layout, types with commas (`f32,bf16,q8_0`). `lyceum bench encoder` compares with others; this has no peer and builds
//! in a moment.

use lyceum_kernels::stored::Stored;
use lyceum_models::Model;
use lyceum_models::batch::{Input, Tokens};
use lyceum_models::encoder::{Description, load};
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_nn::{Examples, Recording, Tape, Workspace};
use lyceum_types::control::Control;
use std::time::Instant;

const ROUNDS: usize = 11;

fn main() {
    let argument =
        |i: usize, otherwise: &str| std::env::args().nth(i).unwrap_or_else(|| otherwise.to_owned());
    let folder = std::env::args().nth(1).expect("a folder with config.json and model.safetensors");
    let count = |i, otherwise| argument(i, otherwise).parse::<usize>().expect("a count");
    let (n, time) = (count(3, "32"), count(4, "128"));
    let config = std::fs::read_to_string(format!("{folder}/config.json")).expect("config.json");
    let config = serde_json::from_str(&config).expect("config.json is JSON");
    for name in argument(2, "f32,bf16,q8_0").split(',') {
        let kind = Stored::ALL.into_iter().find(|kind| kind.name() == name).expect("a stored type");
        let file = std::fs::File::open(format!("{folder}/model.safetensors")).expect("model.safetensors");
        let checkpoint = Checkpoint::safetensors(vec![Box::new(file)]).expect("safetensors");
        let description = Description { config: &config, modules: None };
        let loaded = load(checkpoint, &description, Some(kind), &Control::new()).expect("an encoder");
        let model = Model::encoder(loaded);
        let ids = (0..n * time).map(|i| (i * 7919 % 997 + 1) as u32).collect();
        let input = Input::Tokens(Tokens { n, time, ids, lengths: vec![time as u32; n], second: Vec::new(), packed: false });
        let mut ws = Workspace::new();
        let mut seconds: Vec<f64> = (0..=ROUNDS)
            .map(|_| {
                let start = Instant::now();
                let mut tape = Tape::new(&mut ws, &model.params, Recording::Off, Examples::Even(n));
                let forward = model.forward(&mut tape, &input).expect("a pass");
                std::hint::black_box(tape.value(forward.logits));
                start.elapsed().as_secs_f64()
            })
            .skip(1)
            .collect();
        seconds.sort_by(f64::total_cmp);
        let ms = |i: usize| seconds[i] * 1e3;
        println!("{name:5} {:7.2} ms ({:.2}–{:.2})", ms(ROUNDS / 2), ms(0), ms(ROUNDS - 1));
    }
}
