mod promises;
mod values;

use super::*;
use crate::spec::*;

const PLAIN: &str = r#"name = "m"
task = "classification"
[data]
train = "rows.csv"
[model]
family = "mlp"
hidden = [8]
[train]
epochs = 1
"#;

fn parse(text: &str) -> Spec {
    Spec::from_toml(text, "spec.toml").unwrap_or_else(|errors| panic!("{errors}"))
}

/// The problems as `line:column key code`, in order.
fn problems(text: &str) -> Vec<String> {
    let Err(errors) = Spec::from_toml(text, "spec.toml") else { return Vec::new() };
    let line = |p: &Problem| {
        let place = format!("{}:{}", p.line.unwrap_or(0), p.column.unwrap_or(0));
        assert!(!p.message.is_empty() && !p.fix.is_empty(), "{p:?}");
        format!("{place} {} {}", p.key, p.code.as_str())
    };
    errors.problems.iter().map(line).collect()
}

fn check(text: &str, expected: &[&str]) {
    assert_eq!(problems(text), expected, "of\n{text}");
}

/// A document of one task, family and changed lines.
fn with(task: &str, data: &str, model: &str, train: &str) -> String {
    format!(
        "name = \"m\"\ntask = \"{task}\"\n[data]\ntrain = \"rows\"\n{data}\n[model]\n{model}\n[train]\n{train}\n"
    )
}

#[test]
fn a_plain_document_gets_the_defaults() {
    let spec = parse(PLAIN);
    assert_eq!(spec.seed, 0);
    assert_eq!(spec.data.features, ["*"]);
    assert_eq!((spec.data.missing, spec.data.unseen), (Missing::Error, Unseen::Error));
    let mlp = MlpSpec { hidden: vec![8], activation: ActivationSpec::Relu, dropout: 0.0 };
    assert_eq!(spec.model, ModelSpec::Mlp(mlp));
    assert_eq!((spec.train.batch_size, spec.train.accumulate), (1, 1));
    assert_eq!(spec.train.schedule, ScheduleSpec::Constant { warmup_steps: 0 });
    assert_eq!(spec.train.precision, PrecisionSpec::Auto);
}

#[test]
fn every_key_of_the_example_document_is_read() {
    let spec = parse(
        r#"
name  = "digits-cnn"
task  = "classification"
seed  = 1
[data]
train = "digits.csv"
valid = "valid.csv"
test  = "test.csv"
target = "label"
input  = { type = "image", shape = [1, 8, 8], scale = 16.0 }
columns = { zip = "category", "date of birth" = "time", note = "drop", age = "number", words = "text" }
missing = "indicator"
unseen  = "other"
standardize = true
folds = 10
group = "patient_id"
time = "day"
shuffle_labels = true
[model]
family = "cnn"
hidden = [128, 64]
activation = "gelu_tanh"
dropout = 0.1
conv = [
  { channels = 32, kernel = 3, padding = "same", norm = "batch" },
  { channels = 64, kernel = 3, pool = 2, stride = 2, padding = 1, dilation = 2, groups = 4, norm = "group", residual = 2 },
  { channels = 64, kernel = 1, residual = true, padding = "valid" },
]
global_pool = "avg"
[train]
epochs = 20
batch_size = 64
accumulate = 2
optimizer = { name = "adamw", lr = 1e-3, betas = [0.9, 0.99], weight_decay = 0.1 }
schedule  = { name = "cosine", warmup_steps = 100, min_lr = 1e-4 }
grad_clip = 1.0
precision = "f32"
early_stopping = { metric = "valid_loss", patience = 5, min_delta = 0.001 }
checkpoint_every = 200
eval_every = 100
"#,
    );
    assert_eq!(spec.name, "digits-cnn");
    assert_eq!(spec.seed, 1);
    assert_eq!(spec.data.valid.as_deref(), Some("valid.csv"));
    assert_eq!(spec.data.input, Some(InputSpec::Image { shape: Some([1, 8, 8]), scale: Some(16.0) }));
    assert_eq!(spec.data.columns["date of birth"], ColumnKind::Time);
    assert_eq!(spec.data.columns.len(), 5);
    assert_eq!((spec.data.missing, spec.data.unseen), (Missing::Indicator, Unseen::Other));
    assert_eq!((spec.data.folds, spec.data.standardize), (Some(10), Some(true)));
    let ModelSpec::Cnn(cnn) = &spec.model else { panic!("a cnn") };
    assert_eq!(cnn.conv[0].padding, None);
    assert_eq!(cnn.conv[2].padding, Some(0));
    let second = ConvSpec {
        channels: 64,
        kernel: 3,
        stride: 2,
        padding: Some(1),
        dilation: 2,
        groups: 4,
        norm: Some(ConvNorm::Group),
        pool: Some(2),
        residual: Some(2),
    };
    assert_eq!(cnn.conv[1], second);
    assert_eq!(cnn.conv[2].residual, Some(1));
    assert_eq!((cnn.global_pool, cnn.activation), (Some(PoolKind::Avg), ActivationSpec::GeluTanh));
    let adamw = OptimizerSpec::Adamw { lr: 1e-3, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.1 };
    assert_eq!(spec.train.optimizer, adamw);
    assert_eq!(spec.train.schedule, ScheduleSpec::Cosine { warmup_steps: 100, min_lr: 1e-4 });
    let stopping = EarlyStopping { metric: "valid_loss".into(), patience: 5, min_delta: 0.001 };
    assert_eq!(spec.train.early_stopping, Some(stopping));
    assert_eq!((spec.train.checkpoint_every, spec.train.eval_every), (Some(200), Some(100)));
}

