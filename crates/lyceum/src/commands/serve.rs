//! `lyceum serve`: the models over HTTP, until Ctrl-C.

use crate::config::Origin;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::serving::Serving;
use crate::{assemble, output, worker};
use clap::Args;
use lyceum_api::Door;
use lyceum_api::cors::Origins;
use lyceum_api::tls::Tls;
use lyceum_service::Service;
use lyceum_store::models;
use lyceum_store::tenancy::admin_keys::{self, First};
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::limits;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

#[derive(Debug, Args)]
pub struct Serve {
    /// The address to listen on; other machines reach this one only where it is not 127.0.0.1
    #[arg(long)]
    host: Option<String>,
    /// The port; 0 takes a free one
    #[arg(long)]
    port: Option<u16>,
    /// Address and port at once, as 0.0.0.0:8317 or [::]:8317
    #[arg(long, value_name = "ADDR:PORT", conflicts_with_all = ["host", "port"])]
    listen: Option<SocketAddr>,
    /// The certificate of an encrypted server (PEM, with its chain); read again on SIGHUP
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Listen on an address that other machines reach although there is no TLS: keys can be overheard
    #[arg(long)]
    allow_plain_http: bool,
    /// Pages of which origins may ask from a browser: https://app.example,http://localhost:3000, or * for all
    #[arg(long, value_name = "ORIGINS")]
    cors_origins: Option<Origins>,
    /// When an imported model that nobody asks for leaves the memory: 90s, 30m, 12h; 0: never
    #[arg(long, value_name = "DURATION")]
    keep_alive: Option<String>,
    /// Memory for the keys and values of one language model's sequences, in MiB; fixed when it first generates
    #[arg(long, value_name = "MIB")]
    kv_cache_mib: Option<String>,
    /// What keys and values are stored as: f32, bf16 or int8
    #[arg(long, value_name = "TYPE")]
    kv_cache_type: Option<String>,
    /// Sequences of one language model that run at once
    #[arg(long, value_name = "N")]
    batch_rows: Option<String>,
    /// Tokens of one prompt in one pass
    #[arg(long, value_name = "N")]
    prefill_chunk: Option<String>,
    /// Sequences that wait or run; what comes beyond is told to come again
    #[arg(long, value_name = "N")]
    queue: Option<String>,
    /// Tokens that are guessed ahead from what was said; 0: none
    #[arg(long, value_name = "N")]
    draft_tokens: Option<String>,
    /// Memory for imported models that are loaded at once, in MiB; auto: seven tenths of the machine's
    #[arg(long, value_name = "MIB")]
    models_mib: Option<String>,
    /// What files of models of one project may take on the disk until they are imported, in MiB
    #[arg(long, value_name = "MIB")]
    model_uploads_mib: Option<String>,
    /// Keys of the scope admin may have this server fetch models from the hub of its environment (HF_ENDPOINT, HF_TOKEN)
    #[arg(long)]
    allow_pull: bool,
}

/// How often idle models are looked for.
const IDLE_LOOK: Duration = Duration::from_secs(15);
/// From when on a certificate's end is told.
pub const CERTIFICATE_ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);
const CERTIFICATE_LOOK: Duration = Duration::from_secs(86_400);

