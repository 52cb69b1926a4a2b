//! What can be typed. Global flags are accepted after any subcommand, also where they change nothing.

use crate::commands;
use crate::failure::Failure;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

const EXIT_CODES: &str = "Exit codes:
  0 ok   1 failed   2 usage (command line, configuration, job spec)   3 not found
  4 auth   5 conflict   6 quota   7 unreachable   130 interrupted

Results go to stdout, everything else to stderr. With --json every line of stdout is one JSON object, and an
error is the last line of stderr: {\"error\":{\"code\",\"message\",\"why\",\"fix\",…}}.";

/// Where flags that every command takes stand in its help.
const EVERYWHERE: &str = "Everywhere";

/// Train models on your data and serve them: one binary, no cloud, no Python.
#[derive(Debug, Parser)]
#[command(name = "lyceum", version, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Default, Args)]
pub struct Global {
    /// One JSON object a line on stdout, errors as JSON on stderr
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub json: bool,
    /// Where models, jobs and keys are kept
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Threads for arithmetic (default: all cores)
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "N")]
    pub threads: Option<usize>,
    /// Ask the server at this address instead of the data folder; default: the variable LYCEUM_URL
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "URL")]
    pub url: Option<String>,
    /// The key for that server; default: the variable LYCEUM_API_KEY, which other users of the machine cannot read
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "SK")]
    pub key: Option<String>,
    /// Certificates (PEM) that --url is trusted by, in the place of those of the web; default: the variable LYCEUM_CA
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

/// Without the key.
impl std::fmt::Debug for Global {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Global { json, data_dir, threads, url, key: _, ca } = self;
        f.debug_struct("Global")
            .field("json", json)
            .field("data_dir", data_dir)
            .field("threads", threads)
            .field("url", url)
            .field("ca", ca)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train starter models on data that ships with the program, and serve them
    Quickstart(commands::quickstart::Quickstart),
    /// Serve the models over HTTP
    Serve(commands::serve::Serve),
    /// Judge the data of a job spec and show what the model will see of it
    Preview(commands::preview::Preview),
    /// Train a model as a job spec says
    Train(commands::train::Train),
    /// Race candidates on your data within limits and a budget, and take one
    Choose(commands::choose::Choose),
    /// Measure a model on a data file
    Eval(commands::eval::Eval),
    /// Attack a model, certify it, damage its inputs
    Attack(commands::attack::Attack),
    /// Whether what a served model is asked, and answers, is as it was
    Drift(commands::drift::Drift),
    /// Answer every row of a file
    Predict(commands::predict::Predict),
    /// Say why a model answers as it does
    Explain(Box<commands::explain::Explain>),
    /// Publish a version whose probabilities are calibrated
    Calibrate(commands::calibrate::Calibrate),
    /// A small model where it is sure, else a large one, with a stated risk
    Cascade(commands::cascade::CascadeCommand),
    /// Make vectors of texts
    Embed(commands::embed::Embed),
    /// Ask a model once, or talk to it
    Run(commands::run::Run),
    /// Show the models
    Ls(commands::ls::Ls),
    /// Show all that is known of one model
    Show(commands::show::Show),
    /// What is known of a model, how, and what is not: a signed card
    Card(commands::card::Card),
    /// Let the bare name serve a version that its gate held back
    Promote(commands::promote::Promote),
    /// Names that move between versions, as digits@prod
    Alias(commands::alias::Alias),
    /// Take responsibility for a version, as protected aliases ask for
    Approve(commands::alias::Approve),
    /// From the data's hashes to the names that are served
    Lineage(commands::lineage::Lineage),
    /// Back up, verify and restore everything
    Backup(commands::backup::Backup),
    /// The object store beside the data folder: check, sweep
    Blobs(commands::blobs::Blobs),
    /// Show the imported models that a running server has in memory
    Ps(commands::ps::Ps),
    /// Let a running server take a model out of memory
    Stop(commands::ps::Stop),
    /// Remove one version of a model
    Rm(commands::rm::Rm),
    /// Fetch a model from a hub and import it
    Pull(commands::pull::Pull),
    /// Take in a model that was exported, a GGUF file, or a folder in Hugging Face's layout
    Import(commands::import::Import),
    /// Write a model to a folder
    Export(commands::export::Export),
    /// Training jobs
    Jobs(commands::jobs::Jobs),
    /// What training says about single rows: calculator, ledger, budgets
    Privacy(commands::privacy::Privacy),
    /// Personal data and secrets in texts: find them, take them out
    Pii(commands::pii::Pii),
    /// Files of a server: data to train on, to choose with, to attack
    Files(commands::files::Files),
    /// Files of requests that a server answers when it has room
    Batches(commands::batches::Batches),
    /// API keys
    Keys(commands::keys::Keys),
    /// What was done and what it cost
    Usage(commands::usage::Usage),
    /// What work costs
    Prices(commands::prices::Prices),
    /// The most that may be spent
    Budgets(commands::budgets::Budgets),
    /// Organisations, projects, people, admin keys, limits, retention
    Admin(commands::admin::Admin),
    /// The log of what was done by whom
    Audit(commands::audit::Audit),
    /// Measure speed, beside a peer's
    Bench(commands::bench::Bench),
    /// Check this machine and the data folder; with --url, a server as it is seen from here
    Doctor(commands::doctor::Doctor),
    /// The configuration that holds
    Config(commands::config::Config),
    /// Print the OpenAPI document of the HTTP routes
    Openapi(commands::openapi::Openapi),
    /// Print a completion script for a shell
    Completions(commands::completions::Completions),
}