#[test]
fn the_recipes_grammar_is_read() {
    let recipes = [
        // nanoGPT's shakespeare-char on a CPU.
        with(
            "language_modeling",
            "tokenizer = \"char\"\nvalid_fraction = 0.1",
            "family = \"transformer\"\nvariant = \"decoder\"\nnum_layers = 4\nnhead = 4\nd_model = 128\n\
             dim_feedforward = 512\ncontext = 64\ndropout = 0.0\nbias = false\nactivation = \"gelu\"\n\
             norm_first = true\ntie_embeddings = true",
            "steps = 2000\nbatch_size = 12\ngrad_clip = 1.0\n\
             optimizer = { name = \"adamw\", lr = 1e-3, betas = [0.9, 0.99], weight_decay = 0.1 }\n\
             schedule = { name = \"cosine\", warmup_steps = 100, min_lr = 1e-4 }",
        ),
        // minGPT's sort and adder.
        with(
            "language_modeling",
            "tokenizer = \"char\"\nvalid = \"v.jsonl\"",
            "family = \"transformer\"\nvariant = \"decoder\"\nnum_decoder_layers = 3\nnhead = 3\nd_model = 48\ncontext = 16",
            "steps = 2000\nbatch_size = 64\noptimizer = { name = \"adamw\", lr = 5e-4, betas = [0.9, 0.95] }",
        ),
        // The Keras addition, in both ways of saying its halves.
        with(
            "sequence_to_sequence",
            "tokenizer = \"char\"\nvalid_fraction = 0.1",
            "family = \"lstm\"\nhidden_size = 128\nrepeat = true\none_hot = true",
            "epochs = 55\nbatch_size = 32\noptimizer = { name = \"adam\", lr = 1e-3 }",
        ),
        with(
            "sequence_to_sequence",
            "tokenizer = \"char\"",
            "family = \"lstm\"\nencoder = { hidden_size = 128 }\ndecoder = { hidden_size = 128 }\nrepeat = true",
            "epochs = 55",
        ),
        // The article's Transformer.
        with(
            "sequence_to_sequence",
            "tokenizer = \"bpe:8192\"",
            "family = \"transformer\"\nvariant = \"encoder_decoder\"\nd_model = 32\nnhead = 4\nnum_layers = 2\ndim_feedforward = 64",
            "epochs = 1",
        ),
        // A speech command, a series, a text, a forecast, a plain table.
        with(
            "classification",
            "input = { type = \"audio\", sample_rate = 8000, n_mels = 40, window_ms = 25, hop_ms = 10, seconds = 1, truncate = true }",
            "family = \"cnn\"\nconv = [{ channels = 8, kernel = 3 }]",
            "epochs = 1\noptimizer = { name = \"momentum\", lr = 0.1, nesterov = true }\nschedule = { name = \"step\", step_size = 100 }",
        ),
        with(
            "classification",
            "input = { type = \"series\" }",
            "family = \"gru\"\nhidden_size = 8\nnum_layers = 2\nbidirectional = true\ndropout = 0.2\nhead = \"step\"",
            "epochs = 1",
        ),
        with(
            "classification",
            "input = { type = \"text\", max_tokens = 64 }\ntokenizer = \"my/tokenizer.json\"",
            "family = \"transformer\"\nvariant = \"encoder\"\nnum_encoder_layers = 2\npositional = \"rope\"\nnorm = \"rms\"",
            "epochs = 1\nearly_stopping = { metric = \"valid_f1_macro\", patience = 2 }",
        )
        .replace("train = \"rows\"", "train = \"rows\"\nvalid_fraction = 0.2"),
        with(
            "forecasting",
            "target = [\"sales\"]\nwindow = 24\nhorizon = 4\nseason = 12\ntime = \"month\"",
            "family = \"rnn\"\nhidden_size = 8",
            "epochs = 1\noptimizer = { name = \"sgd\", lr = 1, momentum = 0.5, dampening = 0.1, weight_decay = 0.01 }\nschedule = { name = \"linear\", warmup_steps = 3 }",
        ),
        with("regression", "target = [\"a\", \"b\"]", "family = \"mlp\"\nhidden = []", "steps = 5\nprecision = \"bf16\""),
    ];
    for text in recipes {
        check(&text, &[]);
        // What was parsed is what a manifest keeps.
        let spec = parse(&text);
        let kept = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&kept).unwrap(), spec);
    }
}

