//! Administration over OpenAI's paths, and what it decides for every other request.

use crate::client::{Client, ok, text_of};
use crate::files::bring;
use crate::house::House;
use crate::openai;
use lyceum_store::tenancy::{Act, Page, audit, projects};
use lyceum_store::{Layout, Store, keys};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyScope, Project};
use lyceum_types::limits;
use serde_json::{Value, json};
use std::time::Instant;

pub const ALL: &str = "/v1/organization";
pub const DEFAULT: &str = "/v1/organization/projects/default";

pub async fn admin(house: &House) -> Client {
    house.admin("default", &[KeyScope::OrganizationWrite], None).await.1
}

/// A key of a new service account.
pub async fn account_key(admin: &Client, project: &str) -> Client {
    let path = format!("{ALL}/projects/{project}/service_accounts");
    let made = ok(&admin.post(&path, &json!({"name": "bot"})).await);
    Client { key: Some(text_of(&made["api_key"]["value"])), ..admin.clone() }
}

pub async fn new_project(admin: &Client, name: &str) -> String {
    text_of(&ok(&admin.post(&format!("{ALL}/projects"), &json!({ "name": name })).await)["id"])
}

#[tokio::test(flavor = "multi_thread")]
async fn projects_are_listed_in_pages_changed_and_archived() {
    let house = House::new().await;
    let admin = admin(&house).await;
    let mut ids = vec!["default".to_owned()];
    for name in ["one", "two", "three"] {
        ids.push(new_project(&admin, name).await);
    }
    let whole = ok(&admin.get(&format!("{ALL}/projects")).await);
    assert_eq!((&whole["object"], &whole["has_more"]), (&json!("list"), &json!(false)));
    assert_eq!((&whole["first_id"], &whole["last_id"]), (&json!(ids[0]), &json!(ids[3])));
    let page = ok(&admin.get(&format!("{ALL}/projects?limit=2&after={}", ids[0])).await);
    assert_eq!((&page["data"][0]["id"], &page["data"][1]["id"]), (&json!(ids[1]), &json!(ids[2])));
    assert_eq!((&page["has_more"], &page["last_id"]), (&json!(true), &json!(ids[2])));
    let one = format!("{ALL}/projects/{}", ids[1]);
    assert_eq!(ok(&admin.post(&one, &json!({"name": "uno"})).await)["name"], "uno");
    let key = account_key(&admin, &ids[1]).await;
    assert_eq!(key.get("/v1/models").await.status, 200);
    let archived = ok(&admin.post(&format!("{one}/archive"), &json!({})).await);
    assert_eq!(archived["status"], "archived");
    assert!(archived["archived_at"].is_i64());
    assert_eq!(key.get("/v1/models").await.refused(403).1, "project_archived");
    assert_eq!(admin.post(&one, &json!({"name": "x"})).await.refused(400).1, "project_archived");
    assert_eq!(admin.post(&format!("{DEFAULT}/archive"), &json!({})).await.refused(400).1, "default_project");
    let rest = ok(&admin.get(&format!("{ALL}/projects")).await);
    assert!(!rest.to_string().contains(&ids[1]));
    let all = ok(&admin.get(&format!("{ALL}/projects?include_archived=true")).await);
    assert!(all.to_string().contains(&ids[1]));
    for (query, param) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("foo=1", "foo"),
        ("include_archived=maybe", "include_archived"),
    ] {
        assert_eq!(admin.get(&format!("{ALL}/projects?{query}")).await.refused(400).0, param, "{query}");
    }
    for (body, status) in [
        (json!({"name": ""}), 400),
        (json!({}), 400),
        (json!({"name": "a", "foo": 1}), 400),
        (json!({"name": "a", "residency": "EU_STORAGE_PROCESSING"}), 501),
        (json!({"name": "a", "external_key_id": "k"}), 400),
    ] {
        let answer = admin.post(&format!("{ALL}/projects"), &body).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
    }
    assert_eq!(admin.get(&format!("{ALL}/invites")).await.refused(501).1, "not_implemented");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_shown_once_rotated_and_end_at_once() {
    let house = House::new().await;
    let admin = admin(&house).await;
    let accounts = format!("{DEFAULT}/service_accounts");
    let made = ok(&admin.post(&accounts, &json!({"name": "bot"})).await);
    assert_eq!(
        (&made["object"], &made["role"]),
        (&json!("organization.project.service_account"), &json!("member"))
    );
    let (account, secret) = (text_of(&made["id"]), text_of(&made["api_key"]["value"]));
    let bot = Client { key: Some(secret.clone()), ..admin.clone() };
    assert_eq!(bot.get("/v1/models").await.status, 200);
    let bare = json!({"name": "bare", "create_service_account_only": true});
    assert_eq!(ok(&admin.post(&accounts, &bare).await)["api_key"], Value::Null);

    let listed = admin.get(&format!("{DEFAULT}/api_keys")).await;
    assert!(!listed.text().contains(&secret[4..]), "no list has a secret");
    let of_bot =
        ok(&listed)["data"].as_array().unwrap().iter().find(|key| key["name"] == "Secret Key").cloned();
    let of_bot = of_bot.expect("the account's key");
    assert_eq!(of_bot["owner"]["service_account"]["id"], json!(account));
    assert_eq!(of_bot["redacted_value"], json!(format!("sk-...{}", &secret[secret.len() - 4..])));
    let path = format!("{DEFAULT}/api_keys/{}", text_of(&of_bot["id"]));
    assert_eq!(ok(&admin.get(&path).await)["id"], of_bot["id"]);
    assert_eq!(admin.send("DELETE", &path, &[], "").await.refused(400).1, "service_account_key");

    let rotated = ok(&admin.post(&format!("{path}/rotate"), &json!({"overlap_seconds": 600})).await);
    let second = Client { key: Some(text_of(&rotated["value"])), ..admin.clone() };
    assert_eq!((bot.get("/v1/models").await.status, second.get("/v1/models").await.status), (200, 200));
    let rotated = ok(&admin.post(&format!("{path}/rotate"), &json!({})).await);
    let third = Client { key: Some(text_of(&rotated["value"])), ..admin.clone() };
    assert_eq!(bot.get("/v1/models").await.refused(401).1, "revoked_api_key");
    assert_eq!(third.get("/v1/models").await.status, 200);
    // The account takes its keys along, at the next request.
    let gone = ok(&admin.send("DELETE", &format!("{accounts}/{account}"), &[], "").await);
    assert_eq!(gone["object"], "organization.project.service_account.deleted");
    for client in [&second, &third] {
        assert_eq!(client.get("/v1/models").await.refused(401).1, "revoked_api_key");
    }

    let made = ok(&admin
        .post(&format!("{ALL}/admin_api_keys"), &json!({"name": "ci", "expires_in_seconds": 60}))
        .await);
    assert_eq!((&made["owner"]["type"], &made["owner"]["role"]), (&json!("user"), &json!("owner")));
    let other = Client { key: Some(text_of(&made["value"])), ..admin.clone() };
    let path = format!("{ALL}/admin_api_keys/{}", text_of(&made["id"]));
    assert_eq!(other.get(&path).await.status, 200);
    assert!(ok(&admin.get(&path).await).get("value").is_none());
    assert_eq!(ok(&other.send("DELETE", &path, &[], "").await)["deleted"], true, "it may end itself");
    assert_eq!(other.get(&path).await.refused(401).1, "revoked_api_key");
    assert_eq!(admin.get(&path).await.refused(404).1, "not_found");
    let newest = ok(&admin.get(&format!("{ALL}/admin_api_keys?order=desc&limit=1")).await);
    assert_eq!(newest["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_ends_is_refused_within_a_second() {
    let house = House::new().await;
    let (key, secret) = house.key(&[KeyScope::Inference], None).await;
    let client = Client { key: Some(secret), ..house.client.clone() };
    assert_eq!(client.get("/v1/models").await.status, 200);
    let other = Store::open(Layout::new(house.dir.path()), Timestamp::now()).await.unwrap();
    keys::revoke(&other, &Project::default_project(), &key.id, Timestamp::now()).await.unwrap();
    assert!(limits::STANDING_STALE_MAX.as_millis() < 1000);
    tokio::time::sleep(limits::STANDING_STALE_MAX).await;
    assert_eq!(client.get("/v1/models").await.refused(401).1, "revoked_api_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_have_roles_and_places() {
    let house = House::new().await;
    let admin = admin(&house).await;
    let operator = text_of(&ok(&admin.get(&format!("{ALL}/users")).await)["data"][0]["id"]);
    let store = house.service.store();
    let new = lyceum_store::tenancy::people::NewUser {
        name: "Ada".into(),
        email: Some("ada@example.org".into()),
        role: lyceum_types::tenancy::Role::Reader,
        is_default: false,
    };
    let act = Act::of_command_line(Timestamp::now());
    let ada =
        lyceum_store::tenancy::people::add_user(store, "default", new, &act).await.unwrap().id.to_string();
    let found = ok(&admin.get(&format!("{ALL}/users?emails[]=ada@example.org")).await);
    assert_eq!((found["data"].as_array().unwrap().len(), &found["data"][0]["id"]), (1, &json!(ada)));
    assert_eq!(found["data"][0]["api_key_last_used_at"], Value::Null, "Ada has no key");
    // The use is noted behind the answer.
    let begun = Instant::now();
    loop {
        let user = ok(&admin.get(&format!("{ALL}/users/{operator}")).await);
        if let Some(used) = user["api_key_last_used_at"].as_i64() {
            assert!((Timestamp::now().seconds() - used).abs() < 60, "{user}");
            break;
        }
        assert!(begun.elapsed() < limits::STANDING_IN_USE, "{user}");
        tokio::time::sleep(limits::STANDING_REFRESH_EVERY).await;
    }
    let members = format!("{DEFAULT}/users");
    let body = json!({"email": "ada@example.org", "role": "member"});
    assert_eq!(ok(&admin.post(&members, &body).await)["object"], "organization.project.user");
    assert_eq!(
        ok(&admin.post(&format!("{members}/{ada}"), &json!({"role": "owner"})).await)["role"],
        "owner"
    );
    assert_eq!(ok(&admin.get(&members).await)["first_id"], json!(ada));
    assert_eq!(ok(&admin.send("DELETE", &format!("{members}/{ada}"), &[], "").await)["deleted"], true);
    assert_eq!(admin.get(&format!("{members}/{ada}")).await.status, 404);
    assert_eq!(admin.post(&format!("{members}/{ada}"), &json!({"role": "owner"})).await.status, 404);
    let path = format!("{ALL}/users/{ada}");
    assert_eq!(ok(&admin.post(&path, &json!({"role": "owner"})).await)["role"], "owner");
    assert_eq!(admin.post(&path, &json!({"role": "king"})).await.refused(400).0, "role");
    assert_eq!(admin.post(&path, &json!({"role_id": "role_1"})).await.refused(501).0, "role_id");
    // The key's own user leaves, and the key with them.
    assert_eq!(ok(&admin.send("DELETE", &format!("{ALL}/users/{operator}"), &[], "").await)["deleted"], true);
    assert_eq!(admin.get(&format!("{ALL}/users")).await.refused(401).1, "revoked_api_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_counted_told_and_kept() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    house.publish_poet("poet").await;
    let admin = admin(&house).await;
    let limits = format!("{DEFAULT}/rate_limits");
    let listed = ok(&admin.get(&limits).await);
    let ids: Vec<&str> =
        listed["data"].as_array().unwrap().iter().map(|l| l["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["rl-*", "rl-flowers", "rl-poet"]);
    assert_eq!(listed["data"][0]["max_requests_per_1_minute"], json!(limits::RATE_MAX));
    let set = async |id: &str, body: Value| ok(&admin.post(&format!("{limits}/{id}"), &body).await);
    let client = account_key(&admin, "default").await;
    let predict = async || client.post("/v1/models/flowers:predict", &json!({"instances": [[1, 2]]})).await;
    assert_eq!(predict().await.header("x-ratelimit-limit-requests"), Some("1000000000"));

    // Requests to one model; others pass.
    assert_eq!(
        set("rl-flowers", json!({"max_requests_per_1_minute": 2})).await["max_requests_per_1_minute"],
        2
    );
    let answers = [predict().await, predict().await];
    let left: Vec<_> = answers.iter().map(|answer| answer.header("x-ratelimit-remaining-requests")).collect();
    assert_eq!(left, [Some("1"), Some("0")], "{}", answers[0].text());
    let third = predict().await;
    assert_eq!(third.refused(429).1, "rate_limit_exceeded");
    assert_eq!(third.json()["error"]["type"], "requests");
    let wait: u64 = third.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    assert_eq!(third.header("x-ratelimit-limit-requests"), Some("2"));
    let write = |max_tokens: usize| json!({"model": "poet", "prompt": "abc", "max_tokens": max_tokens});
    assert_eq!(client.post("/v1/completions", &write(2)).await.status, 200);

    // Tokens: the worst is reserved, what was not used comes back.
    set("rl-poet", json!({"max_tokens_per_1_minute": 20})).await;
    let began = Instant::now();
    let answer = client.post("/v1/completions", &write(10)).await;
    let used = ok(&answer)["usage"]["total_tokens"].as_u64().unwrap();
    assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("20"));
    let left: u64 = answer.header("x-ratelimit-remaining-tokens").unwrap().parse().unwrap();
    let flowed_in = began.elapsed().as_secs() * 20 / 60 + 1;
    assert!(left >= 20 - used && left <= 20 - used + flowed_in, "{left} of 20 after {used}");
    let large = client.post("/v1/completions", &write(18)).await;
    assert_eq!(large.refused(429).1, "rate_limit_exceeded");
    assert!(large.text().contains("Request too large"), "{}", large.text());
    assert_eq!((large.header("retry-after"), &large.json()["error"]["type"]), (None, &json!("tokens")));

    // One key, by its own limit; another key of the project passes.
    let key = ok(&admin.get(&format!("{DEFAULT}/api_keys?limit=100")).await)["data"].clone();
    let own = key.as_array().unwrap().iter().find(|key| key["name"] == "Secret Key").unwrap()["id"].clone();
    set(
        &format!("rl-*@{}", text_of(&own)),
        json!({"max_requests_per_1_day": 1, "max_concurrent_requests": 5}),
    )
    .await;
    // So few of a practically unlimited day are forgotten within a millisecond: the new limit begins whole.
    assert_eq!(client.post("/v1/completions", &write(1)).await.status, 200);
    assert_eq!(client.post("/v1/completions", &write(1)).await.refused(429).1, "rate_limit_exceeded");
    let tokenless = json!({"q": 0.01, "sigma": 1.0, "steps": 10, "delta": 1e-5, "accountant": "rdp"});
    assert_eq!(client.post("/v1/privacy/epsilon", &tokenless).await.status, 429);
    assert_eq!(house.client.post("/v1/privacy/epsilon", &tokenless).await.status, 200);
    assert_eq!(client.get("/v1/models").await.status, 200, "what does not work is not counted");

    for (id, body, status) in [
        ("rl-nobody", json!({"max_requests_per_1_minute": 1}), 404),
        ("nonsense", json!({"max_requests_per_1_minute": 1}), 404),
        ("rl-poet", json!({"max_images_per_1_minute": 1}), 501),
        ("rl-poet", json!({"max_requests_per_1_minute": 1_000_000_001u64}), 400),
        ("rl-poet", json!({"max_requests_per_1_minute": -1}), 400),
    ] {
        assert_eq!(admin.post(&format!("{limits}/{id}"), &body).await.status, status, "{id} {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_model_is_neither_listed_nor_asked() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    house.publish_poet("poet").await;
    let admin = admin(&house).await;
    let path = format!("{DEFAULT}/model_permissions");
    let open = json!({"object": "project.model_permissions", "mode": "deny_list", "model_ids": []});
    assert_eq!(ok(&admin.get(&path).await), open);
    for permissions in [
        json!({"mode": "deny_list", "model_ids": ["flowers"]}),
        json!({"mode": "allow_list", "model_ids": ["poet"]}),
    ] {
        ok(&admin.post(&path, &permissions).await);
        let client = &house.client;
        let listed = ok(&client.get("/v1/models").await).to_string();
        assert!(listed.contains("poet") && !listed.contains("flowers"), "{listed}");
        assert_eq!(client.get("/v1/models/flowers").await.refused(404).1, "model_not_found");
        let rows = json!({"instances": [[1, 2]]});
        let refused = client.post("/v1/models/flowers:predict", &rows).await;
        assert_eq!(refused.refused(403), ("model".into(), "model_not_found".into()));
        assert!(refused.text().contains("does not have access to model"));
        for path in ["/v1/models/flowers/card", "/v1/models/flowers/drift", "/v2/models/flowers/ready"] {
            assert_eq!(client.get(path).await.status, 403, "{path}");
        }
        let write = json!({"model": "poet", "prompt": "abc", "max_tokens": 1});
        assert_eq!(client.post("/v1/completions", &write).await.status, 200);
    }
    assert_eq!(ok(&admin.send("DELETE", &path, &[], "").await)["deleted"], true);
    assert_eq!(house.client.get("/v1/models/flowers").await.status, 200);
    let wrong = json!({"mode": "deny_list", "model_ids": ["../x"]});
    assert_eq!(admin.post(&path, &wrong).await.refused(400).0, "model_ids");
}

/// Another organisation: who administers it, and a client of its first project.
async fn theirs(house: &House) -> (Client, Client) {
    let act = Act::of_command_line(Timestamp::now());
    let (theirs, first) = projects::create_organization(house.service.store(), "theirs", &act).await.unwrap();
    let (_, admin) = house.admin(&theirs.id, &[KeyScope::OrganizationWrite], None).await;
    let them = account_key(&admin, &first.project.id).await;
    (admin, them)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_know_nothing_of_each_other() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    let ours = &house.client;
    let file = bring(ours, "secret-plans.csv", b"a,b\n1,2\n").await;
    let explain = json!({"model": "flowers", "features": {"a": 1, "b": 2}});
    let explanation = text_of(&ok(&ours.post("/v1/explanations", &explain).await)["id"]);
    let run = json!({"model": "flowers", "instances": [[0.1, 0.2]], "labels": ["no"],
        "suite": [{"type": "smoothing", "sigma": 0.25, "n": 100}]});
    let run = ours.post("/v1/robustness/runs", &run).await;
    let run = if run.status == 200 { text_of(&run.json()["id"]) } else { panic!("{}", run.text()) };

    let (_, them) = theirs(&house).await;
    let nobody = "f".repeat(32);
    let (no_file, no_run) = (format!("file_{nobody}"), format!("rob_{nobody}"));
    let no_explanation = format!("expl_{nobody}");
    let (a_file, a_run, an_explanation) = (file.as_str(), run.as_str(), explanation.as_str());
    for (path, real, other) in [
        ("/v1/models/{}", "flowers", "flawers"),
        ("/v1/models/{}/card", "flowers", "flawers"),
        ("/v1/models/{}/drift", "flowers", "flawers"),
        ("/v1/models/{}/privacy", "flowers", "flawers"),
        ("/v1/models/{}/explanation_methods", "flowers", "flawers"),
        ("/v2/models/{}", "flowers", "flawers"),
        ("/v2/models/{}/ready", "flowers", "flawers"),
        ("/v1/files/{}", a_file, no_file.as_str()),
        ("/v1/files/{}/content", a_file, no_file.as_str()),
        ("/v1/explanations/{}", an_explanation, no_explanation.as_str()),
        ("/v1/robustness/runs/{}", a_run, no_run.as_str()),
        ("/v1/robustness/runs/{}/failures", a_run, no_run.as_str()),
    ] {
        let (theirs, missing) =
            (them.get(&path.replace("{}", real)).await, them.get(&path.replace("{}", other)).await);
        assert_eq!(
            (theirs.status, missing.status),
            (404, 404),
            "{path}: {} {}",
            theirs.text(),
            missing.text()
        );
        assert_eq!(theirs.text().replace(real, other), missing.text(), "{path}");
    }
    for (method, path) in [
        ("DELETE", format!("/v1/files/{file}")),
        ("POST", format!("/v1/robustness/runs/{run}/cancel")),
        ("POST", "/v1/models/flowers:predict".to_owned()),
    ] {
        let answer = them.send(method, &path, &[], "{\"instances\":[[1,2]]}").await;
        assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text());
    }
    for path in [
        "/v1/models",
        "/v1/files",
        "/v1/robustness/runs",
        "/v1/model_selections",
        "/v1/residents",
        "/v1/privacy/budgets",
    ] {
        let answer = them.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        for word in ["flowers", "secret-plans", file.as_str(), run.as_str()] {
            assert!(!answer.text().contains(word), "{path}: {}", answer.text());
        }
    }
    assert_eq!(ours.get(&format!("/v1/files/{file}")).await.status, 200, "it is there still");
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_another_organisation_are_no_ids() {
    let house = House::new().await;
    let (their_admin, _) = theirs(&house).await;
    let their_project = text_of(&ok(&their_admin.get(&format!("{ALL}/projects")).await)["data"][0]["id"]);
    let our_admin = admin(&house).await;
    let user = text_of(&ok(&our_admin.get(&format!("{ALL}/users")).await)["data"][0]["id"]);
    let key = text_of(&ok(&our_admin.get(&format!("{ALL}/admin_api_keys")).await)["data"][0]["id"]);
    let entry = text_of(&ok(&our_admin.get(&format!("{ALL}/audit_logs")).await)["data"][0]["id"]);
    for path in [
        format!("{ALL}/projects/default"),
        format!("{DEFAULT}/api_keys"),
        format!("{DEFAULT}/rate_limits"),
        format!("{DEFAULT}/data_retention"),
        format!("{DEFAULT}/model_permissions"),
        format!("{ALL}/users/{user}"),
        format!("{ALL}/admin_api_keys/{key}"),
        format!("{ALL}/audit_logs?after={entry}"),
        format!("{ALL}/projects/{their_project}/users/{user}"),
    ] {
        assert_eq!(their_admin.get(&path).await.refused(404).1, "not_found", "{path}");
    }
    assert_eq!(their_admin.send("DELETE", &format!("{ALL}/users/{user}"), &[], "").await.status, 404);
    assert_eq!(their_admin.post(&format!("{DEFAULT}/archive"), &json!({})).await.status, 404);
    let logs = their_admin.get(&format!("{ALL}/audit_logs?limit=100")).await;
    for word in [user.as_str(), key.as_str(), "\"default\""] {
        assert!(!logs.text().contains(word), "{word}: {}", logs.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_act_is_in_the_audit_log_and_the_chain_holds() {
    let house = House::new().await;
    let admin = admin(&house).await;
    let project = new_project(&admin, "p").await;
    account_key(&admin, &project).await;
    ok(&admin
        .post(&format!("{ALL}/projects/{project}/rate_limits/rl-*"), &json!({"max_requests_per_1_minute": 9}))
        .await);
    ok(&admin
        .post(&format!("{ALL}/projects/{project}/data_retention"), &json!({"retention_type": "none"}))
        .await);
    let wrong = Client { key: Some("sk-wrong".into()), ..admin.clone() };
    for _ in 0..5 {
        assert_eq!(wrong.get("/v1/models").await.status, 401);
    }
    ok(&admin.post(&format!("{ALL}/projects/{project}/archive"), &json!({})).await);
    let of_project = ok(&admin.get(&format!("{ALL}/audit_logs?project_ids[]={project}&limit=100")).await);
    let kinds: Vec<&str> = of_project["data"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|entry| entry["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "project.created",
            "service_account.created",
            "api_key.created",
            "rate_limit.updated",
            "project.updated",
            "project.archived"
        ]
    );
    let entry = &of_project["data"][2];
    assert_eq!(entry["rate_limit.updated"]["changes_requested"]["max_requests_per_1_minute"], 9);
    assert_eq!((&entry["project"]["name"], &entry["actor"]["type"]), (&json!("p"), &json!("api_key")));
    // The first failure may still be on its way to the disk; none is lost.
    let mut counted = 0u64;
    for _ in 0..100 {
        let failed = ok(&admin.get(&format!("{ALL}/audit_logs?event_types[]=login.failed")).await);
        let counts = failed["data"].as_array().unwrap().iter();
        counted = counts.map(|entry| entry["login.failed"]["count"].as_u64().unwrap()).sum();
        if counted == 5 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(counted, 5);
    let metrics = house.client.get("/metrics").await;
    assert!(
        metrics.text().contains("lyceum_login_failures_total{code=\"invalid_api_key\"} 5"),
        "{}",
        metrics.text()
    );
    let one = ok(&admin.get(&format!("{ALL}/audit_logs?limit=1")).await);
    assert_eq!((one["data"].as_array().unwrap().len(), &one["has_more"]), (1, &json!(true)));
    assert_eq!(admin.get(&format!("{ALL}/audit_logs?foo=1")).await.refused(400).0, "foo");
    let store = house.service.store();
    let all = audit::list(store, "default", &audit::Filter::default(), Page::WHOLE, None).await.unwrap();
    let verified = audit::verify(store, "default", None).await.unwrap().unwrap();
    assert_eq!(verified.entries, all.data.len() as i64);
    assert_eq!(verified.head, all.data[0].hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_package_administers() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    let admin = admin(&house).await;
    if let Some(said) = openai::run("administration.py", "admin", &admin, "flowers").await {
        assert!(said.starts_with("administered "), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_package_reads_usage_and_costs() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    crate::ledger::priced(&house).await;
    let admin = admin(&house).await;
    if let Some(said) = openai::run("usage.py", "admin", &admin, "poet").await {
        assert!(said.starts_with("3 requests, ") && !said.contains(" 0.000000 USD"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_read_keeps_no_other_one_from_being_read_again() {
    use sqlx::{Connection, SqliteConnection};
    let house = House::new().await;
    let (damaged, secret) = house.key(&[KeyScope::Inference], None).await;
    let other = Client { key: Some(secret), ..house.client.clone() };
    for client in [&house.client, &other] {
        assert_eq!(client.get("/v1/models").await.status, 200);
    }
    let url = format!("sqlite://{}", house.dir.path().join("lyceum.db").display());
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    let mut wait_until_they_are = async |n: i64, which: &'static str| {
        let begun = Instant::now();
        loop {
            let (found,): (i64,) = sqlx::query_as(which).fetch_one(&mut database).await.unwrap();
            if found == n {
                return;
            }
            assert!(begun.elapsed() < limits::STANDING_IN_USE, "{found} of {which}");
            tokio::time::sleep(limits::STANDING_REFRESH_EVERY).await;
        }
    };
    // The use is noted behind the answer.
    wait_until_they_are(2, "SELECT COUNT(*) FROM api_keys WHERE last_used_at > 1").await;
    let mut second = SqliteConnection::connect(&url).await.unwrap();
    // Who asked last is read again first.
    sqlx::query(
        "UPDATE api_keys SET last_used_at = 1, scopes = CASE id WHEN ? THEN 'nonsense' ELSE scopes END",
    )
    .bind(damaged.id.as_str())
    .execute(&mut second)
    .await
    .unwrap();
    wait_until_they_are(1, "SELECT COUNT(*) FROM api_keys WHERE last_used_at > 1").await;
    tokio::time::sleep(limits::STANDING_STALE_MAX).await;
    assert_eq!(other.get("/v1/models").await.status, 500, "it is told to whoever has that key");
    assert_eq!(house.client.get("/v1/models").await.status, 200);
}