impl Serve {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut config = context.config.clone();
        self.over(&mut config.serving)?;
        let cert = self.tls_cert.as_ref().or(config.tls_cert.value.as_ref());
        let key = self.tls_key.as_ref().or(config.tls_key.value.as_ref());
        let tls = tls(cert, key)?;
        let (host, port) = match self.listen {
            Some(listen) => (listen.ip().to_string(), listen.port()),
            None => (
                self.host.clone().unwrap_or_else(|| config.host.value.clone()),
                self.port.unwrap_or(config.port.value),
            ),
        };
        let address = loopback_or(&host, tls.is_some() || self.allow_plain_http)?;
        let store = context.store().await?;
        let first = admin_keys::bootstrap(&store, &context.project, Timestamp::now()).await?;
        let service = assemble::service(&config, store)?;
        if let Some(idle) = config.serving.keep_alive.value {
            tokio::spawn(unload_idle(service.clone(), idle));
        }
        let origins = self.cors_origins.clone().unwrap_or_else(|| config.cors_origins.value.clone());
        let place = Place { address: SocketAddr::new(address, port), tls, origins };
        listen(context, service, place, first.as_ref()).await
    }

    /// Puts what the flags say over the configuration.
    fn over(&self, serving: &mut Serving) -> Result<(), Failure> {
        let allow_pull = self.allow_pull.then(|| "true".to_owned());
        for (flag, text) in [
            ("--keep-alive", &self.keep_alive),
            ("--kv-cache-mib", &self.kv_cache_mib),
            ("--kv-cache-type", &self.kv_cache_type),
            ("--batch-rows", &self.batch_rows),
            ("--prefill-chunk", &self.prefill_chunk),
            ("--queue", &self.queue),
            ("--draft-tokens", &self.draft_tokens),
            ("--models-mib", &self.models_mib),
            ("--model-uploads-mib", &self.model_uploads_mib),
            ("--allow-pull", &allow_pull),
        ] {
            let Some(text) = text else { continue };
            let key = flag.trim_start_matches('-').replace('-', "_");
            serving.set(&key, text, Origin::Flag(flag)).map_err(|why| {
                Failure::usage(format!("{flag}: {why}"), "a server keeps within it", "correct the flag")
            })?;
        }
        Ok(())
    }
}

/// How long a count of answers is in memory alone.
const DRIFT_KEPT_EVERY: Duration = Duration::from_secs(5);

/// Writes what was counted of answers, until the server ends.
async fn keep_drift(service: Arc<Service>) {
    loop {
        tokio::time::sleep(DRIFT_KEPT_EVERY).await;
        if let Err(error) = service.keep_drift().await {
            tracing::warn!(%error, "counts of answers were not written");
        }
    }
}

/// Lets idle models go, until the process ends.
async fn unload_idle(service: Arc<Service>, idle: Duration) {
    loop {
        tokio::time::sleep(IDLE_LOOK.min(idle)).await;
        let n_gone = service.unload_idle(idle);
        if n_gone > 0 {
            tracing::info!(n_gone, "idle models left the memory");
        }
    }
}

/// Where to listen, and with which certificate.
pub struct Place {
    pub address: SocketAddr,
    pub tls: Option<Tls>,
    pub origins: Origins,
}

/// Serves until the control ends it. The first keys are said once, where there are any.
pub async fn listen(
    context: &Context,
    service: Arc<Service>,
    place: Place,
    first: Option<&First>,
) -> Result<(), Failure> {
    let Place { address, tls, origins } = place;
    let tcp = bind(address).map_err(|error| cannot_listen(address, &error))?;
    let bound = tcp.local_addr().map_err(|error| cannot_listen(address, &error))?;
    let url = format!("{}://{bound}", if tls.is_some() { "https" } else { "http" });
    if let Some(tls) = tls.clone() {
        reload_on_hangup(tls)?;
    }
    if context.is_json() {
        let mut line = json!({ "event": "listening", "url": url });
        if let Some(first) = first {
            line["key"] = Value::from(first.key.1.reveal());
            line["admin_key"] = Value::from(first.admin_key.1.reveal());
        }
        output::json_line(&line);
    } else {
        output::text(format!("listening on {url}"));
        if let Some(first) = first {
            output::text(format!("the first key, shown this once: {}", first.key.1.reveal()));
            let secret = first.admin_key.1.reveal();
            output::text(format!(
                "the first admin key (projects, people, limits), shown this once: {secret}"
            ));
        }
    }
    let until = ended(context.control.clone());
    let server = start(Door { tcp, tls, origins }, service.clone(), until)?;
    // Jobs end with the server; what they left unfinished waits for the next one.
    let working = worker::work(context, &service);
    let serving = serve(context, &service, server);
    let keeping = tokio::spawn(keep_drift(service.clone()));
    let ended = tokio::try_join!(working, serving);
    keeping.abort();
    // What was counted since it was last kept.
    let kept = service.keep_drift().await;
    ended?;
    Ok(kept?)
}

