//! What choices found, over HTTP; and that none is made there, with the reason.

use crate::house::House;
use lyceum_store::{Layout, Store, selections};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn kept_choices_are_given_and_new_ones_refused_by_name() {
    let house = House::new().await;
    assert_eq!(
        house.client.get("/v1/model_selections").await.json(),
        json!({ "object": "list", "data": [] })
    );
    let store = Store::open(Layout::new(house.dir.path()), Timestamp::now()).await.unwrap();
    let id = selections::new_id();
    let document = json!({ "id": id.as_str(), "object": "model_selection", "rows": [] });
    selections::save(&store, &Project::default_project(), &id, document.to_string().as_bytes()).unwrap();
    assert_eq!(house.client.get("/v1/model_selections").await.json()["data"], json!([document]));
    assert_eq!(house.client.get(&format!("/v1/model_selections/{id}")).await.json(), document);
    for unknown in ["sel_00000000000000000000000000000000", "..%2Flyceum.db"] {
        assert_eq!(
            house.client.get(&format!("/v1/model_selections/{unknown}")).await.status,
            404,
            "{unknown}"
        );
    }
    let asked = json!({ "task": "classification", "data": "file_1", "candidates": "auto" });
    let answer = house.client.post("/v1/model_selections", &asked).await;
    answer.refused(501);
    let message = answer.json()["error"]["message"].to_string();
    assert!(message.contains("/v1/files") && message.contains("lyceum choose"), "{message}");
}
