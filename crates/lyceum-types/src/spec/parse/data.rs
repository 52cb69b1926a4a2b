//! `[data]`: where rows come from and how they become numbers.

use super::ProblemCode;
use super::section::{FRACTION, POSITIVE, Section};
use crate::spec::{ColumnKind, DataSpec, InputSpec, Missing, TokenizerSpec, Unseen};

const COLUMN_KINDS: &[(&str, ColumnKind)] = &[
    ("number", ColumnKind::Number),
    ("category", ColumnKind::Category),
    ("text", ColumnKind::Text),
    ("time", ColumnKind::Time),
    ("drop", ColumnKind::Drop),
];
const MISSING: &[(&str, Missing)] = &[
    ("error", Missing::Error),
    ("mean", Missing::Mean),
    ("median", Missing::Median),
    ("indicator", Missing::Indicator),
];
const UNSEEN: &[(&str, Unseen)] = &[("error", Unseen::Error), ("other", Unseen::Other)];

/// The longest side of an image, and the most steps, mel bands or channels of anything else.
const SIDE_MAX: usize = 65_536;
/// Byte-level BPE starts with the 256 bytes.
const BPE_ENTRIES: std::ops::RangeInclusive<usize> = 257..=1_000_000;

pub(super) fn read(mut section: Section<'_>) -> DataSpec {
    section.require("train", "the file or folder of training rows", "train = \"rows.csv\"");
    let data = DataSpec {
        train: section.text("train").unwrap_or_default(),
        valid: section.text("valid"),
        valid_fraction: section.number("valid_fraction", FRACTION),
        test: section.text("test"),
        target: section.texts("target").unwrap_or_default(),
        features: section.texts("features").unwrap_or_else(|| vec!["*".into()]),
        input: section.section("input").and_then(input),
        tokenizer: tokenizer(&mut section),
        columns: section
            .section("columns")
            .map(|columns| columns.choices_by_name(COLUMN_KINDS).into_iter().collect())
            .unwrap_or_default(),
        missing: section.choice("missing", MISSING).unwrap_or(Missing::Error),
        unseen: section.choice("unseen", UNSEEN).unwrap_or(Unseen::Error),
        standardize: section.flag("standardize"),
        folds: section.size("folds", 2, 1000),
        group: section.text("group"),
        window: section.size("window", 1, SIDE_MAX),
        horizon: section.size("horizon", 1, SIDE_MAX),
        time: section.text("time"),
        season: section.size("season", 1, SIDE_MAX),
        shuffle_labels: section.flag("shuffle_labels").unwrap_or(false),
    };
    section.finish();
    data
}

#[derive(Clone, Copy)]
enum InputType {
    Tabular,
    Image,
    Text,
    Audio,
    Series,
}

const INPUT_TYPES: &[(&str, InputType)] = &[
    ("tabular", InputType::Tabular),
    ("image", InputType::Image),
    ("text", InputType::Text),
    ("audio", InputType::Audio),
    ("series", InputType::Series),
];

fn input(mut section: Section<'_>) -> Option<InputSpec> {
    section.require("type", "what a row is", "type = \"image\"");
    let input_type = section.choice("type", INPUT_TYPES)?;
    section.elsewhere(&["shape", "scale"], "input type \"image\"");
    section.elsewhere(&["max_tokens"], "input type \"text\"");
    let audio = ["sample_rate", "n_mels", "window_ms", "hop_ms", "seconds", "truncate"];
    section.elsewhere(&audio, "input type \"audio\"");
    section.elsewhere(&["channels"], "input type \"series\" (an image says its channels in `shape`)");
    let input = match input_type {
        InputType::Tabular => InputSpec::Tabular,
        InputType::Image => {
            InputSpec::Image { shape: shape(&mut section), scale: section.number("scale", POSITIVE) }
        }
        InputType::Text => InputSpec::Text { max_tokens: section.size("max_tokens", 1, 1 << 20) },
        InputType::Series => InputSpec::Series { channels: section.size_or("channels", 1, 1, SIDE_MAX) },
        InputType::Audio => audio_input(&mut section),
    };
    section.finish();
    Some(input)
}

fn shape(section: &mut Section<'_>) -> Option<[usize; 3]> {
    let sides = section.sizes("shape", 1, SIDE_MAX)?;
    let shape = <[usize; 3]>::try_from(sides.as_slice()).ok();
    if shape.is_none() {
        let message = format!("must be [channels, height, width], has {} numbers", sides.len());
        section.note("shape", ProblemCode::OutOfRange, message, "write as in shape = [1, 8, 8]");
    }
    shape
}

/// Defaults of keyword spotting: one second at 16 kHz, 25 ms windows every 10 ms, 40 mel bands.
fn audio_input(section: &mut Section<'_>) -> InputSpec {
    section.not_yet("resample", "changing a recording's rate");
    let sample_rate = section.size_or("sample_rate", 16_000, 1000, 384_000);
    let window_ms = section.number_or("window_ms", 25.0, POSITIVE);
    let hop_ms = section.number_or("hop_ms", 10.0, POSITIVE);
    let seconds = section.number_or("seconds", 1.0, POSITIVE);
    if hop_ms > window_ms {
        let message = format!("{hop_ms} ms is longer than window_ms, {window_ms} ms: sound would be skipped");
        section.note("hop_ms", ProblemCode::Contradiction, message, "write a hop of at most the window");
    }
    if window_ms > seconds * 1000.0 {
        let message = format!("{window_ms} ms is longer than a whole clip of {seconds} s");
        section.note(
            "window_ms",
            ProblemCode::Contradiction,
            message,
            "write a shorter window or longer clips",
        );
    }
    if seconds > 3600.0 {
        let message = format!("must be at most 3600, is {seconds}");
        section.note("seconds", ProblemCode::OutOfRange, message, "write a number of seconds up to 3600");
    }
    InputSpec::Audio {
        sample_rate: u32::try_from(sample_rate).expect("the bound was checked: bug"),
        n_mels: section.size_or("n_mels", 40, 1, 1024),
        window_ms,
        hop_ms,
        seconds,
        truncate: section.flag("truncate").unwrap_or(false),
    }
}

fn tokenizer(section: &mut Section<'_>) -> Option<TokenizerSpec> {
    let text = section.text("tokenizer")?;
    match text.as_str() {
        "char" => return Some(TokenizerSpec::Char),
        "byte" => return Some(TokenizerSpec::Byte),
        _ => {}
    }
    let fix = "write \"char\", \"byte\", \"bpe:8192\" or the path of a tokenizer.json";
    if let Some(entries) = text.strip_prefix("bpe:") {
        return match entries.parse::<usize>() {
            Ok(entries) if BPE_ENTRIES.contains(&entries) => Some(TokenizerSpec::Bpe(entries)),
            Ok(entries) => {
                let (min, max) = (BPE_ENTRIES.start(), BPE_ENTRIES.end());
                let message = format!("a BPE vocabulary has from {min} to {max} entries, not {entries}");
                section.note("tokenizer", ProblemCode::OutOfRange, message, "write as in \"bpe:8192\"");
                None
            }
            Err(_) => {
                let message = format!("\"{entries}\" is not a number of entries");
                section.note("tokenizer", ProblemCode::UnknownValue, message, "write as in \"bpe:8192\"");
                None
            }
        };
    }
    if text.ends_with(".json") {
        return Some(TokenizerSpec::File(text));
    }
    let message = format!("\"{text}\" is no tokenizer");
    section.note("tokenizer", ProblemCode::UnknownValue, message, fix);
    None
}
