//! Which imported models are in memory.

use lyceum_service::residency::Loaded;
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct Resident {
    /// `name@3`
    pub id: String,
    /// `resident`
    pub object: &'static str,
    pub family: String,
    /// Of its weights; of an adapter, of what it adds.
    pub bytes: usize,
    /// The version that an adapter adds to; null for other models.
    pub parent: Option<String>,
    /// Since it was last asked for.
    pub idle_seconds: f64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ResidentList {
    /// `list`
    pub object: &'static str,
    pub data: Vec<Resident>,
}

/// What was let go.
#[derive(Debug, Serialize, ToSchema)]
pub struct Unloaded {
    pub id: String,
    /// `resident`
    pub object: &'static str,
    pub unloaded: bool,
}

impl From<Loaded> for Resident {
    fn from(Loaded { id, family, bytes, parent, idle }: Loaded) -> Self {
        Resident { id, object: "resident", family, bytes, parent, idle_seconds: idle.as_secs_f64() }
    }
}
