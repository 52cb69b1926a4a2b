//! The commands, one file each: arguments, the calls below, the result in both formats.

pub mod admin;
pub mod alias;
pub mod attack;
pub mod audit;
pub mod backup;
pub mod batches;
pub mod bench;
pub mod blobs;
pub mod budgets;
pub mod calibrate;
pub mod card;
pub mod cascade;
pub mod choose;
pub mod completions;
pub mod config;
pub mod doctor;
pub mod drift;
pub mod elsewhere;
pub mod embed;
pub mod eval;
pub mod explain;
pub mod export;
pub mod files;
pub mod import;
pub mod jobs;
pub mod keys;
pub mod lineage;
pub mod ls;
pub mod openapi;
pub mod pii;
pub mod predict;
pub mod preview;
pub mod prices;
pub mod privacy;
pub mod promote;
pub mod ps;
pub mod pull;
pub mod quickstart;
pub mod rm;
pub mod run;
pub mod serve;
pub mod show;
pub mod train;
pub mod usage;

use crate::cli::{Cli, Command};
use crate::config::{Config, LogFormat, Sources};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Format;
use crate::remote::{Access, Client};
use lyceum_types::control::Control;
use lyceum_types::ids::Project;

/// Runs what was typed.
pub fn run(cli: Cli) -> Result<(), Failure> {
    let is_doctor = matches!(cli.command, Command::Doctor(_));
    let answers = matches!(cli.command, Command::Serve(_) | Command::Quickstart(_) | Command::Bench(_));
    let config = Config::load(&cli.global, &Sources::of_process()).map_err(|failure| match is_doctor {
        true => doctor::only_configuration(cli.global.json, failure),
        false => failure,
    })?;
    log_to_stderr(&config)?;
    keep_memory_private();
    if !is_doctor {
        doctor::chosen_processor()?;
    }
    if config.threads.value > 0 {
        lyceum_kernels::pool::set_threads(config.threads.value);
    }
    let format = if cli.global.json { Format::Json } else { Format::People };
    let access = Access::of(&cli.global);
    let (control, project) = (Control::new(), Project::default_project());
    let context = Context { config, format, control, project, access, handed: None };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(move || {
            if answers {
                lyceum_kernels::turns::short();
            }
        })
        .build()
        .map_err(|error| Failure::internal("the runtime does not start", &error))?;
    runtime.block_on(async {
        watch_for_interrupts(context.control.clone(), context.config.log_format.value);
        dispatch(cli.command, &context).await
    })
}

async fn dispatch(command: Command, context: &Context) -> Result<(), Failure> {
    if let Some(client) = asked_elsewhere(&command, context)? {
        return elsewhere::dispatch(command, context, &client).await;
    }
    match command {
        Command::Files(args) => args.run(),
        Command::Batches(args) => args.run(),
        Command::Bench(args) => args.run(context).await,
        Command::Quickstart(args) => args.run(context).await,
        Command::Serve(args) => args.run(context).await,
        Command::Preview(args) => args.run(context).await,
        Command::Train(args) => args.run(context).await,
        Command::Choose(args) => args.run(context).await,
        Command::Eval(args) => args.run(context).await,
        Command::Attack(args) => args.run(context).await,
        Command::Calibrate(args) => args.run(context).await,
        Command::Cascade(args) => args.run(context).await,
        Command::Drift(args) => args.run(),
        Command::Predict(args) => args.run(context).await,
        Command::Explain(args) => args.run(context).await,
        Command::Embed(args) => args.run(context).await,
        Command::Pull(args) => args.run(context).await,
        Command::Run(args) => args.run(context).await,
        Command::Import(args) => args.run(context).await,
        Command::Export(args) => args.run(context).await,
        Command::Card(args) => args.run(context).await,
        Command::Ls(args) => args.run(context).await,
        Command::Show(args) => args.run(context).await,
        Command::Alias(args) => args.run(context).await,
        Command::Approve(args) => args.run(context).await,
        Command::Lineage(args) => args.run(context).await,
        Command::Backup(args) => args.run(context).await,
        Command::Blobs(args) => args.run(context).await,
        Command::Promote(args) => args.run(context).await,
        Command::Ps(args) => args.run(context).await,
        Command::Stop(args) => args.run(context).await,
        Command::Rm(args) => args.run(context).await,
        Command::Jobs(args) => args.run(context).await,
        Command::Keys(args) => args.run(context).await,
        Command::Admin(args) => args.run(context).await,
        Command::Audit(args) => args.run(context).await,
        Command::Privacy(args) => args.run(context).await,
        Command::Pii(args) => args.run(context).await,
        Command::Usage(args) => args.run(context).await,
        Command::Prices(args) => args.run(context).await,
        Command::Budgets(args) => args.run(context).await,
        Command::Doctor(args) => args.run(context).await,
        Command::Config(args) => args.run(context),
        Command::Completions(args) => args.run(),
        Command::Openapi(args) => args.run(),
    }
}

/// The server that a command is for; None: the data folder is meant, or the command needs neither.
fn asked_elsewhere(command: &Command, context: &Context) -> Result<Option<Client>, Failure> {
    match command {
        Command::Ps(_)
        | Command::Stop(_)
        | Command::Bench(_)
        // It looks at a server also without a key.
        | Command::Doctor(_)
        | Command::Config(_)
        | Command::Completions(_) => Ok(None),
        // Its texts hold what should go nowhere: only who says so with the command sends them.
        Command::Pii(_) => context.access.client_typed(),
        _ => context.access.client(),
    }
}

/// The first Ctrl-C (or SIGTERM) asks the work to end; the second does not wait for it.
fn watch_for_interrupts(control: Control, format: LogFormat) {
    tokio::spawn(async move {
        if asked_to_end().await.is_err() {
            return;
        }
        control.cancel();
        match format {
            LogFormat::Text => eprintln!("stopping; Ctrl-C again ends at once"),
            LogFormat::Json => tracing::warn!("stopping"),
        }
        if asked_to_end().await.is_ok() {
            std::process::exit(i32::from(Exit::Interrupted.code()));
        }
    });
}

async fn asked_to_end() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

fn log_to_stderr(config: &Config) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log.value).map_err(|error| {
        Failure::usage(format!("log: {error}"), "it is no filter", "write a level, as in log = \"info\"")
    })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format.value {
        LogFormat::Text => lines.with_ansi(crate::output::stderr_has_color()).init(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).init(),
    }
    Ok(())
}

/// What stands in memory (prompts, keys) goes into no core dump, neither that of the kernel nor that of a program which
/// collects them; of another user's processes none may look in.
fn keep_memory_private() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        let limited = setrlimit(Resource::Core, none);
        if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable).and(limited) {
            tracing::warn!(%error, "core dumps are not off: a crash may write what is in memory to the disk");
        }
    }
}
