//! Data sets from files that the tests write, good and bad.

mod archives;
mod bad;
mod folds;
mod formats;
mod texts;

use super::*;
use lyceum_types::spec::*;
use std::path::PathBuf;

/// A folder that goes away with the test, and a spec that reads from it.
struct Case {
    folder: tempfile::TempDir,
    spec: Spec,
}

impl Case {
    fn new(task: Task) -> Self {
        Case { folder: tempfile::tempdir().unwrap(), spec: spec(task) }
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn load(&self) -> Loaded {
        match load(&self.spec, self.folder.path(), &Control::new()) {
            Ok(loaded) => loaded,
            Err(error) => panic!("{error}"),
        }
    }

    fn report(&self) -> Report {
        match load(&self.spec, self.folder.path(), &Control::new()) {
            Err(DataError::Report(report)) => report,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("the data is accepted"),
        }
    }
}

fn spec(task: Task) -> Spec {
    Spec {
        name: "m".into(),
        task,
        seed: 1,
        privacy: None,
        gate: None,
        data: DataSpec {
            train: "train.csv".into(),
            valid: None,
            valid_fraction: None,
            test: None,
            target: vec![],
            features: vec!["*".into()],
            input: None,
            tokenizer: None,
            columns: Default::default(),
            missing: Missing::Error,
            unseen: Unseen::Error,
            standardize: None,
            folds: None,
            group: None,
            window: None,
            horizon: None,
            time: None,
            season: None,
            shuffle_labels: false,
        },
        model: ModelSpec::Mlp(MlpSpec { hidden: vec![8], activation: ActivationSpec::Relu, dropout: 0.0 }),
        train: TrainSpec {
            epochs: Some(1),
            steps: None,
            batch_size: 4,
            accumulate: 1,
            optimizer: OptimizerSpec::Sgd {
                lr: 0.1,
                momentum: 0.0,
                dampening: 0.0,
                nesterov: false,
                weight_decay: 0.0,
            },
            schedule: ScheduleSpec::Constant { warmup_steps: 0 },
            grad_clip: None,
            precision: PrecisionSpec::F32,
            early_stopping: None,
            checkpoint_every: None,
            checkpoints_kept: None,
            eval_every: None,
            robust: None,
        },
    }
}

fn transformer(context: usize) -> ModelSpec {
    ModelSpec::Transformer(TransformerSpec {
        variant: TransformerVariant::Decoder,
        d_model: 8,
        nhead: 2,
        num_encoder_layers: 1,
        num_decoder_layers: 1,
        dim_feedforward: 16,
        context,
        positional: Positional::Learned,
        norm: NormKind::Layer,
        norm_first: true,
        activation: ActivationSpec::Gelu,
        bias: true,
        tie_embeddings: false,
        dropout: 0.0,
        layer_norm_eps: 1e-5,
    })
}

/// An `.npy` file of format 1.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend(data);
    bytes
}

fn f32s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

fn png(width: u32, height: u32, grey: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = image::GrayImage::from_pixel(width, height, image::Luma([grey]));
    image::DynamicImage::from(picture).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn wav(rate: u32, samples: usize) -> Vec<u8> {
    let format = hound::WavSpec {
        channels: 1,
        sample_rate: rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, format).unwrap();
    for i in 0..samples {
        writer.write_sample(((i * 37) % 2000) as i16).unwrap();
    }
    writer.finalize().unwrap();
    bytes.into_inner()
}

/// Rows `x,color,label`: numbers, a category, and a class that follows x.
fn rows(n: usize) -> String {
    let mut text = "x,color,label\n".to_owned();
    for i in 0..n {
        let label = if i % 3 == 0 { "no" } else { "yes" };
        text.push_str(&format!("{}.5,{},{label}\n", i, ["red", "green"][i % 2]));
    }
    text
}

const AUDIO: InputSpec = InputSpec::Audio {
    sample_rate: 8000,
    n_mels: 10,
    window_ms: 25.0,
    hop_ms: 10.0,
    seconds: 0.2,
    truncate: false,
};
