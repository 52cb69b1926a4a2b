//! Which models saw a row: from the hash of its file over manifests, jobs and bases to versions.
//!
//! A manifest names the rows of each part by their numbers. A private version's does not, for that would be what its noise
//! hides: of it can be said that the row was among those that each step drew from, and at which ε. Who learns this owns
//! the project.

use crate::{Service, ServiceError, cascades, files};
use lyceum_store::layout::MANIFEST;
use lyceum_store::models::{self, Version};
use lyceum_store::vault::KeyedPath;
use lyceum_store::{Store, data_files, privacy};
use lyceum_train::data::DataError;
use lyceum_train::data::find::rows_with;
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::ids::Project;
use lyceum_types::limits;
use lyceum_types::manifest::{DataFile, ImportedManifest, Manifest, PrivacyReport};
use lyceum_types::spec::Task;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// What is not in the answer, whatever it is.
pub const LIMITS: [&str; 4] = [
    "versions that were deleted are not here, nor models of a choice that were thrown away",
    "jobs that have not ended keep weights that learnt rows in their checkpoints",
    "the same words in another file are another row: ask for that file too",
    "weights that were imported say nothing of the rows that they were trained on elsewhere",
];

/// How a version knows a row, the closest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sight {
    /// It was trained on the row.
    Trained,
    /// With differential privacy, on a file that has the row: each step drew it with some probability.
    Drawn,
    /// It stands on the weights of a version that was trained on the row.
    Inherited,
    /// The row chose between its steps, or its validation numbers are of it.
    Validated,
    /// Its test numbers are of it.
    Tested,
    /// It was trained on the file, and its manifest does not say on which rows.
    Unknown,
    /// It was trained on the file, and not on the row.
    FileOnly,
}

impl Sight {
    pub fn as_str(self) -> &'static str {
        match self {
            Sight::Trained => "trained",
            Sight::Drawn => "drawn",
            Sight::Inherited => "inherited",
            Sight::Validated => "validated",
            Sight::Tested => "tested",
            Sight::Unknown => "unknown",
            Sight::FileOnly => "file_only",
        }
    }
}

/// A version that has to do with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `name@3`
    pub model: String,
    pub job: Option<String>,
    pub sight: Sight,
    /// In words.
    pub how: String,
}

/// Whose row is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Rows count from 0, as manifests have them; a header is none.
    Row(u64),
    /// Every row that holds these words.
    Text(String),
}

/// What became of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub row: u64,
    pub seen: Vec<Seen>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub data_sha256: String,
    pub rows: Vec<Row>,
    /// Rows that hold the words and are not in the answer, which has the first of them.
    pub more: usize,
}

/// What became of the wanted rows of a file that was brought.
pub async fn of_file(
    service: &Service,
    project: &Project,
    id: &str,
    wanted: Wanted,
) -> Result<Answer, ServiceError> {
    let path = files::open(service.store(), project, "file", id).await?;
    let id = id.parse().map_err(lyceum_store::StoreError::from)?;
    let file = data_files::find(service.store(), project, &id, Timestamp::now()).await?;
    let rows = rows_of(&path, wanted).await?;
    answer(service.store(), project, file.sha256, rows).await
}

/// The numbers of the wanted rows.
pub async fn rows_of(path: impl Into<KeyedPath>, wanted: Wanted) -> Result<Vec<u64>, ServiceError> {
    let text = match wanted {
        Wanted::Row(row) => return Ok(vec![row]),
        Wanted::Text(text) => text,
    };
    let path = path.into();
    let control = Control::new().with_deadline(Instant::now() + limits::REQUEST_TIMEOUT);
    let found = tokio::task::spawn_blocking(move || rows_with(&path, &text, &control)).await;
    found.map_err(|error| ServiceError::internal("reading a file broke off", error))?.map_err(|error| {
        match error {
            DataError::Report(report) => ServiceError::WrongFile { param: "file", report: Box::new(report) },
            DataError::Io { source, .. } => ServiceError::internal("reading a file that was brought", source),
            DataError::Stopped(_) => ServiceError::DeadlinePassed,
        }
    })
}

