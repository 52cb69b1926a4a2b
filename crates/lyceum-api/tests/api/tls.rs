//! TLS as a client sees it: the certificate is checked, replaced while it serves, and slow handshakes hold nobody.

use crate::house::House;
use lyceum_api::Door;
use lyceum_api::cors::Origins;
use lyceum_api::tls::Tls;
use lyceum_types::clock::Timestamp;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Writes a certificate for `localhost` that vouches for itself, and its key.
fn certify(dir: &Path, name: &str) -> rcgen::CertifiedKey<rcgen::KeyPair> {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    made
}

fn open(dir: &Path) -> Tls {
    Tls::open(&dir.join("cert.pem"), &dir.join("key.pem")).unwrap()
}

/// The status line that `/health` is answered with, for a client that trusts `root`.
async fn health(address: SocketAddr, root: &rcgen::CertifiedKey<rcgen::KeyPair>) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(root.cert.der().clone()).unwrap();
    let config =
        ClientConfig::builder_with_provider(Arc::new(tokio_rustls::rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

/// A second door of the house, with TLS.
async fn door(house: &House, tls: Tls) -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let door = Door { tcp, tls: Some(tls), origins: Origins::None };
    tokio::spawn(lyceum_api::serve(door, house.service.clone(), std::future::pending()));
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_answered_where_it_trusts_the_certificate_only() {
    let (house, dir) = (House::new().await, tempfile::tempdir().unwrap());
    let trusted = certify(dir.path(), "localhost");
    let address = door(&house, open(dir.path())).await;
    // Nobody waits for those who connect and say nothing.
    let _silent: Vec<TcpStream> = {
        let mut silent = Vec::new();
        for _ in 0..20 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        silent
    };
    assert_eq!(health(address, &trusted).await.unwrap(), "HTTP/1.1 200 OK");
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    assert!(health(address, &stranger).await.is_err());
    // Plain HTTP is no TLS.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    house.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_takes_over_and_a_broken_one_does_not() {
    let (house, dir) = (House::new().await, tempfile::tempdir().unwrap());
    let first = certify(dir.path(), "localhost");
    let tls = open(dir.path());
    let address = door(&house, tls.clone()).await;
    assert!(health(address, &first).await.is_ok());
    let second = certify(dir.path(), "localhost");
    assert!(health(address, &first).await.is_ok(), "read again only when told");
    tls.reload(Timestamp::now()).unwrap();
    assert!(health(address, &second).await.is_ok());
    assert!(health(address, &first).await.is_err());
    std::fs::write(dir.path().join("cert.pem"), "no certificate").unwrap();
    assert!(tls.reload(Timestamp::now()).is_err());
    assert!(health(address, &second).await.is_ok());
    // Nor does one that has ended.
    let third = certify(dir.path(), "localhost");
    let late = Timestamp::from_millis(i64::MAX);
    let error = tls.reload(late).unwrap_err().to_string();
    assert!(error.contains("cert.pem: the certificate ended at "), "{error}");
    let error = tls.reload(Timestamp::from_millis(0)).unwrap_err().to_string();
    assert!(error.contains("cert.pem: the certificate begins at "), "{error}");
    assert!(health(address, &second).await.is_ok());
    tls.reload(Timestamp::now()).unwrap();
    assert!(health(address, &third).await.is_ok());
    house.stop().await.unwrap();
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let cert = dir.path().join("cert.pem");
    let key = dir.path().join("key.pem");
    let why = |cert: &Path, key: &Path| Tls::open(cert, key).err().unwrap().to_string();
    assert!(why(&cert, &key).contains("cert.pem"));
    certify(dir.path(), "localhost");
    assert!(why(&key, &key).contains("holds no certificate"));
    assert!(why(&cert, &cert).contains("holds no private key"));
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&key, other.signing_key.serialize_pem()).unwrap();
    assert!(why(&cert, &key).contains("do not belong together"));
}
