//! `lyceum pii analyze|anonymize FILE`: personal data and secrets of a text file, on this machine and without a server.

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use clap::{Args, Subcommand, ValueEnum};
use lyceum_guard::operate::{Hash, Operator, Operators};
use lyceum_guard::{Analyser, GuardError, Kind, Names, Rewriter, Wanted};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The largest file whose places are told.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Bytes that are read at once.
const PART_BYTES: usize = 1 << 16;

#[derive(Debug, Args)]
pub struct Pii {
    #[command(subcommand)]
    command: PiiCommand,
}

#[derive(Debug, Subcommand)]
enum PiiCommand {
    /// Say what a text holds and where: entity, first character, the one behind the last, how sure
    Analyze(AnalyzeArgs),
    /// Write the text with something else in its place
    Anonymize(AnonymizeArgs),
}

#[derive(Debug, Args)]
struct Looking {
    /// A text file; `-` is stdin
    file: PathBuf,
    /// What is looked for, as EMAIL_ADDRESS,IBAN_CODE (default: everything that is known)
    #[arg(long, value_name = "ENTITIES", value_delimiter = ',')]
    entities: Option<Vec<String>>,
    /// The lowest score of a finding, 0 to 1
    #[arg(long, default_value_t = Wanted::THRESHOLD)]
    threshold: f32,
}

#[derive(Debug, Args)]
struct AnalyzeArgs {
    #[command(flatten)]
    looking: Looking,
    /// Print what was found as well
    #[arg(long)]
    show: bool,
}

#[derive(Debug, Args)]
struct AnonymizeArgs {
    #[command(flatten)]
    looking: Looking,
    /// What stands there instead
    #[arg(long, value_enum, default_value = "replace")]
    operator: OperatorName,
    /// A file with the key of `hash`: at least 16 bytes
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OperatorName {
    /// `<EMAIL_ADDRESS>`
    Replace,
    /// Nothing
    Redact,
    /// As many asterisks
    Mask,
    /// HMAC-SHA256 with the key of --key-file
    Hash,
    /// `<EMAIL_ADDRESS_1>`: equal values have equal names, and nothing brings them back
    Placeholder,
}

impl Looking {
    fn wanted(&self) -> Result<Wanted, Failure> {
        if !(0.0..=1.0).contains(&self.threshold) {
            let message = format!("--threshold {}: not between 0 and 1", self.threshold);
            return Err(Failure::usage(message, "scores are between 0 and 1", "0.5 is the default"));
        }
        let kind = |name: &String| {
            let kind = name.parse::<Kind>().map_err(|error| {
                let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
                Failure::usage(error.to_string(), "only what has a name can be looked for", known.join(", "))
            })?;
            if kind.takes_a_model() {
                let message = format!("{kind} takes a model that knows names, and this command runs none");
                let fix = "ask a server: POST /v1/pii/analyze with ner_model";
                return Err(Failure::usage(message, "no rule finds names", fix));
            }
            Ok(kind)
        };
        let kinds = self.entities.as_ref().map(|names| names.iter().map(kind).collect()).transpose()?;
        Ok(Wanted { kinds, threshold: self.threshold })
    }

    fn open(&self) -> Result<Box<dyn Read>, Failure> {
        if self.file == Path::new("-") {
            return Ok(Box::new(std::io::stdin().lock()));
        }
        let file = std::fs::File::open(&self.file);
        Ok(Box::new(file.map_err(|error| Failure::file("read", &self.file, &error))?))
    }
}

impl Pii {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            PiiCommand::Analyze(args) => args.run(context),
            PiiCommand::Anonymize(args) => args.run(),
        }
    }
}

