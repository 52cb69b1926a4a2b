//! HTTP: the URL table, keys, errors to statuses, and the contracts of other people's clients.
//!
//! A handler parses a wire type into a request that cannot be wrong, calls the use case of the same name in
//! `lyceum-service`, and writes the answer in the contract's words. This crate knows no SQL and no tensors.
//!
//! Reading order: [`routes`] (every URL on one page), [`auth`], [`error`] (the only place where an error
//! becomes a status), [`body`], [`idempotent`], [`rates`], [`unread`], [`sse`], [`batches`] (what asks handlers without a socket), then `handlers/` and `wire/` by the same names.

#![forbid(unsafe_code)]

mod auth;
mod batches;
pub mod bodies;
mod body;
pub mod cors;
mod error;
mod handlers;
mod idempotent;
mod observe;
#[cfg(feature = "otel")]
pub mod otel;
mod places;
mod rates;
mod receipts;
mod routes;
mod sse;
pub mod tls;
mod unread;
mod wire;

/// The shapes of explanations, which the command line prints as well.
pub mod explanations {
    pub use crate::error::ApiError;
    pub use crate::wire::explain::{Extras, OptionsBody};
    pub use crate::wire::explanation::explanation;
    pub use crate::wire::predict::instance;
}

use axum::serve::{Listener, ListenerExt};
use lyceum_service::Service;
use lyceum_types::limits;
use std::future::Future;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// What handlers share; clones are the same.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) service: Arc<Service>,
    pub(crate) counters: Arc<observe::Counters>,
    /// A permit for each request that may be under way.
    pub(crate) places: Arc<Semaphore>,
    /// A permit for each file that may be on its way in.
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) origins: cors::Origins,
    #[cfg(feature = "otel")]
    pub(crate) traces: otel::Traces,
}

impl Api {
    fn new(service: Arc<Service>) -> Self {
        Self {
            service,
            counters: Arc::default(),
            places: Arc::new(Semaphore::new(limits::REQUESTS_MAX)),
            uploads: Arc::new(Semaphore::new(limits::UPLOADS_MAX)),
            origins: cors::Origins::None,
            #[cfg(feature = "otel")]
            traces: otel::Traces::default(),
        }
    }
}

pub use routes::{Access, Route};

/// The table of every URL with what it asks of a key.
pub fn routes(service: Arc<Service>) -> Vec<Route> {
    routes::table(Api::new(service)).1
}

/// Where clients come in.
pub struct Door {
    pub tcp: TcpListener,
    pub tls: Option<tls::Tls>,
    /// Whose pages may ask from a browser.
    pub origins: cors::Origins,
}

/// Without TLS, and for no pages of others.
impl From<TcpListener> for Door {
    fn from(tcp: TcpListener) -> Door {
        Door { tcp, tls: None, origins: cors::Origins::None }
    }
}

/// Answers at `door` until `shutdown` is done; then takes no new requests and waits for those under way,
/// within a bound.
pub async fn serve(
    door: impl Into<Door>,
    service: Arc<Service>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    serve_as(door.into(), Api::new(service), shutdown).await
}

/// As [`serve`], with a span of each request for a collector.
#[cfg(feature = "otel")]
pub async fn serve_traced(
    door: impl Into<Door>,
    service: Arc<Service>,
    collector: otel::Collector,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let (traces, sending) = otel::Traces::to(collector)?;
    let api = Api { traces, ..Api::new(service) };
    let served = serve_as(door.into(), api, shutdown).await;
    sending.end().await;
    served
}

async fn serve_as(
    door: Door,
    api: Api,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let service = api.service.clone();
    // What processes left that are gone is settled before anything new is.
    let ledger = service.ledger().clone();
    ledger.start().await.map_err(std::io::Error::other)?;
    let (stop, stopping) = tokio::sync::watch::channel(false);
    // Ends with this future, however that ends.
    let mut working = tokio::task::JoinSet::new();
    working.spawn(lyceum_service::standing::keep_fresh(service.clone(), stopping.clone()));
    working.spawn(lyceum_service::background::settle(service.clone()));
    working.spawn(lyceum_service::residency::let_deleted_go(service.clone(), stopping.clone()));
    working.spawn(lyceum_service::batches::run(service, Arc::new(batches::Routes(api.clone())), stopping));
    let shutdown = async move {
        shutdown.await;
        stop.send_replace(true);
    };
    // Without it each token of a stream waits for the client's delayed acknowledgement of the one before.
    let no_delay = |stream: &TcpStream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
    };
    let Door { tcp, tls, origins } = door;
    let api = Api { origins, ..api };
    let served = match tls {
        None => answer(tcp.tap_io(move |stream| no_delay(stream)), api, shutdown).await,
        Some(tls) => {
            let listener = tls::TlsListener::new(tcp, tls);
            answer(listener.tap_io(move |stream| no_delay(stream.get_ref().0)), api, shutdown).await
        }
    };
    let ended = async { while working.join_next().await.is_some() {} };
    if tokio::time::timeout(limits::BATCH_STOP_GRACE * 2, ended).await.is_err() {
        working.shutdown().await;
    }
    ledger.close().await;
    served
}

async fn answer<L>(
    listener: L,
    api: Api,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()>
where
    L: Listener,
    L::Addr: std::fmt::Debug,
{
    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let graceful = async move {
        shutdown.await;
        let _ = stopping.send(true);
    };
    // A router by itself would be built anew for each connection, all of its routes.
    let router = routes::router(api).into_make_service();
    let server = axum::serve(listener, router).with_graceful_shutdown(graceful);
    let last_moment = async move {
        // An error means that the server ended first.
        if stopped.wait_for(|stopping| *stopping).await.is_ok() {
            tokio::time::sleep(limits::SHUTDOWN_TIMEOUT).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        result = server.into_future() => result,
        () = last_moment => {
            tracing::warn!("answers under way were cut off at the end of the shutdown's time");
            Ok(())
        }
    }
}

/// The forms of a model card, for the command line as well.
pub mod cards {
    pub use crate::wire::card::{Form, VerificationBody};
}

/// What training will read, which the command line shows as well.
pub mod previews {
    pub use crate::wire::preview::PreviewBody;
}

/// Which models saw a row, which the command line prints as well.
pub mod privacy {
    pub use crate::wire::privacy::SawBody;
}

/// A version's lineage, which the command line prints as well.
pub mod registry {
    pub use crate::wire::registry::LineageBody;
}

/// The suite and the run of `/v1/robustness/runs`, for the command line, which speaks the same JSON.
pub mod robustness {
    pub use crate::wire::robustness::RunBody;

    /// Why a suite is refused, in words.
    pub fn suite_of(items: &[serde_json::Value]) -> Result<Vec<lyceum_service::robustness::Item>, String> {
        crate::wire::robustness::suite::items(items).map_err(|error| error.detail.message)
    }

    /// Suites and runs over language models.
    pub mod language {
        pub use crate::wire::robust_language::{run_body, verdict_body};

        /// Why a suite is refused, in words.
        pub fn suite_of(
            items: &[serde_json::Value],
        ) -> Result<Vec<lyceum_service::robustness::language::Item>, String> {
            crate::wire::robust_language::suite(items).map_err(|error| error.detail.message)
        }
    }
}

/// The OpenAPI document as JSON.
pub fn openapi() -> String {
    handlers::openapi::document()
}
