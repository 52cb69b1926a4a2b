//! Aliases, approvals, promotions, lineage and deletions of models: our nouns in OpenAI's manner.

use lyceum_service::registry::{Event, Lineage, Pointer, Promoted, Source};
use lyceum_types::ids::ModelName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/models/{name@3}/aliases`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AliasRequest {
    /// Such as `prod`.
    pub alias: String,
    /// Whether its moves need an approval from now on; without it that stays as it is.
    pub protected: Option<bool>,
    /// Why, for the history.
    #[serde(default)]
    pub note: String,
}

/// A word for the history.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NoteRequest {
    #[serde(default)]
    pub note: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelAlias)]
pub struct AliasBody {
    /// `name@prod`
    pub id: String,
    /// `model.alias`
    pub object: &'static str,
    pub alias: String,
    /// The version that it points at: `name@3`.
    pub model: String,
    pub version: u32,
    /// The version that it pointed at before; only in the answer to a move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<u32>,
    /// It moves to approved versions only; not in the answer to a move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protected: Option<bool>,
}

impl AliasBody {
    pub fn new(name: &ModelName, pointer: &Pointer) -> Self {
        let protected = Some(pointer.protected);
        Self { protected, ..Self::moved(name, pointer.alias.as_str(), None, pointer.version) }
    }

    pub fn moved(name: &ModelName, alias: &str, before: Option<u32>, version: u32) -> Self {
        let (id, model) = (format!("{name}@{alias}"), format!("{name}@{version}"));
        let (object, alias) = ("model.alias", alias.to_owned());
        Self { id, object, alias, model, version, before, protected: None }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelAliasList)]
pub struct AliasList {
    /// `list`
    pub object: &'static str,
    pub data: Vec<AliasBody>,
}

/// One thing that happened to a name.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelEvent)]
pub struct EventBody {
    /// `model.event`
    pub object: &'static str,
    /// `approved`, `promoted`, `set`, `rolled_back`, `removed` or `deleted`
    pub event: &'static str,
    pub version: u32,
    pub alias: Option<String>,
    /// Where the alias pointed before.
    pub before: Option<u32>,
    /// A key's id, or a user of the machine.
    pub actor: String,
    pub note: String,
    pub created_at: i64,
}

impl From<Event> for EventBody {
    fn from(event: Event) -> Self {
        Self {
            object: "model.event",
            event: event.kind.as_str(),
            version: event.version,
            alias: event.alias,
            before: event.before,
            actor: event.actor,
            note: event.note,
            created_at: event.at.seconds(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelEventList)]
pub struct EventList {
    /// `list`
    pub object: &'static str,
    /// The oldest first.
    pub data: Vec<EventBody>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelCalibrated)]
pub struct CalibratedBody {
    /// The version that was published: `name@4`
    pub id: String,
    /// `model`
    pub object: &'static str,
    pub sha256: String,
    /// The temperature, the rows that chose it, and the error of calibration on them before and after.
    #[schema(value_type = Object)]
    pub calibration: serde_json::Value,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelApproval)]
pub struct ApprovalBody {
    /// `name@3`
    pub id: String,
    /// `model.approval`
    pub object: &'static str,
    pub approved: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelPromotion)]
pub struct PromotionBody {
    /// `name@3`
    pub id: String,
    /// `model.promotion`
    pub object: &'static str,
    /// Why it was held; null: it was not.
    pub was_held: Option<String>,
    /// What the bare name serves now.
    pub served: String,
}

impl From<Promoted> for PromotionBody {
    fn from(done: Promoted) -> Self {
        let id = done.before.id();
        Self { id, object: "model.promotion", was_held: done.before.held, served: done.served.id() }
    }
}

/// What was deleted, as OpenAI tells it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelDeleted)]
pub struct DeletedBody {
    pub id: String,
    /// `model` or `model.alias`
    pub object: &'static str,
    pub deleted: bool,
}

/// From the hashes of the data to the names that are served.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelLineage)]
pub struct LineageBody {
    /// `model.lineage`
    pub object: &'static str,
    /// `name@3`
    pub model: String,
    pub weights_sha256: String,
    pub created: i64,
    /// What it was trained on; of an imported one, its files.
    pub data: Vec<LineageFile>,
    pub job: Option<String>,
    /// Null: it was trained here.
    pub imported_from: Option<String>,
    pub parents: Vec<LineageParent>,
    /// Why the bare name passes it over; null: it does not.
    pub held: Option<String>,
    pub approvals: Vec<LineageApproval>,
    pub aliases: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct LineageFile {
    pub role: String,
    pub path: String,
    pub sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct LineageParent {
    pub id: String,
    pub weights_sha256: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct LineageApproval {
    pub actor: String,
    pub note: String,
    pub at: i64,
}

impl From<Lineage> for LineageBody {
    fn from(lineage: Lineage) -> Self {
        let file = |f: Source| LineageFile { role: f.role, path: f.path, sha256: f.sha256, rows: f.rows };
        let approval = |e: Event| LineageApproval { actor: e.actor, note: e.note, at: e.at.seconds() };
        let version = lineage.version;
        Self {
            object: "model.lineage",
            model: version.id(),
            weights_sha256: version.sha256,
            created: version.created_at.seconds(),
            data: lineage.data.into_iter().map(file).collect(),
            job: version.job.map(|job| job.as_str().to_owned()),
            imported_from: lineage.imported_from,
            parents: lineage
                .parents
                .into_iter()
                .map(|p| LineageParent { id: p.id, weights_sha256: p.weights_sha256 })
                .collect(),
            held: version.held,
            approvals: lineage.approvals.into_iter().map(approval).collect(),
            aliases: lineage.aliases.into_iter().map(|a| a.alias.to_string()).collect(),
        }
    }
}
