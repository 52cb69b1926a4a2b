//! Every route that names an object × a valid key of another organisation: what is there is answered as what is nowhere.

use crate::client::Client;
use crate::door::{changes, routes};
use crate::files::bring;
use crate::house::House;
use lyceum_api::Access;
use lyceum_store::jobs::{self, Kind, NewJob};
use lyceum_store::responses::{self, ResponseId};
use lyceum_store::runs::{self, RunId};
use lyceum_store::tenancy::{Act, projects};
use lyceum_store::{batches, keys};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{BatchId, KeyScope, Project};
use serde_json::json;

/// The kinds of objects by how their URLs begin, the longest first: an id that is ours, and one that is nobody's.
struct Objects(Vec<(&'static str, String, String)>);

impl Objects {
    fn of(&self, path: &str) -> &(&'static str, String, String) {
        let found = self.0.iter().find(|(begins, ..)| path.starts_with(begins));
        found.unwrap_or_else(|| panic!("{path}: make an object of this kind here"))
    }
}

/// As an id, and nobody's: its last digits are others.
fn nobodys(id: &str) -> String {
    let end = if id.ends_with("0000") { "1111" } else { "0000" };
    format!("{}{end}", &id[..id.len() - 4])
}

/// An object of every kind in the default project, or in its organisation.
async fn objects(house: &House) -> Objects {
    let (store, ours, project) = (house.service.store(), &house.client, Project::default_project());
    house.publish_table("flowers").await;
    let id = |answer: crate::client::Answer| {
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    let upload = json!({"bytes": 8, "filename": "a.csv", "mime_type": "text/csv", "purpose": "user_data"});
    let explain = json!({"model": "flowers", "features": {"a": 1, "b": 2}});
    let run = json!({"model": "flowers", "instances": [[0.1, 0.2]], "labels": ["no"],
        "suite": [{"type": "smoothing", "sigma": 0.25, "n": 100}]});
    let response = ResponseId::new();
    responses::save(store, &project, &response, b"{}", Timestamp::now()).unwrap();
    let batch = BatchId::from_bits(0xabc);
    let (status, document) = ("completed".to_owned(), "{}".to_owned());
    let row = batches::Row { id: batch.clone(), project: project.clone(), status, document };
    batches::insert(store, &row).await.unwrap();
    let job = async |kind| {
        let (spec, request) = ("{}".to_owned(), Some("{}".to_owned()));
        let new = NewJob { kind, spec, request, model: "m".into(), steps: 1, bill: None };
        jobs::create(store, &project, new, Timestamp::now()).await.unwrap().to_string()
    };
    let cascade = RunId::new(runs::Kind::Cascade);
    drop(runs::own(store, &project, &cascade).unwrap());
    runs::save(store, &project, &cascade, b"{}").unwrap();
    let audit = RunId::new(runs::Kind::Audit);
    drop(runs::own(store, &project, &audit).unwrap());
    runs::save(store, &project, &audit, b"{}").unwrap();
    let (training, selection) = (job(Kind::Train).await, job(Kind::Choose).await.replace("job_", "sel_"));
    let (key, admin) = house.admin("default", &[KeyScope::OrganizationWrite], None).await;
    let user = admin.get("/v1/organization/users").await.json()["data"][0]["id"].as_str().unwrap().to_owned();
    let mut all = vec![
        ("/v1/files/", bring(ours, "rows.csv", b"a,b\n1,2\n").await),
        ("/v1/uploads/", id(ours.post("/v1/uploads", &upload).await)),
        ("/v1/explanations/", id(ours.post("/v1/explanations", &explain).await)),
        ("/v1/robustness/runs/", id(ours.post("/v1/robustness/runs", &run).await)),
        ("/v1/cascades/", cascade.as_str().to_owned()),
        ("/v1/privacy/audits/", audit.as_str().to_owned()),
        ("/v1/responses/", response.as_str().to_owned()),
        ("/v1/batches/", batch.to_string()),
        ("/v1/fine_tuning/jobs/", training),
        ("/v1/model_selections/", selection),
        ("/v1/organization/admin_api_keys/", key.id.to_string()),
        ("/v1/organization/users/", user),
        (
            "/v1/organization/budgets/",
            id(admin
                .post("/v1/organization/budgets", &json!({"limit_usd": 9, "project_id": "default"}))
                .await),
        ),
        // There are none: each is refused, whoever's it were.
        ("/v1/organization/invites/", "invite-1234".into()),
    ]
    .into_iter()
    .map(|(begins, id)| (begins, id.clone(), nobodys(&id)))
    .collect::<Vec<_>>();
    for begins in ["/v1/models/", "/v2/models/", "/v1/residents/"] {
        all.push((begins, "flowers".into(), "flawers".into()));
    }
    all.push(("/v1/organization/projects/", "default".into(), "defanlt".into()));
    Objects(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_tells_a_stranger_of_an_object_what_it_tells_of_none() {
    let house = House::new().await;
    let objects = objects(&house).await;
    let act = Act::of_command_line(Timestamp::now());
    let store = house.service.store();
    let (theirs, first) = projects::create_organization(store, "theirs", &act).await.unwrap();
    let (_, admin) = house.admin(&theirs.id, &[KeyScope::OrganizationWrite], None).await;
    let grant = keys::KeyGrant { name: "all".into(), scopes: vec![KeyScope::Admin], expires_at: None };
    let (_, secret) = keys::create(store, &first.project, grant, Timestamp::now()).await.unwrap();
    let them = Client { key: Some(secret.reveal().to_owned()), ..house.client.clone() };

    let mut n_asked = 0;
    for (method, path, access) in routes(&house).await {
        if !path.contains("flowers") {
            continue;
        }
        n_asked += 1;
        let client = if access == Access::Organization { &admin } else { &them };
        let (_, real, other) = objects.of(&path);
        let url = |id: &str| path.replacen("flowers", id, 1);
        let (found, none) = (
            client.send(&method, &url(real), &[], "{}").await,
            client.send(&method, &url(other), &[], "{}").await,
        );
        assert_eq!(found.status, none.status, "{method} {path}: {} {}", found.text(), none.text());
        assert_eq!(found.text().replace(real, other), none.text(), "{method} {path}");
        // A body may be wrong before anything is looked for; nothing is ever given.
        let is_nothing = path.starts_with("/v1/organization/invites/") && found.status == 501;
        let is_refused = found.status == 404
            || is_nothing
            || (changes(&method) && matches!(found.status, 400 | 415 | 422));
        assert!(is_refused, "{method} {path}: {} {}", found.status, found.text());
    }
    assert!(n_asked > 60, "{n_asked} routes name an object");
    // What was ours is ours still.
    assert_eq!(house.client.get("/v1/models/flowers").await.status, 200);
    assert_eq!(house.client.get(&format!("/v1/files/{}", objects.of("/v1/files/").1)).await.status, 200);
}