/// What became of rows of the file with this hash.
pub async fn answer(
    store: &Store,
    project: &Project,
    data_sha256: String,
    mut rows: Vec<u64>,
) -> Result<Answer, ServiceError> {
    let more = rows.len().saturating_sub(limits::ROWS_TOLD_MAX);
    rows.truncate(limits::ROWS_TOLD_MAX);
    let versions = models::list(store, project).await?;
    let spends = privacy::spends(store, project).await?;
    let jobs: BTreeSet<String> =
        spends.into_iter().filter(|spend| spend.data_sha256 == data_sha256).map(|spend| spend.job).collect();
    let work = move || -> Result<Answer, ServiceError> {
        let known: Vec<Known> = versions.into_iter().map(Known::read).collect::<Result<_, _>>()?;
        let rows = rows
            .into_iter()
            .map(|row| Ok(Row { row, seen: seen(&known, &jobs, &data_sha256, row)? }))
            .collect::<Result<_, ServiceError>>()?;
        Ok(Answer { data_sha256, rows, more })
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ServiceError::internal("reading the manifests broke off", error))?
}

/// What a version's manifest says of its data.
struct Known {
    id: String,
    job: Option<String>,
    sha256: String,
    data: Vec<DataFile>,
    split: BTreeMap<String, Vec<u64>>,
    /// The parts are ranges of one long text.
    is_text: bool,
    privacy: Option<PrivacyReport>,
    /// Hashes of the weights that it stands on.
    bases: Vec<String>,
}

impl Known {
    fn read(version: Version) -> Result<Self, ServiceError> {
        if cascades::is_cascade(&version) {
            return Self::of_cascade(&version);
        }
        let bytes = version
            .dir
            .join(MANIFEST)
            .read()
            .map_err(|error| ServiceError::internal("read the manifest", error))?;
        let damaged =
            |source: serde_json::Error| ServiceError::Damaged { id: version.id(), source: source.into() };
        let (id, job) = (version.id(), version.job.as_ref().map(|job| job.to_string()));
        if !crate::language::is_imported(&version) {
            let manifest: Manifest = serde_json::from_slice(&bytes).map_err(damaged)?;
            let is_text = manifest.spec.task == Task::LanguageModeling;
            let (data, split, privacy) = (manifest.data, manifest.split, manifest.privacy);
            let bases = manifest.calibration.map(|c| c.parent_sha256).into_iter().collect();
            return Ok(Known { id, job, sha256: version.sha256, data, split, is_text, privacy, bases });
        }
        let manifest: ImportedManifest = serde_json::from_slice(&bytes).map_err(damaged)?;
        let mut bases: Vec<String> = manifest.base.map(|base| base.sha256).into_iter().collect();
        let (mut data, mut split) = (Vec::new(), BTreeMap::new());
        if let Some(tuned) = manifest.tuned {
            bases.push(tuned.base.sha256);
            (data, split) = (tuned.data, tuned.split);
        }
        let privacy = manifest.privacy;
        Ok(Known { id, job, sha256: version.sha256, data, split, is_text: false, privacy, bases })
    }

    /// A cascade was trained on nothing: its thresholds were fitted on rows, and it stands on its members.
    fn of_cascade(version: &Version) -> Result<Self, ServiceError> {
        let (manifest, cascade) = cascades::read(version)?;
        let tested = DataFile { role: "test".into(), ..manifest.report.held_out };
        let [fitted, measured] = cascades::parts(&cascade.calibration, &tested);
        let split = BTreeMap::from([("calibration".to_owned(), fitted), ("test".to_owned(), measured)]);
        let members = [cascade.small, cascade.large];
        Ok(Known {
            id: version.id(),
            job: None,
            sha256: version.sha256.clone(),
            data: vec![cascade.calibration.file, tested],
            split,
            is_text: false,
            privacy: None,
            bases: members.into_iter().flat_map(|m| [Some(m.sha256), m.base_sha256]).flatten().collect(),
        })
    }

