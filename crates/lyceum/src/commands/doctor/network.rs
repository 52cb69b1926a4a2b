//! How a server would be reached: its certificate, and whether its port is free.

use crate::commands::serve::CERTIFICATE_ENDS_SOON;
use crate::config::Config;
use crate::failure::{Exit, Failure};
use lyceum_api::tls::Tls;
use lyceum_types::clock::Timestamp;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Certificate and key belong together, and the certificate holds today.
pub fn certificate(config: &Config) -> Result<String, Failure> {
    let unusable = |message: String, why: &str, fix: &str| {
        let mut failure = Failure::new(Exit::Usage, "invalid_tls", message, why, fix);
        failure.place.key = Some("tls_cert".into());
        failure
    };
    let (cert, key) = match (&config.tls_cert.value, &config.tls_key.value) {
        (None, None) => return Ok("none: lyceum serve is for this machine".into()),
        (Some(cert), Some(key)) => (cert, key),
        _ => {
            let fix = "set tls_cert and tls_key, or neither";
            return Err(unusable(
                "one of tls_cert and tls_key is set".into(),
                "each proves nothing alone",
                fix,
            ));
        }
    };
    let placed = |mut failure: Failure| {
        failure.place.file = Some(cert.display().to_string());
        failure
    };
    let fix = "give the certificate's own key, both as PEM files";
    let tls = Tls::open(cert, key).map_err(|error| {
        placed(unusable(error.to_string(), "clients could not be answered with these files", fix))
    })?;
    let (now, until) = (Timestamp::now(), tls.validity().not_after);
    tls.holds_at(now).map_err(|error| {
        let why = "clients refuse a certificate that does not hold today";
        placed(unusable(error.to_string(), why, "renew it, then kill -HUP the server; or correct the clock"))
    })?;
    let soon = if until < now.plus(CERTIFICATE_ENDS_SOON) { ": renew it soon" } else { "" };
    Ok(format!("{} holds until {}{soon}", cert.display(), until.date_time()))
}

/// The configured port can be listened on, or a Lyceum listens there.
pub fn port(config: &Config) -> Result<String, Failure> {
    let (host, port) = (config.host.value.as_str(), config.port.value);
    let placed = |mut failure: Failure| {
        failure.place.key = Some(if failure.code == "cannot_listen" { "port" } else { "host" }.into());
        failure
    };
    let name = if host == "localhost" { "127.0.0.1" } else { host };
    let Ok(ip) = name.parse() else {
        let message = format!("host = {host:?} ({}) is no address", config.host.origin);
        let why = "a server listens on an IP address";
        let fix = "write one, as host = \"127.0.0.1\"";
        return Err(placed(Failure::new(Exit::Usage, "invalid_config", message, why, fix)));
    };
    let address = SocketAddr::new(ip, port);
    let error = match TcpListener::bind(address) {
        Ok(_) => return Ok(format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse && is_lyceum(address, config) => {
            return Ok(format!("a lyceum serves at {address}"));
        }
        Err(error) => error,
    };
    let message = format!("cannot listen on {ip} port {port} ({})", config.port.origin);
    let fix = match error.kind() {
        ErrorKind::AddrInUse => "end the other program, or choose another port: port in lyceum.toml, --port",
        ErrorKind::PermissionDenied => "choose a port above 1023, or let the service manager give the right",
        _ => "choose another host or port",
    };
    Err(placed(Failure::new(Exit::Conflict, "cannot_listen", message, error.to_string(), fix)))
}

/// Whether what listens there answers as we do.
fn is_lyceum(address: SocketAddr, config: &Config) -> bool {
    let mut to = address;
    if address.ip().is_unspecified() {
        to.set_ip(if address.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    if config.tls_cert.value.is_some() {
        return is_lyceum_by_tls(to);
    }
    let asked = TcpStream::connect_timeout(&to, ANSWER_TIMEOUT).and_then(|mut stream| {
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(1 << 16).read_to_end(&mut answer)?;
        Ok(answer)
    });
    asked.is_ok_and(|answer| answers_as_we_do(&answer))
}

/// Whose certificate it is does not matter here: nothing is told to whoever answers.
fn is_lyceum_by_tls(to: SocketAddr) -> bool {
    let tls = ureq::tls::TlsConfig::builder().disable_verification(true).build();
    let agent: ureq::Agent =
        ureq::Agent::config_builder().tls_config(tls).timeout_global(Some(ANSWER_TIMEOUT)).build().into();
    let Ok(mut answer) = agent.get(format!("https://{to}/health")).call() else { return false };
    answer.body_mut().read_to_vec().is_ok_and(|body| answers_as_we_do(&body))
}

fn answers_as_we_do(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    text.contains("\"status\":\"ok\"") && text.contains("\"version\"")
}