type Served = JoinHandle<std::io::Result<()>>;

/// The server as a task, with traces where a collector is named.
#[cfg(feature = "otel")]
fn start(
    door: Door,
    service: Arc<Service>,
    until: impl Future<Output = ()> + Send + 'static,
) -> Result<Served, Failure> {
    let collector = lyceum_api::otel::Collector::of(|name| std::env::var(name).ok());
    let collector = collector.map_err(|error| {
        Failure::usage(error.to_string(), "spans could not be sent there", "correct or unset the variable")
    })?;
    Ok(match collector {
        Some(collector) => tokio::spawn(lyceum_api::serve_traced(door, service, collector, until)),
        None => tokio::spawn(lyceum_api::serve(door, service, until)),
    })
}

/// The server as a task. Who names a collector is told that this program sends nothing there.
#[cfg(not(feature = "otel"))]
fn start(
    door: Door,
    service: Arc<Service>,
    until: impl Future<Output = ()> + Send + 'static,
) -> Result<Served, Failure> {
    if let Some(variable) = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
        .into_iter()
        .find(|variable| std::env::var_os(variable).is_some())
    {
        output::note(format!(
            "{variable} is set, and this program was built without --features otel: no traces"
        ));
    }
    Ok(tokio::spawn(lyceum_api::serve(door, service, until)))
}

/// As `TcpListener::bind`, with a longer queue of connections: in it a refused client waits for milliseconds, beyond
/// it for a second, until its system tries again.
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(limits::CONNECTIONS_WAITING_MAX)
}

/// Says that models answer, and waits for the server's end.
async fn serve(context: &Context, service: &Service, server: Served) -> Result<(), Failure> {
    let ready = lyceum_service::health::ready(service).await?;
    let versions = models::list(service.store(), &context.project).await?;
    if context.is_json() {
        output::json_line(&json!({ "event": "ready", "models": versions.len(), "resident": ready.models }));
    } else {
        output::text(format!("ready with {} model versions; Ctrl-C ends it", versions.len()));
    }
    let served = server.await.map_err(|error| Failure::internal("the server broke off", &error))?;
    served.map_err(|error| Failure::internal("the server failed", &error))
}

fn tls(cert: Option<&PathBuf>, key: Option<&PathBuf>) -> Result<Option<Tls>, Failure> {
    let unusable = |message: String, why: &str| {
        let fix = "give both PEM files, which this user may read: --tls-cert FILE --tls-key FILE";
        Failure::new(Exit::Usage, "invalid_tls", message, why, fix)
    };
    match (cert, key) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => match Tls::open(cert, key) {
            Ok(tls) => Ok(Some(tls)),
            Err(error) => Err(unusable(error.to_string(), "clients could not be answered with these files")),
        },
        (Some(_), None) => {
            Err(unusable("tls_cert without tls_key".into(), "a certificate proves nothing alone"))
        }
        (None, Some(_)) => Err(unusable("tls_key without tls_cert".into(), "a key proves nothing alone")),
    }
}

