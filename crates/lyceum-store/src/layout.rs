//! Where everything lies in a data folder:
//!
//! ```text
//! DATA_DIR/lyceum.db                                  rows (and -wal, -shm beside it)
//! DATA_DIR/lyceum.db.opening                          held while one process opens or migrates it
//! DATA_DIR/models/NAME/VERSION/model.safetensors      weights
//! DATA_DIR/models/NAME/VERSION/manifest.json          everything else about them
//! DATA_DIR/models/NAME/VERSION/manifest.sha256        its hash, as sha256sum writes it; written last
//! DATA_DIR/jobs/ID/checkpoints/                       what a job resumes from
//! DATA_DIR/jobs/ID/owner.lock                         held by the process that works on the job
//! DATA_DIR/files/ID/NAME                              what a request brought, under a name that leads nowhere else
//! DATA_DIR/batches/ID/input.jsonl, done.jsonl         what a batch asks, and its answers as they come
//! DATA_DIR/uploads/ID/                                 parts of a file that is still coming
//! DATA_DIR/selections/ID.json                         what a choice among models found
//! DATA_DIR/runs/ID.json, ID.jsonl, ID.lock            a background run, its rows, and who works on it
//! DATA_DIR/drift/NAME%40VERSION.json, .lock           counts of a model's answers, and who keeps them
//! DATA_DIR/responses/ID.json, ID.lock                 a kept answer, and who makes one of the background
//! DATA_DIR/keyring/TENANT/PROJECT.json                a project's wrapped key; PROJECT.destroyed where it was destroyed
//! DATA_DIR/spool/OWNER.lock, OWNER.N.spool           what a process has not told the ledger yet
//! DATA_DIR/staging/ID/, DATA_DIR/staging/ID.lock      versions that are being written, folders being removed
//! ```
//! `org/name` lies in the folder `org%2Fname`: one level, and never mistaken for a version of `org`; a `:` is `%3A`. Models of
//! a project other than the default one lie below `DATA_DIR/projects/TENANT/PROJECT/`.

use lyceum_types::ids::{FileId, JobId, ModelName, Project};
use std::path::{Path, PathBuf};

pub const DATABASE: &str = "lyceum.db";
/// Names the machine: no other has this data folder, and none gets it from a backup.
pub(crate) const MACHINE: &str = "machine";
/// What clients brought.
pub(crate) const FILES: &str = "files";
pub const WEIGHTS: &str = "model.safetensors";
pub const MANIFEST: &str = "manifest.json";
pub const MANIFEST_SHA256: &str = "manifest.sha256";