#[test]
fn unset_keys_have_pytorchs_defaults() {
    let transformer = |variant: &str, task: &str| {
        let model = format!("family = \"transformer\"\nvariant = \"{variant}\"");
        match parse(&with(task, "", &model, "epochs = 1")).model {
            ModelSpec::Transformer(spec) => spec,
            other => panic!("{other:?}"),
        }
    };
    // torch.nn.Transformer().
    let both = transformer("encoder_decoder", "sequence_to_sequence");
    assert_eq!((both.d_model, both.nhead, both.dim_feedforward), (512, 8, 2048));
    assert_eq!((both.num_encoder_layers, both.num_decoder_layers), (6, 6));
    assert_eq!((both.dropout, both.layer_norm_eps), (0.1, 1e-5));
    assert_eq!((both.activation, both.norm_first, both.bias), (ActivationSpec::Relu, false, true));
    assert_eq!((both.positional, both.tie_embeddings), (Positional::Sinusoidal, false));
    let decoder = transformer("decoder", "language_modeling");
    assert_eq!((decoder.num_encoder_layers, decoder.num_decoder_layers), (0, 6));
    assert_eq!(decoder.positional, Positional::Learned);
    let encoder = transformer("encoder", "classification");
    assert_eq!((encoder.num_encoder_layers, encoder.num_decoder_layers), (6, 0));

    let optimizer = |text: &str| {
        parse(&PLAIN.replace("epochs = 1", &format!("epochs = 1\noptimizer = {text}"))).train.optimizer
    };
    let adam = OptimizerSpec::Adam { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 };
    assert_eq!(optimizer("{ name = \"adam\" }"), adam);
    let adamw = OptimizerSpec::Adamw { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 1e-2 };
    assert_eq!(optimizer("{ name = \"adamw\" }"), adamw);
    assert_eq!(parse(PLAIN).train.optimizer, adamw);
    let sgd = |momentum| OptimizerSpec::Sgd {
        lr: 1e-3,
        momentum,
        dampening: 0.0,
        nesterov: false,
        weight_decay: 0.0,
    };
    assert_eq!(optimizer("{ name = \"sgd\" }"), sgd(0.0));
    assert_eq!(optimizer("{ name = \"momentum\" }"), sgd(0.9));

    let recurrent =
        |task: &str| match parse(&with(task, "", "family = \"lstm\"\nhidden_size = 4", "epochs = 1")).model {
            ModelSpec::Lstm(spec) => spec,
            other => panic!("{other:?}"),
        };
    let last = recurrent("classification");
    assert_eq!((last.num_layers, last.bidirectional, last.dropout), (1, false, 0.0));
    assert_eq!((last.head, last.bptt), (RecurrentHead::Last, None));
    let next = recurrent("language_modeling");
    assert_eq!((next.head, next.bptt), (RecurrentHead::Next, Some(128)));
    assert_eq!(recurrent("sequence_to_sequence").head, RecurrentHead::Step);

    let conv = "family = \"cnn\"\nconv = [{ channels = 2, kernel = 3 }]";
    let ModelSpec::Cnn(cnn) = parse(&with("classification", "", conv, "epochs = 1")).model else {
        panic!("a cnn")
    };
    assert_eq!((cnn.conv[0].stride, cnn.conv[0].padding, cnn.conv[0].dilation), (1, Some(0), 1));
    assert_eq!((cnn.conv[0].groups, cnn.conv[0].norm, cnn.conv[0].pool), (1, None, None));
}