/// SIGHUP reads the certificate again; one that cannot be used, or does not hold today, changes nothing and is told in
/// the log. So is, every day, the one that is served when its end comes near.
#[cfg(unix)]
fn reload_on_hangup(tls: Tls) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangups = signal(SignalKind::hangup())
        .map_err(|error| Failure::internal("signals cannot be watched", &error))?;
    tokio::spawn(async move {
        loop {
            warn_of_end(&tls);
            tokio::select! {
                hangup = hangups.recv() => match hangup.map(|()| tls.reload(Timestamp::now())) {
                    Some(Ok(())) => tracing::warn!("the certificate was read again"),
                    Some(Err(error)) => tracing::error!(%error, "the certificate stays as it was"),
                    None => return,
                },
                () = tokio::time::sleep(CERTIFICATE_LOOK) => {}
            }
        }
    });
    Ok(())
}

#[cfg(not(unix))]
fn reload_on_hangup(tls: Tls) -> Result<(), Failure> {
    warn_of_end(&tls);
    Ok(())
}

fn warn_of_end(tls: &Tls) {
    let now = Timestamp::now();
    let until = tls.validity().not_after;
    match tls.holds_at(now) {
        Err(error) => tracing::error!(%error, "clients refuse the certificate: renew it and send SIGHUP"),
        Ok(()) if until < now.plus(CERTIFICATE_ENDS_SOON) => {
            tracing::warn!(until = until.date_time(), "the certificate ends soon: renew it and send SIGHUP");
        }
        Ok(()) => {}
    }
}

/// Keys travel in the clear without TLS, so only this machine may reach the port unless there is TLS or somebody
/// insists.
fn loopback_or(host: &str, others_may: bool) -> Result<IpAddr, Failure> {
    let name = if host == "localhost" { "127.0.0.1" } else { host };
    let address: IpAddr = name.parse().map_err(|_| {
        let fix = "write as in --host 127.0.0.1";
        Failure::usage(format!("{host:?} is no address"), "a server listens on an IP address", fix)
    })?;
    if !address.is_loopback() && !others_may {
        return Err(Failure::usage(
            format!("{address} can be reached by other machines"),
            "without TLS everybody on the way can read keys and data",
            "add --tls-cert FILE --tls-key FILE, put a TLS proxy before 127.0.0.1, or add --allow-plain-http",
        ));
    }
    Ok(address)
}

async fn ended(control: Control) {
    while control.check().is_ok() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> Failure {
    let message = format!("cannot listen on {} port {}", address.ip(), address.port());
    let (exit, fix) = match error.kind() {
        std::io::ErrorKind::AddrInUse => (Exit::Conflict, "end the other server, or choose another --port"),
        _ => (Exit::Failed, "choose another --host or --port"),
    };
    Failure::new(exit, "cannot_listen", message, error.to_string(), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_stand_over_the_configuration_and_a_wrong_one_is_named() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            serve: Serve,
        }
        let parse = |args: &[&str]| {
            let line = <Line as clap::Parser>::try_parse_from([&["x"], args].concat()).unwrap();
            let mut serving = Serving::default();
            line.serve.over(&mut serving).map(|()| serving)
        };
        let serving = parse(&["--queue", "7", "--keep-alive", "0", "--kv-cache-type", "bf16"]).unwrap();
        assert_eq!((serving.queue.value, serving.keep_alive.value), (7, None));
        assert_eq!(serving.queue.origin, Origin::Flag("--queue"));
        assert_eq!(serving.batch_rows.origin, Origin::Default);
        let failure = parse(&["--prefill-chunk", "3"]).unwrap_err();
        assert!(failure.exit == Exit::Usage && failure.message.contains("--prefill-chunk"), "{failure:?}");
    }

    #[test]
    fn only_this_machine_is_served_unless_somebody_insists() {
        assert!(loopback_or("127.0.0.1", false).is_ok());
        assert!(loopback_or("localhost", false).is_ok());
        assert!(loopback_or("::1", false).is_ok());
        assert_eq!(loopback_or("0.0.0.0", false).unwrap_err().exit, Exit::Usage);
        assert!(loopback_or("0.0.0.0", true).is_ok());
        assert_eq!(loopback_or("example.org", true).unwrap_err().exit, Exit::Usage);
    }
}
