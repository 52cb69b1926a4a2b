//! `lyceum serve`: the models over HTTP, until Ctrl-C.

use crate::commands::choose::worker;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::{assemble, output, time};
use clap::Args;
use lyceum_engine::{EngineLimits, KvStorage};
use lyceum_service::Service;
use lyceum_store::models;
use lyceum_store::tenancy::admin_keys::{self, First};
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
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
    #[arg(long, value_name = "DURATION", default_value = "30m")]
    keep_alive: String,
    /// Memory for the keys and values of one language model's sequences, in MiB; fixed when it first generates
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    kv_cache_mib: u64,
    /// What keys and values are stored as: f32, bf16 or int8
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = kv_storage)]
    kv_cache_type: KvStorage,
}

fn kv_storage(text: &str) -> Result<KvStorage, String> {
    match text {
        "f32" => Ok(KvStorage::F32),
        "bf16" => Ok(KvStorage::Bf16),
        "int8" => Ok(KvStorage::Int8),
        _ => Err("there are f32, bf16 and int8".into()),
    }
}

/// How often idle models are looked for.
const IDLE_LOOK: Duration = Duration::from_secs(15);

impl Serve {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let host = self.host.unwrap_or_else(|| context.config.host.value.clone());
        let port = self.port.unwrap_or(context.config.port.value);
        let address = loopback_or(&host, self.allow_plain_http)?;
        let keep_alive = match self.keep_alive.as_str() {
            "0" => None,
            text => Some(time::duration(text, "--keep-alive 30m")?),
        };
        let store = context.store().await?;
        let first = admin_keys::bootstrap(&store, &context.project, Timestamp::now()).await?;
        let limits = EngineLimits {
            kv_bytes_per_model_max: usize::try_from(self.kv_cache_mib << 20).unwrap_or(usize::MAX),
            kv_storage: self.kv_cache_type,
            ..EngineLimits::default()
        };
        let service = assemble::service_with(store, limits)?;
        if let Some(idle) = keep_alive {
            tokio::spawn(unload_idle(service.clone(), idle));
        }
        listen(context, service, address, port, first.as_ref()).await
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

/// Serves until the control ends it. The first keys are said once, where there are any.
pub async fn listen(
    context: &Context,
    service: Arc<Service>,
    address: IpAddr,
    port: u16,
    first: Option<&First>,
) -> Result<(), Failure> {
    let listener =
        TcpListener::bind((address, port)).await.map_err(|error| cannot_listen(address, port, &error))?;
    let bound = listener.local_addr().map_err(|error| cannot_listen(address, port, &error))?;
    let url = format!("http://{bound}");
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
    let server = tokio::spawn(lyceum_api::serve(listener, service.clone(), until));
    // Choices end with the server; what they left unfinished begins anew with the next one.
    let choosing = worker::work(context, &service);
    let serving = serve(context, &service, server);
    let ((), ()) = tokio::try_join!(choosing, serving)?;
    Ok(())
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
    fn only_this_machine_is_served_unless_somebody_insists() {
        assert!(loopback_or("127.0.0.1", false).is_ok());
        assert!(loopback_or("localhost", false).is_ok());
        assert!(loopback_or("::1", false).is_ok());
        assert_eq!(loopback_or("0.0.0.0", false).unwrap_err().exit, Exit::Usage);
        assert!(loopback_or("0.0.0.0", true).is_ok());
        assert_eq!(loopback_or("example.org", true).unwrap_err().exit, Exit::Usage);
    }
}
