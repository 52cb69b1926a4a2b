//! What stands in the head of a request: its URL's question, and how long its body will be.

use crate::house::House;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_question_in_the_url_is_named() {
    let house = House::new().await;
    for (url, param, code) in [
        ("/v1/files?nope=1", "nope", "unknown_parameter"),
        ("/v1/files?limit=many", "limit", "invalid_value"),
        ("/v1/batches?limit=many", "limit", "invalid_value"),
    ] {
        let answer = house.client.get(url).await;
        assert_eq!(answer.refused(400), (param.into(), code.into()), "{url}");
        assert!(!answer.text().contains("deserialize"), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_announced_as_too_large_is_refused_before_it_comes() {
    let house = House::new().await;
    let mut stream = TcpStream::connect(house.client.address).await.unwrap();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 99999999999\r\n\r\n",
        house.client.key.as_deref().unwrap()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut begin = [0; 12];
    tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut begin)).await.unwrap().unwrap();
    assert_eq!(&begin, b"HTTP/1.1 413");
}