impl AnalyzeArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let (wanted, mut text) = (self.looking.wanted()?, String::new());
        let read = self.looking.open()?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
        read.map_err(|error| Failure::file("read", &self.looking.file, &error))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            let message = format!("{} has more than {FILE_BYTES_MAX} bytes", self.looking.file.display());
            return Err(Failure::usage(message, "its places are told as a whole", "analyse it in parts"));
        }
        let found = Analyser::default().analyse(&text, &wanted).map_err(failed)?;
        let shown = |bytes: std::ops::Range<usize>| self.show.then(|| text[bytes].to_owned());
        if context.is_json() {
            for found in found {
                let mut line = json!({"entity_type": found.kind.as_str(), "start": found.start, "end": found.end,
                    "score": found.score, "why": found.why});
                if let Some(text) = shown(found.bytes) {
                    line["text"] = text.into();
                }
                output::json_line(&line);
            }
            return Ok(());
        }
        let row = |found: lyceum_guard::Finding| {
            let mut row = vec![
                found.kind.to_string(),
                found.start.to_string(),
                found.end.to_string(),
                format!("{:.2}", found.score),
                found.why.to_owned(),
            ];
            row.extend(shown(found.bytes));
            row
        };
        let rows: Vec<Vec<String>> = found.into_iter().map(row).collect();
        if rows.is_empty() {
            output::note("nothing was found");
            return Ok(());
        }
        let header = ["entity", "start", "end", "score", "why", "text"];
        output::table(&header[..if self.show { 6 } else { 5 }], &rows);
        Ok(())
    }
}

impl AnonymizeArgs {
    /// In parts: the file may be larger than memory.
    fn run(self) -> Result<(), Failure> {
        let wanted = self.looking.wanted()?;
        let operator = self.operator()?;
        let mut operators =
            Operators { default: operator, by_kind: BTreeMap::new(), names: Names::default() };
        let mut rewriter = Rewriter::new(&Analyser::default(), &wanted);
        let (mut file, mut part, mut n_left) = (self.looking.open()?, vec![0; PART_BYTES], 0);
        let unreadable = |error: &std::io::Error| Failure::file("read", &self.looking.file, error);
        loop {
            let n = n_left + file.read(&mut part[n_left..]).map_err(|error| unreadable(&error))?;
            let is_end = n == n_left;
            // A character may be cut at the end of a part.
            let n_whole = match std::str::from_utf8(&part[..n]) {
                Ok(_) => n,
                Err(error) if error.error_len().is_none() && !is_end => error.valid_up_to(),
                Err(error) => {
                    let error = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
                    return Err(unreadable(&error));
                }
            };
            let text = std::str::from_utf8(&part[..n_whole]).expect("it was looked at: bug");
            output::write_stdout(&rewriter.push(text, &mut operators).map_err(failed)?);
            part.copy_within(n_whole..n, 0);
            n_left = n - n_whole;
            if is_end {
                output::write_stdout(&rewriter.finish(&mut operators).map_err(failed)?);
                return Ok(());
            }
        }
    }

    fn operator(&self) -> Result<Operator, Failure> {
        if self.operator != OperatorName::Hash && self.key_file.is_some() {
            let why = "the other operators have no key";
            return Err(Failure::usage("--key-file goes with --operator hash", why, "leave one of them out"));
        }
        Ok(match self.operator {
            OperatorName::Replace => Operator::Replace { new_value: None },
            OperatorName::Redact => Operator::Redact,
            OperatorName::Mask => {
                Operator::Mask { masking_char: '*', chars_to_mask: usize::MAX, from_end: false }
            }
            OperatorName::Placeholder => Operator::Placeholder,
            OperatorName::Hash => {
                let why = "without a key, values of a few digits are found by trying all of them";
                let fix = "head -c 32 /dev/urandom > key, then --key-file key";
                let Some(path) = &self.key_file else {
                    return Err(Failure::usage("--operator hash has no --key-file", why, fix));
                };
                let key = std::fs::read(path).map_err(|error| Failure::file("read", path, &error))?;
                if key.len() < lyceum_types::limits::HASH_KEY_BYTES_MIN {
                    return Err(Failure::usage("the key has less than 16 bytes", why, fix));
                }
                Operator::Hash { hash: Hash::Sha256, key }
            }
        })
    }
}

fn failed(error: GuardError) -> Failure {
    match error {
        GuardError::TooMany { .. } => Failure::usage(
            error.to_string(),
            "each value has a name",
            "use --operator replace, or a part of the file",
        ),
        error => Failure::internal("the text could not be looked through", &error),
    }
}
