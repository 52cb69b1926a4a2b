//! Windows of counts as they lie on the disk: how many values fell into which bin, and nothing of any value.

use super::language::{LENGTHS, NATS, Window, Windows};
use lyceum_robust::drift::counted::Histogram;
use lyceum_types::clock::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The form's own version; counts in another are begun anew, as those of other bins are.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format_version: u32,
    /// Of the weights that answered.
    sha256: String,
    wanted: u64,
    n_asked: u64,
    reference: Counts,
    now: Option<Counts>,
    before: Option<Counts>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Counts {
    /// Milliseconds since 1970.
    since: i64,
    n: u64,
    prompt_tokens: Vec<u64>,
    answer_tokens: Vec<u64>,
    surprise: Vec<u64>,
    entropy: Vec<u64>,
    finish: BTreeMap<String, u64>,
    guard: BTreeMap<String, u64>,
}

pub(super) fn write(windows: &Windows, sha256: &str) -> Vec<u8> {
    let counts = |window: &Window| {
        let of = |histogram: &Histogram| histogram.counts().to_vec();
        Counts {
            since: window.since.millis(),
            n: window.n,
            prompt_tokens: of(&window.prompt_tokens),
            answer_tokens: of(&window.answer_tokens),
            surprise: of(&window.surprise),
            entropy: of(&window.entropy),
            finish: window.finish.clone(),
            guard: window.guard.clone(),
        }
    };
    let document = Document {
        format_version: FORMAT,
        sha256: sha256.to_owned(),
        wanted: windows.wanted,
        n_asked: windows.n_asked,
        reference: counts(&windows.reference),
        now: windows.now.as_ref().map(counts),
        before: windows.before.as_ref().map(counts),
    };
    serde_json::to_vec(&document).expect("counts are plain data: bug")
}

/// None: they are of another form, other bins or other weights.
pub(super) fn read(json: &[u8], sha256: &str) -> Option<Windows> {
    let document: Document = serde_json::from_slice(json).ok()?;
    if document.format_version != FORMAT || document.sha256 != sha256 {
        return None;
    }
    let window = |counts: Counts| {
        Some(Window {
            since: Timestamp::from_millis(counts.since),
            n: counts.n,
            prompt_tokens: Histogram::of_counts(&LENGTHS, counts.prompt_tokens)?,
            answer_tokens: Histogram::of_counts(&LENGTHS, counts.answer_tokens)?,
            surprise: Histogram::of_counts(&NATS, counts.surprise)?,
            entropy: Histogram::of_counts(&NATS, counts.entropy)?,
            finish: counts.finish,
            guard: counts.guard,
        })
    };
    let maybe = |counts: Option<Counts>| match counts {
        None => Some(None),
        Some(counts) => window(counts).map(Some),
    };
    let mut windows = Windows::new(document.wanted);
    windows.reference = window(document.reference)?;
    (windows.now, windows.before) = (maybe(document.now)?, maybe(document.before)?);
    windows.n_asked = document.n_asked;
    Some(windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_read_as_it_was_and_other_weights_begin_anew() {
        let mut windows = Windows::new(40);
        windows.n_asked = 7;
        let window = windows.open();
        window.n = 3;
        window.prompt_tokens.add(&LENGTHS, 12.0);
        window.entropy.add(&NATS, 0.3);
        window.finish.insert("stop".into(), 3);
        let json = write(&windows, "a");
        let again = read(&json, "a").unwrap();
        assert_eq!(write(&again, "a"), json);
        assert_eq!((again.wanted, again.n_asked, again.reference.n), (40, 7, 3));
        assert!(read(&json, "b").is_none());
        let other = String::from_utf8(json).unwrap().replace("\"entropy\":[0,", "\"entropy\":[");
        assert!(read(other.as_bytes(), "a").is_none(), "other bins");
    }

    #[tokio::test]
    async fn counts_outlive_the_process_that_keeps_them_and_one_at_a_time_does() {
        use super::super::language::Answer;
        use super::super::watched::{Fate, Watches};
        use lyceum_store::models::Version;
        use lyceum_types::ids::Project;
        let folder = tempfile::tempdir().unwrap();
        let store =
            lyceum_store::Store::open(lyceum_store::Layout::new(folder.path()), Timestamp::from_millis(0))
                .await
                .unwrap();
        let project = Project::default_project();
        let version = Version {
            owner: project.clone(),
            name: "tiny".parse().unwrap(),
            number: 1,
            family: "llama".into(),
            task: "language".into(),
            n_params: 1,
            bytes: 1,
            sha256: "a".into(),
            job: None,
            created_at: Timestamp::from_millis(0),
            held: None,
            dir: folder.path().into(),
        };
        let answer = Answer { prompt_tokens: 5, tokens: 7, finish: "stop", sureness: Some([0.5, 0.7]) };
        let of = async |watches: &Watches, is_kept| watches.entry(&project, &version, is_kept).await.unwrap();
        let n = async |watches: &Watches| of(watches, true).await.with(|windows| windows.reference.n);
        let count =
            async |watches: &Watches| of(watches, true).await.with(|windows| windows.answered(answer));
        let settle = |watches: &Watches, fate| {
            watches.settle(watches.unwritten().into_iter().map(|entry| (entry, fate)).collect());
        };
        let first = Watches::new(store.clone());
        for _ in 0..3 {
            count(&first).await;
        }
        settle(&first, Fate::Written);
        assert!(first.unwritten().is_empty(), "all is written");
        let beside = Watches::new(store.clone());
        assert_eq!((n(&first).await, n(&beside).await), (3, 0), "another process counts for itself");
        count(&beside).await;
        settle(&beside, Fate::Written);
        drop((first, beside));
        let next = Watches::new(store.clone());
        assert_eq!(n(&next).await, 3, "what the keeper had");
        count(&next).await;
        assert_eq!(n(&next).await, 4);
        // Zero retention from here: what lay there goes, and what is counted stays in memory.
        let files = || std::fs::read_dir(store.layout().drift(&project)).unwrap().count();
        settle(&next, Fate::Written);
        assert_eq!(files(), 2, "the counts and their lock");
        let kept = of(&next, true).await;
        let zero = of(&next, false).await;
        assert_eq!(files(), 0);
        zero.with(|windows| windows.answered(answer));
        kept.with(|windows| windows.answered(answer));
        settle(&next, Fate::Written);
        assert_eq!(files(), 0, "who counted before does not write any more");
        assert_eq!(of(&next, false).await.with(|windows| windows.reference.n), 1);
        assert_eq!(n(&next).await, 0, "what was counted meanwhile is not what is written later");
        // A model that is gone.
        count(&next).await;
        settle(&next, Fate::Written);
        count(&next).await;
        settle(&next, Fate::Forgotten);
        assert_eq!(files(), 0);
    }
}
