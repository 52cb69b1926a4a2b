//! Membership audits in the background: what they find is what the library finds, a pass a row is paid, and what cannot be
//! audited is refused with its reason.

use crate::files::bring;
use crate::house::House;
use crate::language::import_tiny;
use crate::ledger::{priced, rows};
use crate::robustness::{answers, trained};
use lyceum_service::audits;
use lyceum_types::control::Control;
use lyceum_types::ids::{ModelRef, Project};
use serde_json::{Value, json};

const AUDITS: &str = "/v1/privacy/audits";

async fn ended(house: &House, audit: &Value) -> Value {
    let path = format!("{AUDITS}/{}", audit["id"].as_str().unwrap_or_else(|| panic!("{audit}")));
    for _ in 0..3000 {
        let audit = house.client.get(&path).await.json();
        if !matches!(audit["status"].as_str(), Some("queued" | "in_progress")) {
            return audit;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("{path} does not end");
}

/// Rows of the table, each with a label: the model's own, or the other one.
fn csv(rows: &[[f64; 2]], labels: &[String], is_right: bool) -> String {
    let other = |label: &str| if label == "yes" { "no" } else { "yes" };
    let line = |(row, label): (&[f64; 2], &String)| {
        format!("{},{},{}\n", row[0], row[1], if is_right { label } else { other(label) })
    };
    format!("a,b,y\n{}", rows.iter().zip(labels).map(line).collect::<String>())
}

#[tokio::test(flavor = "multi_thread")]
async fn losses_tell_members_from_others_and_each_row_is_a_pass() {
    let house = House::new().await;
    trained(&house, "table").await;
    priced(&house).await;
    let points: Vec<[f64; 2]> = (0..40).map(|i| [f64::from(i) / 8.0, 1.0 - f64::from(i) / 5.0]).collect();
    let labels = answers(&house, "table", &json!(points)).await;
    let (inside, outside) = (csv(&points, &labels, true), csv(&points, &labels, false));
    let members = bring(&house.client, "in.csv", inside.as_bytes()).await;
    let others = bring(&house.client, "out.csv", outside.as_bytes()).await;
    let before = rows(&house).await.len();
    let body = json!({"model": "table", "members": members, "others": others});
    let queued = house.client.post(AUDITS, &body).await;
    assert_eq!(queued.status, 200, "{}", queued.text());
    let id = queued.header("x-request-id").unwrap().to_owned();
    let queued = queued.json();
    assert!(queued["object"] == "privacy.audit" && queued["auc"].is_null(), "{queued}");
    let audit = ended(&house, &queued).await;
    assert_eq!((&audit["status"], &audit["attack"]), (&json!("completed"), &json!("loss")), "{audit}");
    assert_eq!((&audit["n_members"], &audit["n_others"]), (&json!(40), &json!(40)));
    assert_eq!(audit["auc"]["value"], 1.0, "each label that the model gives has the smaller loss: {audit}");
    assert!(audit["epsilon_claimed"].is_null() && audit["loss"].is_null() && audit["canaries"].is_null());
    // The same numbers as the library's on the same file.
    let reference: ModelRef = "table".parse().unwrap();
    let resident = house.service.resident(&Project::default_project(), &reference).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let score = |text: &str| {
        let path = folder.path().join("rows.csv");
        std::fs::write(&path, text).unwrap();
        audits::of_rows(&resident, path.as_path(), &Control::new()).unwrap()
    };
    let found = lyceum_privacy::membership::attack(&score(&inside), &score(&outside), &audits::FPRS).unwrap();
    assert_eq!(audit["tpr_at"], serde_json::to_value(&found.tpr_at).unwrap());
    let paid = rows(&house).await;
    assert_eq!((paid.len(), paid[&id].counts.passes), (before + 1, 80), "{:?}", paid[&id]);
    let listed = house.client.get(AUDITS).await.json();
    assert_eq!(listed["data"][0]["id"], audit["id"]);
    // The same file on both sides is told from itself by nobody.
    let same = json!({"model": "table", "members": members, "others": members});
    let same = ended(&house, &house.client.post(AUDITS, &same).await.json()).await;
    assert_eq!(same["auc"]["value"], 0.5, "{same}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_audited_is_refused_before_a_run() {
    let house = House::new().await;
    trained(&house, "table").await;
    import_tiny(&house).await;
    let rows = bring(&house.client, "rows.csv", b"a,b,y\n1,2,no\n2,1,yes\n").await;
    let ask = async |model: &str, members: &str, others: &str| {
        let body = json!({"model": model, "members": members, "others": others});
        house.client.post(AUDITS, &body).await
    };
    assert_eq!(ask("nobody", &rows, &rows).await.status, 404);
    assert_eq!(ask("tiny", &rows, &rows).await.refused(422).1, "unsupported_model");
    assert_eq!(ask("table", "file_0", &rows).await.refused(400), ("members".into(), "file_not_found".into()));
    let one = bring(&house.client, "one.csv", b"a,b,y\n1,2,no\n").await;
    assert_eq!(ask("table", &rows, &one).await.refused(400), ("others".into(), "invalid_value".into()));
    let wrong = bring(&house.client, "wrong.csv", b"a,b,y\n1,x,no\n2,1,yes\n").await;
    let refused = ask("table", &rows, &wrong).await;
    assert_eq!(refused.refused(400), ("others".into(), "invalid_data".into()));
    assert!(refused.text().contains("wrong.csv:2") && !refused.text().contains("/tmp"), "{}", refused.text());
    let bare = bring(&house.client, "bare.csv", b"a,b\n1,2\n2,1\n").await;
    let refused = ask("table", &rows, &bare).await;
    assert_eq!(refused.refused(400), ("others".into(), "invalid_data".into()), "no labels, so no losses");
    assert_eq!(house.client.get(&format!("{AUDITS}/audit_0")).await.status, 404);
}
