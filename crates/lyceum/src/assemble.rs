//! The only file that names concrete backends.

use crate::config::Config;
use crate::failure::{Exit, Failure};
use lyceum_engine::Engine;
use lyceum_service::Service;
use lyceum_service::imports::pulled::Hub;
use lyceum_store::vault::MasterKey;
use lyceum_store::{Layout, Store, blobs};
use lyceum_types::clock::Timestamp;
use std::path::Path;
use std::sync::Arc;

/// Opens the data folder and the database; makes what is not there.
pub async fn store(config: &Config) -> Result<Store, Failure> {
    let (layout, database) = (Layout::new(&config.data_dir.value), config.database.value.clone());
    let s3 = config.objects.s3();
    // Before the database: what cannot be used is said at once.
    let blobs = s3.and_then(|s3| s3.map(|s3| blobs::s3::open(&s3)).transpose()).map_err(|message| {
        let why = "the object store that `blobs` names cannot be used so";
        Failure::usage(message, why, "correct it; lyceum config show --origin")
    })?;
    let mut store = Store::open_at(layout, database, Timestamp::now()).await?;
    if let Some(blobs) = blobs {
        store = store.with_blobs(blobs);
    }
    match &config.master_key_file.value {
        None => Ok(store),
        Some(path) => Ok(store.unlocked(master_key(path, &config.data_dir.value)?)),
    }
}

/// The use cases over this store, with the processor as the device, within the configured bounds.
pub fn service(config: &Config, store: Store) -> Result<Arc<Service>, Failure> {
    let engine = Engine::start(config.serving.engine_limits())
        .map_err(|error| Failure::internal("the device thread does not start", &error))?;
    let mut service = Service::new(store, engine)
        .with_guards(config.guarding.guards())
        .with_model_uploads(config.serving.model_uploads_mib.value << 20);
    if config.serving.allow_pull.value {
        service = service.with_hub(Hub::from_env(|name| std::env::var(name).ok()));
    }
    Ok(Arc::new(match config.serving.models_bytes() {
        Some(bytes_max) => service.with_language_memory(bytes_max),
        None => service,
    }))
}

/// The key that opens what encrypted projects keep. Beside what it opens it would protect nothing.
fn master_key(path: &Path, data_dir: &Path) -> Result<MasterKey, Failure> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if real(path).starts_with(real(data_dir)) {
        let message = format!("the master key {} lies in the data folder", path.display());
        let why = "whoever has the folder would have the key to what is encrypted in it";
        let fix = "move it elsewhere, best to another disk, and set master_key_file";
        return Err(Failure::new(Exit::Usage, "master_key_in_data_folder", message, why, fix));
    }
    Ok(MasterKey::read(path)?)
}
