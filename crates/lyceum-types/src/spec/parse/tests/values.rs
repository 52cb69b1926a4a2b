//! Values that are refused: each at its key, and alone.

use super::*;

const MLP: &str = "family = 'mlp'\nhidden = [8]";

/// `text` has this one problem, written as `key code`.
fn refused(text: &str, problem: &str) {
    let found = problems(text);
    let found: Vec<&str> = found.iter().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(found, [problem], "of\n{text}");
}

#[test]
fn each_bad_value_of_data_is_refused_at_its_key() {
    let of_classification = [
        ("valid_fraction = 1.0", "data.valid_fraction out_of_range"),
        ("valid_fraction = 'x'", "data.valid_fraction wrong_type"),
        ("folds = 1", "data.folds out_of_range"),
        ("missing = 'median'\nunseen = 'drop'", "data.unseen unknown_value"),
        ("columns = { a = 'int' }", "data.columns.a unknown_value"),
        ("columns = { 'a b' = 3 }", "data.columns.\"a b\" wrong_type"),
        ("target = ['a', 'b']", "data.target contradiction"),
        ("target = 'a'\nfeatures = ['a', 'b']", "data.features contradiction"),
        ("target = 'a'\ncolumns = { a = 'drop' }", "data.columns.a contradiction"),
        ("target = 'a'\ngroup = 'a'", "data.group contradiction"),
        ("target = []\nfeatures = [1]", "data.features[0] wrong_type"),
        ("window = 3", "data.window contradiction"),
        ("tokenizer = 'word'", "data.tokenizer unknown_value"),
        ("tokenizer = 'bpe:many'", "data.tokenizer unknown_value"),
        ("tokenizer = 'bpe:100'", "data.tokenizer out_of_range"),
        ("input = { shape = [1, 2, 3] }", "data.input.type missing_key"),
        ("input = { type = 'image', shape = [8, 8] }", "data.input.shape out_of_range"),
        ("input = { type = 'image', scale = 0 }", "data.input.scale out_of_range"),
        ("input = { type = 'tabular', scale = 2 }", "data.input.scale unknown_key"),
        ("input = { type = 'audio', hop_ms = 30 }", "data.input.hop_ms contradiction"),
        ("input = { type = 'audio', resample = true }", "data.input.resample not_yet"),
        ("input = { type = 'audio' }\ntokenizer = 'char'", "data.tokenizer contradiction"),
        ("input = 'image'", "data.input wrong_type"),
    ];
    for (lines, problem) in of_classification {
        refused(&with("classification", lines, MLP, "epochs = 1"), problem);
    }
    let of_forecasting = [
        ("", "data.window contradiction"),
        ("window = 3\ninput = { type = 'text' }", "data.input.type contradiction"),
        ("window = 3\ntime = 't'\ntarget = 't'", "data.time contradiction"),
    ];
    for (lines, problem) in of_forecasting {
        refused(&with("forecasting", lines, MLP, "epochs = 1"), problem);
    }
    let of_language = [
        ("group = 'author'", "data.group contradiction"),
        ("input = { type = 'image' }", "data.input.type contradiction"),
    ];
    for (lines, problem) in of_language {
        refused(&with("language_modeling", lines, "family = 'gru'\nhidden_size = 3", "epochs = 1"), problem);
    }
}

