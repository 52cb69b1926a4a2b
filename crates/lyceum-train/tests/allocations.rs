//! After its first epochs a training step allocates nothing on the heap, in every family.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

use lyceum_models::Model;
use lyceum_train::data;
use lyceum_train::run::Run;
use lyceum_types::control::Control;
use lyceum_types::spec::Spec;
use std::fmt::Write;
use std::path::Path;

/// Rows of numbers with two classes; `shared` columns come before the label.
fn table(columns: usize) -> String {
    let mut text = (0..columns).map(|c| format!("x{c},")).collect::<String>() + "label\n";
    for row in 0..37 {
        for column in 0..columns {
            write!(text, "{},", ((row * 31 + column * 17) % 23) as f64 / 7.0 - 1.0).unwrap();
        }
        writeln!(text, "{}", ["no", "yes"][(row * 5 / 3) % 2]).unwrap();
    }
    text
}

fn sentences() -> String {
    (0..37)
        .map(|i| format!("{} was here,{}\n", ["ann", "bob"][i % 2].repeat(1 + i % 3), ["a", "b"][i % 2]))
        .collect()
}

fn check(name: &str, file: &str, content: &str, spec: &str) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(file), content).unwrap();
    let spec = Spec::from_toml(spec, name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let count = steps_after_warm_up(&spec, dir.path());
    assert_eq!(count, 0, "{name}: allocations in steps after warm-up");
}

/// Epochs after which batches of every shape have been seen: their last one is short, texts differ in length.
const WARM_UP: u64 = 20;

/// Allocations of an epoch of steps after the warm-up.
fn steps_after_warm_up(spec: &Spec, dir: &Path) -> u64 {
    let loaded = data::load(spec, dir, &Control::new()).unwrap();
    let model = Model::new(&spec.model, &loaded.preparation.shape(), 1).unwrap();
    let mut run = Run::new(&spec.train, 1, model, &loaded.train);
    let epoch = run.steps_per_epoch();
    for step in 0..WARM_UP * epoch {
        run.step(&loaded.train, step).unwrap();
    }
    let info = allocation_counter::measure(|| {
        for step in WARM_UP * epoch..(WARM_UP + 1) * epoch {
            run.step(&loaded.train, step).unwrap();
        }
    });
    info.count_total
}

const TRAIN: &str = "[train]\nepochs = 3\nbatch_size = 8\naccumulate = 2\ngrad_clip = 1.0\n";

#[test]
fn a_perceptron_steps_without_allocations() {
    let spec = "name = \"m\"\ntask = \"classification\"\n[data]\ntrain = \"a.csv\"\ntarget = \"label\"\n\
                [model]\nfamily = \"mlp\"\nhidden = [16, 8]\ndropout = 0.1\n";
    check("mlp", "a.csv", &table(5), &format!("{spec}{TRAIN}"));
}

#[test]
fn a_convolutional_network_steps_without_allocations() {
    let spec = "name = \"m\"\ntask = \"classification\"\n[data]\ntrain = \"a.csv\"\ntarget = \"label\"\n\
                input = { type = \"image\", shape = [1, 6, 6], scale = 1.0 }\n\
                [model]\nfamily = \"cnn\"\nconv = [{ channels = 4, kernel = 3, norm = \"batch\", pool = 2 }]\n";
    check("cnn", "a.csv", &table(36), &format!("{spec}{TRAIN}"));
}

#[test]
fn recurrent_networks_step_without_allocations() {
    for family in ["rnn", "lstm", "gru"] {
        let spec = format!(
            "name = \"m\"\ntask = \"classification\"\n[data]\ntrain = \"a.csv\"\ntarget = \"label\"\n\
             input = {{ type = \"series\", channels = 2 }}\n[model]\nfamily = \"{family}\"\nhidden_size = 8\n\
             num_layers = 2\nbidirectional = true\ndropout = 0.1\n{TRAIN}"
        );
        check(family, "a.csv", &table(12), &spec);
    }
}

#[test]
fn a_transformer_encoder_steps_without_allocations() {
    let spec = "name = \"m\"\ntask = \"classification\"\n[data]\ntrain = \"a.csv\"\ntarget = \"label\"\n\
                input = { type = \"text\", max_tokens = 24 }\ntokenizer = \"byte\"\n[model]\nfamily = \"transformer\"\n\
                variant = \"encoder\"\nd_model = 16\nnhead = 2\nnum_layers = 2\ndim_feedforward = 32\ncontext = 24\n\
                dropout = 0.1\n";
    check("encoder", "a.csv", &format!("text,label\n{}", sentences()), &format!("{spec}{TRAIN}"));
}

#[test]
fn a_transformer_decoder_steps_without_allocations() {
    let spec = "name = \"m\"\ntask = \"language_modeling\"\n[data]\ntrain = \"a.txt\"\ntokenizer = \"char\"\n[model]\n\
                family = \"transformer\"\nvariant = \"decoder\"\nd_model = 16\nnhead = 2\nnum_layers = 2\n\
                dim_feedforward = 32\ncontext = 16\nnorm_first = true\nbias = false\ntie_embeddings = true\n";
    check("decoder", "a.txt", &sentences().repeat(2), &format!("{spec}{TRAIN}"));
}

#[test]
fn a_transformer_of_both_steps_without_allocations() {
    let rows: String =
        (0..40).map(|i| format!("{{\"source\":\"{i}+{}\",\"target\":\"{}\"}}\n", i % 7, i + i % 7)).collect();
    let spec = "name = \"m\"\ntask = \"sequence_to_sequence\"\n[data]\ntrain = \"a.jsonl\"\ntokenizer = \"char\"\n[model]\n\
                family = \"transformer\"\nvariant = \"encoder_decoder\"\nd_model = 16\nnhead = 2\nnum_layers = 1\n\
                dim_feedforward = 32\ncontext = 12\ndropout = 0.1\n";
    check("encoder_decoder", "a.jsonl", &rows, &format!("{spec}{TRAIN}"));
}
