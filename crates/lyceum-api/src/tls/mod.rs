//! TLS in front of HTTP: rustls over ring, TLS 1.2 and 1.3, a certificate that can be replaced while it serves.
//!
//! Handshakes run beside each other and within a bound of time and number, so a client that begins one and says
//! nothing more keeps nobody waiting. Knows no HTTP.

mod presented;
mod validity;

pub use presented::presented;
pub use validity::Validity;

use axum::serve::Listener;
use lyceum_types::clock::Timestamp;
use lyceum_types::limits;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

/// The certificate and key that are served; clones are the same.
#[derive(Clone)]
pub struct Tls {
    files: Arc<(PathBuf, PathBuf)>,
    current: Arc<RwLock<Served>>,
}

#[derive(Clone)]
struct Served {
    config: Arc<ServerConfig>,
    validity: Validity,
}

/// Why a certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {why}")]
    File { path: PathBuf, why: String },
    #[error("{certificate} and {key} do not belong together: {why}")]
    Pair { certificate: PathBuf, key: PathBuf, why: String },
    #[error("{path}: {}", told(.validity, .now))]
    NotNow { path: PathBuf, validity: Validity, now: Timestamp },
}

fn told(validity: &Validity, now: &Timestamp) -> String {
    let Validity { not_before, not_after } = validity;
    if now < not_before {
        return format!("the certificate begins at {} only", not_before.date_time());
    }
    format!("the certificate ended at {}", not_after.date_time())
}

impl Tls {
    /// Reads PEM files: a certificate with those that vouch for it, and its private key.
    pub fn open(certificate: &Path, key: &Path) -> Result<Tls, TlsError> {
        let served = read(certificate, key)?;
        let files = Arc::new((certificate.to_owned(), key.to_owned()));
        Ok(Tls { files, current: Arc::new(RwLock::new(served)) })
    }

    /// Reads the files again. New connections have what they say; where they cannot be used, or their certificate does
    /// not hold at `now`, what was there stays.
    pub fn reload(&self, now: Timestamp) -> Result<(), TlsError> {
        let served = read(&self.files.0, &self.files.1)?;
        served.holds_at(now, &self.files.0)?;
        *self.current.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = served;
        Ok(())
    }

    /// From when to when the certificate holds that is served now.
    pub fn validity(&self) -> Validity {
        self.served().validity
    }

    /// # Errors
    /// The certificate that is served does not hold at `now`: clients that look at it refuse it.
    pub fn holds_at(&self, now: Timestamp) -> Result<(), TlsError> {
        self.served().holds_at(now, &self.files.0)
    }

    fn served(&self) -> Served {
        self.current.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.served().config)
    }
}

impl Served {
    fn holds_at(&self, now: Timestamp, path: &Path) -> Result<(), TlsError> {
        let validity = self.validity;
        if (validity.not_before..=validity.not_after).contains(&now) {
            return Ok(());
        }
        Err(TlsError::NotNow { path: path.to_owned(), validity, now })
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Served, TlsError> {
    let file = |path: &Path, why: String| TlsError::File { path: path.to_owned(), why };
    let text = |path: &Path| std::fs::read(path).map_err(|error| file(path, error.to_string()));
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text(certificate)?)
        .collect::<Result<_, _>>()
        .map_err(|error| file(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(file(certificate, "holds no certificate in PEM form".into()));
    }
    let validity = validity::of_der(&chain[0])
        .ok_or_else(|| file(certificate, "until when it holds cannot be read".into()))?;
    let private = PrivateKeyDer::from_pem_slice(&text(key)?)
        .map_err(|error| file(key, format!("holds no private key in PEM form: {error}")))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3: bug")
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| TlsError::Pair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            why: error.to_string(),
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Served { config: Arc::new(config), validity })
}

/// Connections whose handshake is done.
pub(crate) struct TlsListener {
    tcp: TcpListener,
    tls: Tls,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
}

impl TlsListener {
    pub(crate) fn new(tcp: TcpListener, tls: Tls) -> TlsListener {
        TlsListener { tcp, tls, handshakes: JoinSet::new() }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let has_room = self.handshakes.len() < limits::TLS_HANDSHAKES_MAX;
            tokio::select! {
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = done {
                        return connection;
                    }
                }
                (stream, address) = Listener::accept(&mut self.tcp), if has_room => {
                    self.handshakes.spawn(handshake(self.tls.acceptor(), stream, address));
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
) -> Option<(TlsStream<TcpStream>, SocketAddr)> {
    match tokio::time::timeout(limits::TLS_HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some((stream, address)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!("a TLS handshake was not finished in time");
            None
        }
    }
}