#[test]
fn each_bad_value_of_a_model_is_refused_at_its_key() {
    let (classification, language) = ("classification", "language_modeling");
    let sequences = "sequence_to_sequence";
    let cases = [
        (classification, "family = 'lstm'\nhidden_size = 3\nhead = 'next'", "model.head contradiction"),
        (classification, "family = 'lstm'\nhidden_size = 3\nrepeat = true", "model.repeat unknown_key"),
        (classification, "family = 'lstm'", "model.hidden_size missing_key"),
        (
            language,
            "family = 'lstm'\nhidden_size = 3\nbidirectional = true",
            "model.bidirectional contradiction",
        ),
        (
            language,
            "family = 'lstm'\nhidden_size = 3\none_hot = true\nembedding_dim = 3",
            "model.embedding_dim contradiction",
        ),
        (sequences, "family = 'lstm'\nhidden_size = 3\nrepeat = false", "model.repeat not_yet"),
        (
            sequences,
            "family = 'lstm'\nencoder = { hidden_size = 3 }\ndecoder = { hidden_size = 4 }",
            "model.decoder not_yet",
        ),
        (
            sequences,
            "family = 'lstm'\nhidden_size = 3\nencoder = { hidden_size = 3 }",
            "model.encoder contradiction",
        ),
        (sequences, "family = 'transformer'\nvariant = 'decoder'", "model.variant contradiction"),
        (classification, "family = 'transformer'", "model.variant missing_key"),
        (
            classification,
            "family = 'transformer'\nvariant = 'encoder'\nd_model = 10\nnhead = 4",
            "model.nhead contradiction",
        ),
        (
            classification,
            "family = 'transformer'\nvariant = 'encoder'\nd_model = 6\nnhead = 2\npositional = 'rope'",
            "model.positional contradiction",
        ),
        (
            classification,
            "family = 'transformer'\nvariant = 'encoder'\nnum_decoder_layers = 2",
            "model.num_decoder_layers contradiction",
        ),
        (
            classification,
            "family = 'transformer'\nvariant = 'encoder'\nnum_layers = 2\nnum_encoder_layers = 2",
            "model.num_encoder_layers contradiction",
        ),
        (classification, "family = 'mlp'\nhidden = [4]\ndropout = -0.1", "model.dropout out_of_range"),
        (classification, "family = 'mlp'\nhidden = 4", "model.hidden wrong_type"),
        (classification, "family = 'mlp'\nhidden = [4]\nlora = { rank = 8 }", "model.lora unknown_key"),
        (classification, "family = 'meta/llama-3'", "model.family unknown_value"),
        (classification, "family = 'cnn'\nconv = []", "model.conv out_of_range"),
        (classification, "family = 'cnn'", "model.conv missing_key"),
        (
            classification,
            "family = 'cnn'\nconv = [{ channels = 3, kernel = 0 }]",
            "model.conv[0].kernel out_of_range",
        ),
        (
            classification,
            "family = 'cnn'\nconv = [{ channels = 3, kernel = 3, groups = 2 }]",
            "model.conv[0].groups contradiction",
        ),
        (
            classification,
            "family = 'cnn'\nconv = [{ channels = 3, kernel = 3, residual = 2 }]",
            "model.conv[0].residual out_of_range",
        ),
        (language, MLP, "model.family contradiction"),
    ];
    for (task, lines, problem) in cases {
        refused(&with(task, "", lines, "epochs = 1"), problem);
    }
    let (table, conv) =
        ("input = { type = 'tabular' }", "family = 'cnn'\nconv = [{ channels = 3, kernel = 3 }]");
    refused(&with("classification", table, conv, "epochs = 1"), "model.family contradiction");
}

#[test]
fn each_bad_value_of_training_is_refused_at_its_key() {
    let cases = [
        ("epochs = 0", "train.epochs out_of_range"),
        ("epochs = 1.5", "train.epochs wrong_type"),
        ("batch_size = 3", "train.steps missing_key"),
        ("epochs = 1\ngrad_clip = 0", "train.grad_clip out_of_range"),
        ("epochs = 1\ngrad_clip = nan", "train.grad_clip out_of_range"),
        ("epochs = 1\nprecision = 'f16'", "train.precision unknown_value"),
        ("epochs = 1\nprivacy = {}", "train.privacy unknown_key"),
        ("epochs = 1\noptimizer = 'adam'", "train.optimizer wrong_type"),
        ("epochs = 1\noptimizer = { name = 'lion' }", "train.optimizer.name unknown_value"),
        ("epochs = 1\noptimizer = { name = 'adam', betas = [0.9] }", "train.optimizer.betas out_of_range"),
        (
            "epochs = 1\noptimizer = { name = 'sgd', nesterov = true }",
            "train.optimizer.nesterov contradiction",
        ),
        ("epochs = 1\nschedule = { name = 'cosine', min_lr = 1 }", "train.schedule.min_lr contradiction"),
        (
            "steps = 10\nschedule = { name = 'linear', warmup_steps = 10 }",
            "train.schedule.warmup_steps contradiction",
        ),
        ("epochs = 1\nschedule = { name = 'step' }", "train.schedule.step_size missing_key"),
        ("epochs = 1\nschedule = { name = 'constant', gamma = 0.5 }", "train.schedule.gamma unknown_key"),
        ("epochs = 1\nearly_stopping = { patience = 1 }", "train.early_stopping contradiction"),
    ];
    for (lines, problem) in cases {
        refused(&with("classification", "", MLP, lines), problem);
    }
    let stopping = "epochs = 1\nearly_stopping = { patience = 1, metric = 'valid_accuracy' }";
    let problem = "train.early_stopping.metric contradiction";
    refused(&with("regression", "valid_fraction = 0.1", MLP, stopping), problem);
}

#[test]
fn a_key_that_is_written_twice_is_tomls_own_error() {
    let found = problems(&with("classification", "train = 3", MLP, "epochs = 1"));
    assert!(found.len() == 1 && found[0].ends_with(" syntax"), "{found:?}");
}
