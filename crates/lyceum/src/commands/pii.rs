//! `lyceum pii analyze|anonymize FILE`: personal data and secrets of a text file, on this machine and without a server, or
//! by a server where `--url` is typed (`LYCEUM_URL` alone sends no text away). Names take a model (`--ner-model`), which is
//! asked as the server's routes ask it.

use crate::assemble;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::remote::Client;
use clap::{Args, Subcommand, ValueEnum};
use lyceum_guard::operate::{Hash, Operator, Operators};
use lyceum_guard::{Analyser, GuardError, Kind, Names, Rewriter, Wanted};
use lyceum_service::guard::pii::{self, Aggregation, Given, Request};
use lyceum_service::{Payer, Service};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// A text file; `-` is stdin. It is read on this machine, and goes to a server only where --url names one: the
    /// variable LYCEUM_URL is not followed
    file: PathBuf,
    /// What is looked for, as EMAIL_ADDRESS,IBAN_CODE (default: everything that is known)
    #[arg(long, value_name = "ENTITIES", value_delimiter = ',')]
    entities: Option<Vec<String>>,
    /// The lowest score of a finding, 0 to 1
    #[arg(long, default_value_t = Wanted::THRESHOLD)]
    threshold: f32,
    /// An imported model that gives labels to tokens: with it PERSON, LOCATION, ORGANIZATION, NRP and DATE_TIME are found
    #[arg(long, value_name = "MODEL")]
    ner_model: Option<String>,
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
            if kind.takes_a_model() && self.ner_model.is_none() {
                let message = format!("{kind} takes a model that knows names, and none is named");
                let fix = "lyceum import a token classifier, and add --ner-model NAME";
                return Err(Failure::usage(message, "no rule finds names", fix));
            }
            Ok(kind)
        };
        let kinds = self.entities.as_ref().map(|names| names.iter().map(kind).collect()).transpose()?;
        Ok(Wanted { kinds, threshold: self.threshold })
    }

    /// The file as one text.
    fn whole(&self) -> Result<String, Failure> {
        let mut text = String::new();
        let read = self.open()?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
        read.map_err(|error| Failure::file("read", &self.file, &error))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            let message = format!("{} has more than {FILE_BYTES_MAX} bytes", self.file.display());
            return Err(Failure::usage(message, "it is read as a whole", "take it in parts"));
        }
        Ok(text)
    }

    /// What is looked for with a model of names, and the use cases that ask it.
    async fn by_model(&self, context: &Context) -> Result<(Arc<Service>, pii::Looking), Failure> {
        let looking = pii::Looking {
            wanted: self.wanted()?,
            ner_model: self.ner_model.clone(),
            aggregation: Aggregation::default(),
        };
        Ok((assemble::service(&context.config, context.store().await?)?, looking))
    }

    /// What a server is asked.
    fn body(&self) -> Result<Value, Failure> {
        self.wanted()?;
        let mut body = json!({"text": self.whole()?, "score_threshold": self.threshold});
        if let Some(entities) = &self.entities {
            body["entities"] = json!(entities);
        }
        if let Some(model) = &self.ner_model {
            body["ner_model"] = json!(model);
        }
        Ok(body)
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
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            PiiCommand::Analyze(args) => args.run(context).await,
            PiiCommand::Anonymize(args) => match args.looking.ner_model {
                Some(_) => args.by_model(context).await,
                None => args.run(),
            },
        }
    }

    /// The same by a server, which reads the whole text.
    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        match self.command {
            PiiCommand::Analyze(args) => args.run_remote(context, client),
            PiiCommand::Anonymize(args) => args.run_remote(client),
        }
    }
}

/// A finding as it is shown.
struct Shown {
    entity: String,
    start: usize,
    end: usize,
    score: f64,
    why: String,
    text: Option<String>,
}

