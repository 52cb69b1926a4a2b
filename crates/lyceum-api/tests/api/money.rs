//! Prices and budgets over HTTP: what is set holds for the next request, and who may set it.

use crate::client::{Client, ok};
use crate::house::House;
use lyceum_store::models::shares::{Share, With, share};
use lyceum_store::tenancy::{Act, projects};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyScope, Project};
use serde_json::json;

const PRICES: &str = "/v1/organization/prices";
const BUDGETS: &str = "/v1/organization/budgets";
const WRITE: [KeyScope; 1] = [KeyScope::OrganizationWrite];

async fn kinds_of(admin: &Client) -> Vec<String> {
    let log = ok(&admin.get("/v1/organization/audit_logs?limit=100").await);
    let kinds =
        log["data"].as_array().unwrap().iter().map(|entry| entry["type"].as_str().unwrap().to_owned());
    kinds.filter(|kind| kind.starts_with("price.") || kind.starts_with("budget.")).rev().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_and_a_budget_that_are_set_hold_for_the_next_request() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    let (_, admin) = house.admin("default", &WRITE, None).await;
    let ask = json!({"model": "poet", "prompt": "abc", "max_tokens": 5, "seed": 1});
    let asked = async || house.client.post("/v1/completions", &ask).await;
    assert_eq!(asked().await.status, 200, "without prices all is free");
    let body =
        json!({"model": "poet", "usd_per_million": {"input": 0.15, "output": 2, "cached_input": 0.000001}});
    let price = ok(&admin.post(PRICES, &body).await);
    assert_eq!((&price["id"], &price["organization_id"]), (&json!("price_1"), &json!("default")));
    let rates = &price["usd_per_million"];
    assert_eq!((&rates["input"], &rates["cached_input"]), (&json!(0.15), &json!(0.000001)));
    assert_eq!((&rates["pass"], &price["project_id"]), (&json!(0.0), &json!("*")));
    let budget = json!({"limit_usd": 0.000009, "project_id": "default", "period": "total"});
    let budget = ok(&admin.post(BUDGETS, &budget).await);
    let one = format!("{BUDGETS}/{}", budget["id"].as_str().unwrap());
    // 5 tokens at 2 millionths each and 3 at 0.15: 10 at the worst, and 9 are covered.
    assert_eq!(asked().await.refused(429).1, "insufficient_quota");
    assert_eq!(ok(&admin.post(&one, &json!({"limit_usd": 0.5})).await)["limit_usd"], 0.5);
    let usage = ok(&asked().await)["usage"].clone();
    let cost = (usage["completion_tokens"].as_u64().unwrap() * 2_000_000 + 3 * 150_000 + 500_000) / 1_000_000;
    for _ in 0..500 {
        if house.service.ledger().figures().n_pending == 0 && house.service.ledger().figures().n_open == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let spent = ok(&admin.get(&one).await)["spent_usd"].as_f64().unwrap();
    assert!((spent * 1e6 - cost as f64).abs() < 0.51, "{spent} {cost}");
    ok(&admin.send("DELETE", &one, &[], "").await);
    assert_eq!(admin.get(&one).await.status, 404);
    ok(&admin.post(PRICES, &json!({"model": "*", "organization_id": "*", "usd_per_million": {}})).await);
    let listed = ok(&admin.get(&format!("{PRICES}?limit=1")).await);
    assert_eq!((&listed["data"][0]["id"], &listed["has_more"]), (&json!("price_2"), &json!(true)));
    let listed = ok(&admin.get(&format!("{PRICES}?limit=1&after=price_2")).await);
    assert_eq!((&listed["data"][0]["id"], &listed["has_more"]), (&json!("price_1"), &json!(false)));
    let kinds = ["price.created", "budget.created", "budget.updated", "budget.deleted", "price.created"];
    assert_eq!(kinds_of(&admin).await, kinds);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_rents_an_organisation_sets_no_prices_and_not_its_own_ceiling() {
    let house = House::new().await;
    let (_, operator) = house.admin("default", &WRITE, None).await;
    let act = Act::of_command_line(Timestamp::now());
    let (theirs, first) = projects::create_organization(house.service.store(), "theirs", &act).await.unwrap();
    let (_, tenant) = house.admin(&theirs.id, &WRITE, None).await;
    let price = |organization: &str| json!({"model": "*", "organization_id": organization, "usd_per_million": {"pass": 7}});
    for organization in ["*", theirs.id.as_str(), "default"] {
        let refused = tenant.post(PRICES, &price(organization)).await;
        assert_eq!(refused.refused(403).1, "operator_only");
    }
    ok(&operator.post(PRICES, &price("default")).await);
    let hers = ok(&operator.post(PRICES, &price(&theirs.id)).await);
    assert_eq!(operator.post(PRICES, &price("org-nobody")).await.status, 404);
    let seen = ok(&tenant.get(PRICES).await);
    assert_eq!(seen["data"], json!([hers]), "no other organisation's price");
    assert_eq!(ok(&operator.get(PRICES).await)["data"].as_array().unwrap().len(), 2);
    // Everybody's price of a model that they may not ask does not tell them of it, in the list or in the log.
    house.publish_poet("poet").await;
    let of_poet = json!({"model": "poet", "organization_id": "*", "usd_per_million": {"pass": 1}});
    let of_poet = ok(&operator.post(PRICES, &of_poet).await);
    assert_eq!(ok(&tenant.get(PRICES).await)["data"], json!([hers]));
    let log = tenant.get("/v1/organization/audit_logs?event_types[]=price.created").await;
    assert_eq!(ok(&log)["data"].as_array().unwrap().len(), 1);
    let with = With::Everyone;
    let shared = Share { owner: Project::default_project(), name: "poet".parse().unwrap(), with };
    share(house.service.store(), &shared, &act).await.unwrap();
    assert_eq!(ok(&tenant.get(PRICES).await)["data"], json!([of_poet, hers]));

    let ceiling = json!({"limit_usd": 5, "organization_id": theirs.id});
    let ceiling = ok(&operator.post(BUDGETS, &ceiling).await);
    let one = format!("{BUDGETS}/{}", ceiling["id"].as_str().unwrap());
    assert_eq!(tenant.post(BUDGETS, &json!({"limit_usd": 99})).await.refused(403).1, "operator_only");
    assert_eq!(tenant.post(&one, &json!({"limit_usd": 99})).await.refused(403).1, "operator_only");
    assert_eq!(tenant.send("DELETE", &one, &[], "").await.refused(403).1, "operator_only");
    let foreign = json!({"limit_usd": 1, "organization_id": "default", "project_id": "default"});
    assert_eq!(tenant.post(BUDGETS, &foreign).await.refused(403).1, "operator_only");
    let own = json!({"limit_usd": 1, "project_id": first.project.id});
    let own = ok(&tenant.post(BUDGETS, &own).await);
    assert_eq!((&own["organization_id"], &own["period"]), (&json!(theirs.id), &json!("month")));
    ok(&operator.post(BUDGETS, &json!({"limit_usd": 3})).await);
    assert_eq!(ok(&tenant.get(BUDGETS).await)["data"].as_array().unwrap().len(), 2);
    assert_eq!(ok(&operator.get(BUDGETS).await)["data"].as_array().unwrap().len(), 3);
    let told = ok(&tenant.get("/v1/organization/audit_logs?event_types[]=price.created").await);
    let told = &told["data"][0];
    assert_eq!(told["actor"], json!({"type": "session", "session": {"user": {"id": "operator"}}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn amounts_and_places_that_are_wrong_are_refused_by_name() {
    let house = House::new().await;
    let (_, admin) = house.admin("default", &WRITE, None).await;
    for (body, param) in [
        (json!({"model": "a b", "usd_per_million": {}}), "model"),
        (json!({"model": "a", "usd_per_million": {"input": -1}}), "usd_per_million.input"),
        (json!({"model": "a", "usd_per_million": {"pass": 0.0000001}}), "usd_per_million.pass"),
        (json!({"model": "a", "usd_per_million": {"fish": 1}}), "usd_per_million.fish"),
    ] {
        assert_eq!(admin.post(PRICES, &body).await.refused(400).0, param, "{body}");
    }
    let huge = json!({"model": "a", "usd_per_million": {"input": 1e30}});
    assert_eq!(admin.post(PRICES, &huge).await.status, 400);
    let nowhere = json!({"model": "a", "project_id": "proj_no", "usd_per_million": {}});
    assert_eq!(admin.post(PRICES, &nowhere).await.status, 404);
    for (body, param) in [
        (json!({"limit_usd": -0.5}), "limit_usd"),
        (json!({"limit_usd": 1, "period": "week"}), "period"),
        (json!({"limit_usd": 1, "api_key_id": "key_1"}), "project_id"),
    ] {
        assert_eq!(admin.post(BUDGETS, &body).await.refused(400).0, param, "{body}");
    }
    let nobodys =
        json!({"limit_usd": 1, "project_id": "default", "api_key_id": format!("key_{}", "0".repeat(32))});
    assert_eq!(admin.post(BUDGETS, &nobodys).await.status, 404);
    assert_eq!(ok(&admin.get(BUDGETS).await)["data"], json!([]));
    assert_eq!(ok(&admin.get(PRICES).await)["data"], json!([]));
}
