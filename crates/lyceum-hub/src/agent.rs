//! The blocking client that hubs are asked with, and servers by the command line: it follows no redirect by itself, knows
//! whom it trusts, and gives up on whoever is silent. It knows neither hubs nor tokens.

use std::time::Duration;
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// A client that trusts the certificates of a PEM file, or Mozilla's roots, and waits as long as `silence_max` for an
/// answer and for each part of it. A status is an answer, not an error.
///
/// # Errors
/// Why the file has no certificates.
pub fn agent(pem: Option<&[u8]>, silence_max: Duration) -> Result<Agent, String> {
    let roots = match pem {
        None => RootCerts::WebPki,
        Some(pem) => RootCerts::new_with_certs(&certificates(pem)?),
    };
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(silence_max))
        .timeout_per_read(Some(silence_max))
        .user_agent(concat!("lyceum/", env!("CARGO_PKG_VERSION")))
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .build();
    Ok(config.into())
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
    let mut all = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| error.to_string())? {
            all.push(certificate);
        }
    }
    if all.is_empty() { Err("it has no certificate".into()) } else { Ok(all) }
}