#[test]
fn all_problems_are_found_in_one_pass_with_their_places() {
    check(
        r#"name = "../digts"
task = "classification"
sed = 1
[data]
trian = "rows.csv"
valid = "v.csv"
valid_fraction = 0.1
[model]
family = "mlp"
hidden = [8, 0, "x"]
dropout = 1.0
d_model = 4
[train]
epochs = 1
steps = 2
optimizer = { name = "adam", lr = -0.1, betas = [0.9, 1.0], momentum = 0.9 }
early_stopping = { metric = "valid_acuracy", patience = 0 }
"#,
        &[
            "1:8 name out_of_range",
            "3:1 sed unknown_key",
            "4:1 data.train missing_key",
            "5:1 data.trian unknown_key",
            "7:18 data.valid_fraction contradiction",
            "10:14 model.hidden[1] out_of_range",
            "10:17 model.hidden[2] wrong_type",
            "11:11 model.dropout out_of_range",
            "12:1 model.d_model unknown_key",
            "15:9 train.steps contradiction",
            "16:35 train.optimizer.lr out_of_range",
            "16:55 train.optimizer.betas[1] out_of_range",
            "16:61 train.optimizer.momentum unknown_key",
            "17:29 train.early_stopping.metric contradiction",
            "17:57 train.early_stopping.patience out_of_range",
        ],
    );
}

#[test]
fn an_unknown_key_says_what_was_meant_or_whose_it_is() {
    let fix = |from: &str, to: &str| {
        let errors = Spec::from_toml(&PLAIN.replace(from, to), "s.toml").unwrap_err();
        assert_eq!(errors.problems.len(), 1, "{errors}");
        (errors.problems[0].message.clone(), errors.problems[0].fix.clone())
    };
    assert_eq!(fix("epochs = 1", "epochs = 1\nbatchsize = 3").1, "did you mean `batch_size`?");
    assert_eq!(fix("\"mlp\"", "\"mpl\"").1, "did you mean \"mlp\"?");
    let (message, _) = fix("hidden = [8]", "hidden = [8]\nnhead = 2");
    assert_eq!(message, "belongs to the family transformer");
    let (_, fix) = fix("epochs = 1", "epochs = 1\nflavour = 1");
    assert!(fix.contains("known here: epochs, steps"), "{fix}");
}

#[test]
fn syntax_errors_have_their_place_and_missing_tables_are_named() {
    let found = problems("name = \"m\"\ntask = \n[data]\ntrain = \"x\"\n");
    assert!(found.iter().all(|line| line.ends_with("syntax")), "{found:?}");
    assert!(found[0].starts_with("2:"), "{found:?}");
    check(
        "",
        &[
            "1:1 name missing_key",
            "1:1 task missing_key",
            "1:1 data missing_key",
            "1:1 model missing_key",
            "1:1 train missing_key",
        ],
    );
}

#[test]
fn columns_count_characters_and_a_byte_order_mark_and_crlf_do_not_shift_them() {
    check(&PLAIN.replace("\"m\"", "\"é\", x").replace(", x", ""), &["1:8 name out_of_range"]);
    let text = PLAIN.replace("hidden = [8]", "\"é\" = 1 # and\nhidden = [0]");
    check(&text, &["7:1 model.\"é\" unknown_key", "8:11 model.hidden[0] out_of_range"]);
    check(&format!("\u{feff}{}", PLAIN.replace('\n', "\r\n")), &[]);
    let crlf = PLAIN.replace("epochs = 1", "epochs = 0").replace('\n', "\r\n");
    check(&crlf, &["9:10 train.epochs out_of_range"]);
}

