//! A browser asks before a page of another origin may: who is named is let in, and nobody else.

use crate::client::{Answer, Client};
use crate::house::House;
use lyceum_api::Door;
use lyceum_api::cors::Origins;
use tokio::net::TcpListener;

/// A door of the house that lets these origins in.
async fn door(house: &House, origins: &str) -> Client {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let door = Door { tcp, tls: None, origins: origins.parse::<Origins>().unwrap() };
    tokio::spawn(lyceum_api::serve(door, house.service.clone(), std::future::pending()));
    Client { address, ..house.client.clone() }
}

async fn preflight(client: &Client, origin: &str) -> Answer {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    // A browser sends no key before it may.
    let client = Client { key: None, ..client.clone() };
    client.send("OPTIONS", "/v1/chat/completions", &headers, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_named_origins_may_ask_and_others_may_not() {
    let house = House::new().await;
    let (mine, other) = ("https://app.example", "https://other.example");
    assert_eq!(preflight(&house.client, mine).await.refused(405).1, "method_not_allowed");
    let plain = house.client.send("GET", "/v1/models", &[("origin", mine)], "").await;
    assert_eq!((plain.status, plain.header("access-control-allow-origin")), (200, None));

    let named = door(&house, "https://app.example,http://localhost:3000").await;
    let let_in = preflight(&named, mine).await;
    assert_eq!(let_in.status, 200, "{}", let_in.text());
    assert_eq!(let_in.header("access-control-allow-origin"), Some(mine));
    assert_eq!(let_in.header("access-control-allow-headers"), Some("authorization,content-type"));
    assert_eq!(let_in.header("access-control-allow-credentials"), None);
    assert_eq!(preflight(&named, other).await.header("access-control-allow-origin"), None);
    let answered = named.send("GET", "/v1/models", &[("origin", mine)], "").await;
    assert_eq!((answered.status, answered.header("access-control-allow-origin")), (200, Some(mine)));
    // Also a refusal is readable: else the page learns of no error at all.
    let keyless = Client { key: None, ..named.clone() };
    let refused = keyless.send("GET", "/v1/models", &[("origin", mine)], "").await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some(mine)));

    let open = door(&house, "*").await;
    assert_eq!(preflight(&open, other).await.header("access-control-allow-origin"), Some("*"));
}
