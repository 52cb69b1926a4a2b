//! `lyceum serve`: the models over HTTP, until Ctrl-C.

use crate::commands::choose::worker;
use crate::config::Origin;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::serving::Serving;
use crate::{assemble, output};
use clap::Args;
use lyceum_service::Service;
use lyceum_store::{keys, models};
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::limits;
use serde_json::{Value, json};
use std::net::IpAddr;
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
    /// Listen on an address that other machines reach although there is no TLS: keys can be overheard
    #[arg(long)]
    allow_plain_http: bool,
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
}

/// How often idle models are looked for.
const IDLE_LOOK: Duration = Duration::from_secs(15);

impl Serve {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let host = self.host.clone().unwrap_or_else(|| context.config.host.value.clone());
        let port = self.port.unwrap_or(context.config.port.value);
        let address = loopback_or(&host, self.allow_plain_http)?;
        let mut config = context.config.clone();
        self.over(&mut config.serving)?;
        let store = context.store().await?;
        let first_key = keys::create_first(&store, &context.project, Timestamp::now()).await?;
        let service = assemble::service(&config, store)?;
        if let Some(idle) = config.serving.keep_alive.value {
            tokio::spawn(unload_idle(service.clone(), idle));
        }
        listen(context, service, address, port, first_key.as_ref().map(|(_, secret)| secret.reveal())).await
    }

    /// Puts what the flags say over the configuration.
    fn over(&self, serving: &mut Serving) -> Result<(), Failure> {
        for (flag, text) in [
            ("--keep-alive", &self.keep_alive),
            ("--kv-cache-mib", &self.kv_cache_mib),
            ("--kv-cache-type", &self.kv_cache_type),
            ("--batch-rows", &self.batch_rows),
            ("--prefill-chunk", &self.prefill_chunk),
            ("--queue", &self.queue),
            ("--draft-tokens", &self.draft_tokens),
            ("--models-mib", &self.models_mib),
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

/// Serves until the control ends it. `first_key` is said once, where there is one.
pub async fn listen(
    context: &Context,
    service: Arc<Service>,
    address: IpAddr,
    port: u16,
    first_key: Option<&str>,
) -> Result<(), Failure> {
    let listener = bind(address, port).map_err(|error| cannot_listen(address, port, &error))?;
    let bound = listener.local_addr().map_err(|error| cannot_listen(address, port, &error))?;
    let url = format!("http://{bound}");
    if context.is_json() {
        let mut line = json!({ "event": "listening", "url": url });
        if let Some(key) = first_key {
            line["key"] = Value::from(key);
        }
        output::json_line(&line);
    } else {
        output::text(format!("listening on {url}"));
        if let Some(key) = first_key {
            output::text(format!("the first key, shown this once: {key}"));
        }
    }
    let until = ended(context.control.clone());
    let server = tokio::spawn(lyceum_api::serve(listener, service.clone(), until));
    // Choices end with the server; what they left unfinished begins anew with the next one.
    let choosing = worker::work(context, &service);
    let serving = serve(context, &service, server);
    let ((), ()) = tokio::try_join!(choosing, serving)?;
    Ok(())
}

/// As `TcpListener::bind`, with a longer queue of connections: in it a refused client waits for milliseconds, beyond
/// it for a second, until its system tries again.
fn bind(address: IpAddr, port: u16) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind((address, port).into())?;
    socket.listen(limits::CONNECTIONS_WAITING_MAX)
}

/// Says that models answer, and waits for the server's end.
async fn serve(
    context: &Context,
    service: &Service,
    server: JoinHandle<std::io::Result<()>>,
) -> Result<(), Failure> {
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

/// Keys travel in the clear without TLS, so only this machine may reach the port unless somebody insists.
fn loopback_or(host: &str, allow_plain_http: bool) -> Result<IpAddr, Failure> {
    let name = if host == "localhost" { "127.0.0.1" } else { host };
    let address: IpAddr = name.parse().map_err(|_| {
        let fix = "write as in --host 127.0.0.1";
        Failure::usage(format!("{host:?} is no address"), "a server listens on an IP address", fix)
    })?;
    if !address.is_loopback() && !allow_plain_http {
        return Err(Failure::usage(
            format!("{address} can be reached by other machines"),
            "without TLS everybody on the way can read keys and data",
            "put a TLS proxy before 127.0.0.1, or add --allow-plain-http",
        ));
    }
    Ok(address)
}

async fn ended(control: Control) {
    while control.check().is_ok() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn cannot_listen(address: IpAddr, port: u16, error: &std::io::Error) -> Failure {
    let message = format!("cannot listen on {address} port {port}");
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