    /// How it knows a row of a file by itself; None: it does not.
    fn sight(&self, jobs: &BTreeSet<String>, sha256: &str, row: u64) -> Option<(Sight, String)> {
        let has = |part: &str| self.split.get(part).is_some_and(|rows| rows.contains(&row));
        let own_file = |part: &str| self.data.iter().any(|file| file.role == part);
        let of = |file: &DataFile| match &file.role[..] {
            "train" if self.is_text => (Sight::Unknown, "its rows are one long text".to_owned()),
            "train" if self.split.contains_key("train") && has("train") => {
                (Sight::Trained, "the row is in its training part".to_owned())
            }
            "train" if !own_file("valid") && has("valid") => {
                (Sight::Validated, "the row was held out of training to validate it".to_owned())
            }
            "train" if !own_file("test") && has("test") => {
                (Sight::Tested, "the row was held out of training to test it".to_owned())
            }
            "train" if self.privacy.is_some() => self.drawn(),
            "train" if !self.split.contains_key("train") => {
                (Sight::Unknown, "its manifest names no rows".to_owned())
            }
            "train" => (Sight::FileOnly, "the row is in none of its parts: it was left out".to_owned()),
            "calibration" if has("calibration") => {
                (Sight::Validated, "its thresholds were fitted on the row".to_owned())
            }
            part => {
                let sight = if part == "test" { Sight::Tested } else { Sight::Validated };
                match has(part) || !self.split.contains_key(part) {
                    true => (sight, format!("the file is its {part} part")),
                    false => (Sight::FileOnly, format!("the row was left out of its {part} part")),
                }
            }
        };
        let found = self.data.iter().filter(|file| file.sha256 == sha256).map(of).min();
        let spent = || self.job.as_ref().is_some_and(|job| jobs.contains(job)).then(|| self.drawn());
        // A private version does not name its file, and the ledger does.
        found.or_else(spent)
    }

    fn drawn(&self) -> (Sight, String) {
        let how = self.privacy.as_ref().and_then(|report| {
            let (event, epsilon) = (report.events.first()?, report.epsilon?);
            Some(format!(
                "each of {} steps drew every row with probability {:.4}; ε = {epsilon:.4} at δ = {}. Whether this row was \
                 drawn is withheld",
                event.steps, event.q, report.delta
            ))
        });
        (Sight::Drawn, how.unwrap_or_else(|| "its job spent of the file's privacy ledger".to_owned()))
    }
}