/// The paths of one data folder; knows names only and touches nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn database(&self) -> PathBuf {
        self.root.join(DATABASE)
    }

    pub fn opening_lock(&self) -> PathBuf {
        self.root.join("lyceum.db.opening")
    }

    pub fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    /// A version's folder relative to the root, as rows hold it. The default project needs no folder of its own.
    pub fn version_path(project: &Project, name: &ModelName, version: u32) -> String {
        let within = format!("models/{}/{version}", name.as_str().replace('/', "%2F").replace(':', "%3A"));
        if *project == Project::default_project() {
            return within;
        }
        format!("projects/{}/{}/{within}", folder_name(&project.tenant), folder_name(&project.id))
    }

    pub fn version_dir(&self, project: &Project, name: &ModelName, version: u32) -> PathBuf {
        self.root.join(Self::version_path(project, name, version))
    }

    pub fn jobs(&self) -> PathBuf {
        self.root.join("jobs")
    }

    pub fn job_dir(&self, id: &JobId) -> PathBuf {
        self.jobs().join(id.as_str())
    }

    /// Where a job lies below the root, with slashes.
    pub(crate) fn job_path(id: &JobId) -> String {
        format!("jobs/{id}")
    }

    /// The word by which this machine's workers are told from those of others with the same database.
    pub(crate) fn machine(&self) -> PathBuf {
        self.root.join(MACHINE)
    }

    pub fn checkpoints_dir(&self, id: &JobId) -> PathBuf {
        self.job_dir(id).join("checkpoints")
    }

    pub fn job_lock(&self, id: &JobId) -> PathBuf {
        self.job_dir(id).join("owner.lock")
    }

    pub fn data_files(&self) -> PathBuf {
        self.root.join(FILES)
    }

    pub fn data_file_dir(&self, id: &FileId) -> PathBuf {
        self.data_files().join(id.as_str())
    }

    /// What the choices of a project found.
    pub fn selections(&self, project: &Project) -> PathBuf {
        self.of_project(project).join("selections")
    }

    /// The batches of a project that are not over.
    pub fn batches(&self, project: &Project) -> PathBuf {
        self.of_project(project).join("batches")
    }

    /// The files of a project that are still coming, in parts.
    pub fn uploads(&self, project: &Project) -> PathBuf {
        self.of_project(project).join("uploads")
    }

    /// The background runs of a project.
    pub fn runs(&self, project: &Project) -> PathBuf {
        self.of_project(project).join("runs")
    }

    /// What is counted of a project's answers.
    pub fn drift(&self, project: &Project) -> PathBuf {
        self.of_project(project).join("drift")
    }

    /// The answers that a project keeps.
    pub fn responses(&self, project: &Project) -> PathBuf {
        self.of_project(project).join("responses")
    }

    /// The default project needs no folder of its own.
    fn of_project(&self, project: &Project) -> PathBuf {
        if *project == Project::default_project() {
            return self.root.clone();
        }
        self.root.join("projects").join(folder_name(&project.tenant)).join(folder_name(&project.id))
    }

    /// The wrapped keys of encrypted projects.
    pub(crate) fn keyring(&self) -> PathBuf {
        self.root.join("keyring")
    }

    pub(crate) fn project_key(&self, project: &Project) -> PathBuf {
        self.keyring().join(folder_name(&project.tenant)).join(format!("{}.json", folder_name(&project.id)))
    }

    /// Says that a project's key was destroyed.
    pub(crate) fn project_key_destroyed(&self, project: &Project) -> PathBuf {
        self.project_key(project).with_extension("destroyed")
    }

    /// What processes have not told the ledger yet.
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    pub fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }
}

/// One path part that no text can break out of, different for different texts.
pub(crate) fn folder_name(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') {
            name.push(byte.into());
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    name
}

/// The text that [`folder_name`] made a path part of.
pub(crate) fn text_of_folder(part: &str) -> String {
    let bytes = part.as_bytes();
    let (mut text, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while i < bytes.len() {
        let coded = (bytes[i] == b'%').then(|| part.get(i + 1..i + 3)).flatten();
        match coded.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                text.push(byte);
                i += 3;
            }
            None => {
                text.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_never_share_a_folder_and_never_leave_the_root() {
        let name = "a".parse().unwrap();
        let path = |tenant: &str, id: &str| {
            Layout::version_path(&Project { tenant: tenant.into(), id: id.into() }, &name, 1)
        };
        assert_eq!(path("default", "default"), "models/a/1");
        assert_eq!(path("t", "p"), "projects/t/p/models/a/1");
        assert_eq!(path("..", "a/b"), "projects/%2E%2E/a%2Fb/models/a/1");
        for text in ["..", "a/b", "plain-1_2", "é%41"] {
            assert_eq!(text_of_folder(&folder_name(text)), text);
        }
    }

    #[test]
    fn an_organisation_never_collides_with_a_version() {
        let layout = Layout::new("/data");
        let project = Project::default_project();
        let plain = layout.version_dir(&project, &"a".parse().unwrap(), 1);
        let org = layout.version_dir(&project, &"a/1".parse().unwrap(), 1);
        assert_eq!(plain, PathBuf::from("/data/models/a/1"));
        assert_eq!(org, PathBuf::from("/data/models/a%2F1/1"));
    }
}
