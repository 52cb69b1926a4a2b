//! The same hub behind TLS, with a certificate that an authority of this machine signed (`certificates/`).

use crate::server::{Manners, Server};
use crate::{House, fixture};
use lyceum_hub::{HubError, Settings};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pull/certificates").join(name)
}

/// A door with TLS before the hub; the port where it listens.
fn door(hub: &Server) -> u16 {
    let chain = vec![CertificateDer::from_pem_file(certificate("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(certificate("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let hub = hub.url.trim_start_matches("http://").to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (config, hub) = (config.clone(), hub.clone());
            // A client that trusts another authority leaves in the middle.
            std::thread::spawn(move || drop(pass(stream, config, &hub)));
        }
    });
    port
}

/// One request to the hub and its answer back.
fn pass(stream: TcpStream, config: Arc<ServerConfig>, hub: &str) -> std::io::Result<()> {
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut outside = StreamOwned::new(connection, stream);
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        outside.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let mut inside = TcpStream::connect(hub)?;
    inside.write_all(&head)?;
    let mut answer = Vec::new();
    inside.read_to_end(&mut answer)?;
    outside.write_all(&answer)?;
    outside.conn.send_close_notify();
    outside.flush()
}

fn house() -> House {
    let files = [
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", fixture("tokenizer.json")),
        ("model.safetensors", fixture("bert.safetensors")),
    ];
    let files = files.into_iter().map(|(name, content)| (name.to_owned(), (content, false)));
    House::new(Manners { files: files.collect(), ..Manners::default() })
}

#[test]
fn a_hub_is_believed_when_its_certificate_is_of_an_authority_that_is_trusted() {
    let house = house();
    let endpoint = format!("https://localhost:{}", door(&house.server));
    let with = |endpoint: &str, roots: Option<PathBuf>| {
        house.pull_with("org/tiny", &Settings { endpoint: endpoint.into(), roots, ..house.settings() })
    };
    let refused = |roots: Option<PathBuf>| match with(&endpoint, roots).unwrap_err() {
        HubError::Network { problem, .. } => problem,
        other => panic!("{other}"),
    };
    // Mozilla's roots know nothing of it, nor does another authority; nothing was asked of the hub then.
    for roots in [None, Some(certificate("other.pem"))] {
        let problem = refused(roots).to_lowercase();
        assert!(problem.contains("certificate") || problem.contains("issuer"), "{problem}");
    }
    assert!(house.server.asked().is_empty());
    let pulled = with(&endpoint, Some(certificate("authority.pem"))).unwrap();
    assert_eq!(std::fs::read(pulled.path.join("model.safetensors")).unwrap(), fixture("bert.safetensors"));
    // The certificate is localhost's and no other host's.
    let elsewhere = endpoint.replace("localhost", "127.0.0.2");
    assert!(matches!(with(&elsewhere, Some(certificate("authority.pem"))), Err(HubError::Network { .. })));
}

#[test]
fn a_file_without_certificates_is_said_before_anything_is_asked() {
    let house = house();
    let with =
        |roots: PathBuf| house.pull_with("org/tiny", &Settings { roots: Some(roots), ..house.settings() });
    assert!(matches!(with("/nowhere.pem".into()), Err(HubError::File { .. })));
    let empty = house.dir.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    let error = with(empty).unwrap_err();
    assert!(error.to_string().contains("no certificate"), "{error}");
    assert!(house.server.asked().is_empty());
}