/// Every version that has to do with a row, the closest first.
fn seen(known: &[Known], jobs: &BTreeSet<String>, sha256: &str, row: u64) -> Result<Vec<Seen>, ServiceError> {
    let counted = known.iter().flat_map(|k| &k.data).filter(|file| file.sha256 == sha256);
    if let Some(n) = counted.map(|file| file.rows).filter(|n| *n > 0).max()
        && row >= n
    {
        let message = format!("the file has {n} rows; they count from 0");
        return Err(ServiceError::invalid("row", "out_of_range", message));
    }
    let mut found: Vec<Option<(Sight, String)>> =
        known.iter().map(|known| known.sight(jobs, sha256, row)).collect();
    // Checkpoints of a job know what the version that it made knows.
    for i in 0..known.len() {
        if found[i].is_none() && known[i].data.is_empty() && known[i].job.is_some() {
            let of_job = |j: &usize| *j != i && known[*j].job == known[i].job && !known[*j].data.is_empty();
            let whole = (0..known.len()).find(of_job).and_then(|j| Some((found[j].clone()?, &known[j].id)));
            found[i] = whole.map(|((sight, how), id)| (sight, format!("as {id}, of the same job: {how}")));
        }
    }
    // What stands on weights that were trained on the row; a chain of them ends, for each round finds one more.
    loop {
        let learnt =
            |j: &usize| matches!(found[*j], Some((Sight::Trained | Sight::Drawn | Sight::Inherited, _)));
        let next = (0..known.len()).filter(|&i| !learnt(&i)).find_map(|i| {
            let stands = |j: &usize| *j != i && known[i].bases.contains(&known[*j].sha256);
            (0..known.len()).filter(learnt).find(stands).map(|j| (i, j))
        });
        let Some((i, j)) = next else { break };
        found[i] = Some((Sight::Inherited, format!("it stands on {}", known[j].id)));
    }
    let mut seen: Vec<Seen> = known
        .iter()
        .zip(found)
        .filter_map(|(known, found)| {
            let (sight, how) = found?;
            Some(Seen { model: known.id.clone(), job: known.job.clone(), sight, how })
        })
        .collect();
    seen.sort_by(|a, b| (a.sight, &a.model).cmp(&(b.sight, &b.model)));
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(id: &str, job: Option<&str>) -> Known {
        Known {
            id: id.into(),
            job: job.map(str::to_owned),
            sha256: format!("weights of {id}"),
            data: Vec::new(),
            split: BTreeMap::new(),
            is_text: false,
            privacy: None,
            bases: Vec::new(),
        }
    }

    fn trained(id: &str, parts: &[(&str, &[u64])]) -> Known {
        let file = |role: &str| DataFile { role: role.into(), path: "f".into(), sha256: "f".into(), rows: 9 };
        let split = parts.iter().map(|(part, rows)| ((*part).to_owned(), rows.to_vec())).collect();
        Known { data: vec![file("train")], split, ..known(id, Some(id)) }
    }

    fn told(known: &[Known], jobs: &[&str], row: u64) -> Vec<(String, &'static str)> {
        let jobs = jobs.iter().map(|job| (*job).to_owned()).collect();
        let seen = seen(known, &jobs, "f", row).unwrap();
        seen.into_iter().map(|seen| (seen.model, seen.sight.as_str())).collect()
    }

    #[test]
    fn versions_are_told_by_how_close_they_came_to_the_row() {
        let base = trained("a@1", &[("train", &[0, 1]), ("valid", &[2]), ("test", &[3])]);
        let adapter = Known { bases: vec![base.sha256.clone()], ..known("b@1", Some("b")) };
        let further = Known { bases: vec![adapter.sha256.clone()], ..known("c@1", None) };
        let checkpoint = known("a:ckpt-step-2@1", Some("a@1"));
        let other = Known { data: Vec::new(), ..known("d@1", Some("d")) };
        let all = [base, adapter, further, checkpoint, other];
        let of = |row| told(&all, &[], row);
        let pairs = |found: &[(&str, &'static str)]| {
            found.iter().map(|(model, sight)| ((*model).to_owned(), *sight)).collect::<Vec<_>>()
        };
        let trained = pairs(&[
            ("a:ckpt-step-2@1", "trained"),
            ("a@1", "trained"),
            ("b@1", "inherited"),
            ("c@1", "inherited"),
        ]);
        assert_eq!(of(1), trained);
        assert_eq!(of(2), pairs(&[("a:ckpt-step-2@1", "validated"), ("a@1", "validated")]));
        assert_eq!(of(3), pairs(&[("a:ckpt-step-2@1", "tested"), ("a@1", "tested")]));
        assert_eq!(of(4), pairs(&[("a:ckpt-step-2@1", "file_only"), ("a@1", "file_only")]));
        assert!(seen(&all, &BTreeSet::new(), "f", 9).is_err(), "there is no such row");
        assert!(seen(&all, &BTreeSet::new(), "another file", 1).unwrap().is_empty());
    }

    #[test]
    fn a_private_version_that_names_nothing_is_known_by_the_ledger() {
        let mut hidden = trained("p@1", &[]);
        (hidden.data[0].sha256, hidden.data[0].rows) = ("withheld".into(), 0);
        assert_eq!(told(&[hidden], &["p@1"], 5), [("p@1".to_owned(), "drawn")]);
        // Without a list of rows and without privacy nothing is claimed either way.
        assert_eq!(told(&[trained("q@1", &[])], &[], 5), [("q@1".to_owned(), "unknown")]);
    }
}
