//! What ships with the binary: data whose licence allows it (`starter/README.md`), and a spec for each.

/// A model that quickstart trains.
pub struct Starter {
    pub what: &'static str,
    pub spec_name: &'static str,
    pub spec: &'static str,
    /// The data's file name, as the spec names it.
    pub file: &'static str,
    pub data: &'static [u8],
    pub show: Show,
}

/// How one answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// A row of a table and its probabilities.
    Row,
    /// A picture of 8 by 8 pixels and its probabilities.
    Digit,
    /// A forecast as a small plot.
    Forecast,
    /// A text and its probabilities.
    Text,
    /// What follows a prompt.
    Continue { prompt: &'static str, max_tokens: usize },
}

macro_rules! starter {
    ($name:literal, $file:literal, $what:literal, $show:expr) => {
        Starter {
            what: $what,
            spec_name: concat!($name, ".toml"),
            spec: include_str!(concat!("../../../starter/", $name, ".toml")),
            file: $file,
            data: include_bytes!(concat!("../../../starter/", $file)),
            show: $show,
        }
    };
}

/// In the order in which they are trained: the quickest first.
pub const STARTERS: [Starter; 6] = [
    starter!("breast-cancer", "breast_cancer.csv", "a diagnosis from thirty measures (MLP)", Show::Row),
    starter!("digits", "digits.csv", "handwritten digits (CNN)", Show::Digit),
    starter!("births", "births.csv", "the next week of daily births (GRU)", Show::Forecast),
    starter!("sources", "sources.csv", "who wrote this sentence (Transformer encoder)", Show::Text),
    starter!(
        "addition",
        "addition.jsonl",
        "sums of two numbers (Transformer encoder and decoder)",
        Show::Continue { prompt: "37+58", max_tokens: 6 }
    ),
    starter!(
        "shakespeare",
        "shakespeare.txt",
        "the next character of Shakespeare (Transformer decoder)",
        Show::Continue { prompt: "ROMEO:", max_tokens: 57 }
    ),
];