#[test]
fn json_has_the_same_grammar_and_the_same_problems_without_places() {
    let json = serde_json::json!({
        "name": "m", "task": "classification",
        "data": { "train": "rows.csv" },
        "model": { "family": "mlp", "hidden": [8] },
        "train": { "epochs": 1 }
    });
    assert_eq!(Spec::from_json(&json).unwrap(), parse(PLAIN));
    let mut bad = json.clone();
    bad["train"]["epochs"] = serde_json::json!(null);
    bad["model"]["hiden"] = serde_json::json!([1]);
    bad["seed"] = serde_json::json!(-1);
    let errors = Spec::from_json(&bad).unwrap_err();
    let mut found: Vec<_> =
        errors.problems.iter().map(|p| (p.key.as_str(), p.code.as_str(), p.line)).collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            ("model.hiden", "unknown_key", None),
            ("seed", "out_of_range", None),
            ("train.epochs", "wrong_type", None)
        ]
    );
    assert_eq!(Spec::from_json(&serde_json::json!([1])).unwrap_err().problems.len(), 1);
    let large = serde_json::json!({ "seed": u64::MAX });
    assert!(Spec::from_json(&large).unwrap_err().problems.iter().all(|p| p.key != "seed"));
}

#[test]
fn training_on_changed_inputs_is_read_with_its_defaults() {
    let with = |robust: &str| PLAIN.replace("epochs = 1", &format!("epochs = 1\nrobust = {robust}"));
    let read = |robust: &str| parse(&with(robust)).train.robust.unwrap();
    let pgd = PgdSpec { norm: NormSpec::Linf, eps: 0.1, steps: 7, step: 2.5 / 7.0 };
    assert_eq!(read("{ method = \"adversarial\", eps = 0.1 }"), RobustSpec::Adversarial(pgd));
    let trades = read("{ method = \"trades\", eps = 0.1, steps = 5, step = 0.3, norm = \"l2\" }");
    let pgd = PgdSpec { norm: NormSpec::L2, eps: 0.1, steps: 5, step: 0.3 };
    assert_eq!(trades, RobustSpec::Trades { pgd, beta: 6.0 });
    assert_eq!(read("{ method = \"noise\", std = 0.25 }"), RobustSpec::Noise { std: 0.25 });
    check(&with("{ method = \"adversarial\" }"), &["10:10 train.robust.eps missing_key"]);
    check(&with("{ method = \"noise\", std = 0 }"), &["10:36 train.robust.std out_of_range"]);
    check(&with("{ method = \"noise\", std = 1, beta = 2 }"), &["10:39 train.robust.beta unknown_key"]);
    let regression = with("{ method = \"trades\", eps = 1 }").replace("classification", "regression");
    check(&regression, &["10:10 train.robust contradiction"]);
}

#[test]
fn a_name_has_no_path_parts() {
    for good in ["digits-cnn", "org/digits", "7"] {
        check(&PLAIN.replace("\"m\"", &format!("{good:?}")), &[]);
    }
    for bad in ["", "../x", "/etc", "a\\b", "a@1", "a:b", ".hidden", "-flag", "a/b/c", "a b", "é"] {
        let text = PLAIN.replace("\"m\"", &format!("{bad:?}"));
        check(&text, &["1:8 name out_of_range"]);
    }
}

#[test]
fn errors_read_as_a_compiler_writes_them() {
    let errors = Spec::from_toml(&PLAIN.replace("epochs = 1", "epochs = 0"), "spec.toml").unwrap_err();
    assert_eq!(
        errors.to_string(),
        "spec.toml:9:10: train.epochs: must be at least 1, is 0 (fix: write 1 or more)"
    );
}

#[test]
fn every_recipe_and_starter_of_this_repository_is_read() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let mut n_read = 0;
    for folder in ["recipes", "crates/lyceum/starter"] {
        for entry in std::fs::read_dir(format!("{root}/{folder}")).unwrap() {
            let path = entry.unwrap().path();
            // What a choice reads is another document.
            let is_choice = path.to_string_lossy().ends_with("-choice.toml");
            if path.extension().is_some_and(|extension| extension == "toml") && !is_choice {
                let text = std::fs::read_to_string(&path).unwrap();
                Spec::from_toml(&text, &path.display().to_string())
                    .unwrap_or_else(|errors| panic!("{errors}"));
                n_read += 1;
            }
        }
    }
    assert!(n_read > 20, "{n_read} were read");
}