impl AnalyzeArgs {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let wanted = self.looking.wanted()?;
        let text = self.looking.whole()?;
        let found = match self.looking.ner_model {
            None => Analyser::default().analyse(&text, &wanted).map_err(failed)?,
            Some(_) => {
                let (service, looking) = self.looking.by_model(context).await?;
                let payer = Payer::local(&context.project);
                let found = pii::analyze(&service, &payer, vec![text.clone()], looking).await;
                match found {
                    Ok(mut found) => found.pop().unwrap_or_default(),
                    Err(error) => return Err(context.told(service.store(), error).await),
                }
            }
        };
        let shown = found.into_iter().map(|found| Shown {
            entity: found.kind.to_string(),
            start: found.start,
            end: found.end,
            score: f64::from(found.score),
            why: found.why.to_owned(),
            text: self.show.then(|| text[found.bytes].to_owned()),
        });
        self.say(context, &shown.collect::<Vec<_>>());
        Ok(())
    }

    fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let mut body = self.looking.body()?;
        body["return_decision_process"] = json!(true);
        let found = client.post("/v1/pii/analyze", &body)?;
        let characters: Vec<char> = body["text"].as_str().unwrap_or_default().chars().collect();
        let read = |found: &Value| {
            let place = |name: &str| found[name].as_u64().map(|at| at as usize);
            let (start, end) = (place("start")?, place("end")?);
            let text = characters.get(start..end)?.iter().collect();
            Some(Shown {
                entity: found["entity_type"].as_str()?.to_owned(),
                start,
                end,
                score: found["score"].as_f64()?,
                why: found["analysis_explanation"]["textual_explanation"].as_str()?.to_owned(),
                text: self.show.then_some(text),
            })
        };
        let shown = found.as_array().and_then(|all| all.iter().map(read).collect::<Option<Vec<_>>>());
        self.say(context, &shown.ok_or_else(unread)?);
        Ok(())
    }

    fn say(&self, context: &Context, found: &[Shown]) {
        if context.is_json() {
            for Shown { entity, start, end, score, why, text } in found {
                let mut line =
                    json!({"entity_type": entity, "start": start, "end": end, "score": score, "why": why});
                if let Some(text) = text {
                    line["text"] = text.as_str().into();
                }
                output::json_line(&line);
            }
            return;
        }
        let row = |found: &Shown| {
            let (start, end) = (found.start.to_string(), found.end.to_string());
            let mut row =
                vec![found.entity.clone(), start, end, format!("{:.2}", found.score), found.why.clone()];
            row.extend(found.text.clone());
            row
        };
        let rows: Vec<Vec<String>> = found.iter().map(row).collect();
        if rows.is_empty() {
            output::note("nothing was found");
            return;
        }
        let header = ["entity", "start", "end", "score", "why", "text"];
        output::table(&header[..if self.show { 6 } else { 5 }], &rows);
    }
}

fn unread() -> Failure {
    let why = "its findings are none that this release reads";
    Failure::new(Exit::Unreachable, "unreachable", "the server speaks otherwise", why, "use the same release")
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

    /// With a model of names, of the text as a whole.
    async fn by_model(self, context: &Context) -> Result<(), Failure> {
        let (default, text) = (self.operator()?, self.looking.whole()?);
        let (service, looking) = self.looking.by_model(context).await?;
        let request = Request { text, findings: Given::Found(looking), default, by_kind: BTreeMap::new() };
        match pii::anonymize(&service, &Payer::local(&context.project), request).await {
            Ok(made) => {
                output::write_stdout(&made.text);
                Ok(())
            }
            Err(error) => Err(context.told(service.store(), error).await),
        }
    }

    fn run_remote(self, client: &Client) -> Result<(), Failure> {
        let mut body = self.looking.body()?;
        let name = match self.operator {
            OperatorName::Hash => {
                let why = "its key would leave this machine";
                let fix = "run it here, without --url";
                return Err(Failure::usage("--operator hash does not go with a server", why, fix));
            }
            OperatorName::Replace => "replace",
            OperatorName::Redact => "redact",
            OperatorName::Mask => "mask",
            OperatorName::Placeholder => "placeholder",
        };
        self.operator()?;
        body["anonymizers"] = json!({"DEFAULT": {"type": name}});
        let made = client.post("/v1/pii/anonymize", &body)?;
        output::write_stdout(made["text"].as_str().ok_or_else(unread)?);
        Ok(())
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