/// Whether errors are to be JSON, also those of a command line that cannot be read.
pub fn wants_json(arguments: &[OsString]) -> bool {
    arguments.iter().skip(1).take_while(|argument| *argument != "--").any(|argument| argument == "--json")
}

/// None where help or the version was printed, which is all that was asked.
pub fn parse(arguments: &[OsString]) -> Result<Option<Cli>, Failure> {
    let parsed = shaped(Cli::command()).try_get_matches_from(arguments);
    match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => Ok(Some(cli)),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            crate::output::write_stdout(&error.to_string());
            Ok(None)
        }
        Err(error) => Err(usage(&error)),
    }
}

/// What holds for every command: a negative number behind a flag is its value, and out of bounds where it is, not a
/// flag that is not there; what shows a list is `ls` and `list`.
fn shaped(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            let takes_values = arg.get_action().takes_values();
            if takes_values { arg.allow_negative_numbers(true) } else { arg }
        })
        .mut_subcommands(|command| {
            let other = match command.get_name() {
                "ls" => "list",
                "list" => "ls",
                _ => return shaped(command),
            };
            shaped(command).alias(other)
        })
}

/// clap's report in our three lines.
fn usage(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let help = "lyceum --help shows the commands, lyceum COMMAND --help their flags";
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // What comes is that command's own help.
        let mut listed = text.lines().skip_while(|line| *line != "Commands:").skip(1);
        let names: Vec<&str> = listed
            .by_ref()
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        return Failure::usage("no command was given", format!("there are {}", names.join(", ")), help);
    }
    if error.kind() == ErrorKind::MissingSubcommand {
        let why = "lyceum does one thing at a time: quickstart, train, import, run, serve, …";
        return Failure::usage("no command was given", why, help);
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let message = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let (mut why, mut tip) = (Vec::new(), None);
    for line in lines {
        if let Some(text) = line.strip_prefix("tip: ") {
            tip = Some(text.to_owned());
        } else if let Some(usage) = line.strip_prefix("Usage: ") {
            why.push(format!("it is used as: {usage}"));
        } else if !line.starts_with("For more information") {
            why.push(line.to_owned());
        }
    }
    let fix = tip.map_or_else(|| help.to_owned(), |tip| format!("{tip}; {help}"));
    Failure::usage(message, why.join("; "), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_are_taken_after_any_subcommand() {
        for line in
            ["lyceum ls --json --data-dir d --threads 2", "lyceum --json --data-dir d --threads 2 keys ls"]
        {
            let cli = parse(&typed(line)).unwrap().unwrap();
            assert!(cli.global.json && wants_json(&typed(line)), "{line}");
            assert_eq!(cli.global.data_dir, Some(PathBuf::from("d")));
            assert_eq!(cli.global.threads, Some(2));
        }
        assert!(!wants_json(&typed("lyceum show -- --json")));
    }

    #[test]
    fn a_key_is_taken_after_any_subcommand_and_shown_nowhere() {
        let line = "lyceum ls --url https://a --key sk-secret --ca ca.pem";
        let cli = parse(&typed(line)).unwrap().unwrap();
        assert_eq!(
            (cli.global.url.as_deref(), cli.global.key.as_deref()),
            (Some("https://a"), Some("sk-secret"))
        );
        assert!(!format!("{cli:?}").contains("sk-secret"));
    }

    #[test]
    fn a_slip_is_a_usage_error_with_a_hint() {
        let failure = parse(&typed("lyceum lss")).unwrap_err();
        assert_eq!((failure.exit.code(), failure.code.as_ref()), (2, "usage"));
        assert!(failure.message.contains("'lss'"), "{failure:?}");
        assert!(failure.fix.contains("'ls'"), "{failure:?}");
        assert_eq!(parse(&typed("lyceum ls --threads many")).unwrap_err().exit.code(), 2);
        assert_eq!(parse(&typed("lyceum")).unwrap_err().exit.code(), 2);
        let failure = parse(&typed("lyceum keys")).unwrap_err();
        assert!(failure.why.contains("create, ls, revoke, rotate"), "{failure:?}");
    }

    #[test]
    fn a_negative_number_is_a_value_and_no_flag() {
        let failure = parse(&typed("lyceum run m hi --max-tokens -4")).unwrap_err();
        assert!(failure.message.contains("-4 is not in 1..="), "{failure:?}");
        let cli = parse(&typed("lyceum run m -4")).unwrap().unwrap();
        assert!(matches!(cli.command, Command::Run(run) if format!("{run:?}").contains("\"-4\"")));
        shaped(Cli::command()).debug_assert();
        for line in ["lyceum list", "lyceum keys list", "lyceum budgets ls", "lyceum admin projects list"] {
            assert!(parse(&typed(line)).unwrap().is_some(), "{line}");
        }
    }

    #[test]
    fn flags_of_every_command_stand_apart_from_its_own() {
        let mut command = shaped(Cli::command());
        command.build();
        let help = command.find_subcommand_mut("serve").unwrap().render_help().to_string();
        let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("{text} in {help}"));
        assert!(at("--draft-tokens") < at("Everywhere:") && at("Everywhere:") < at("--data-dir"), "{help}");
    }
}
