//! The configuration of serving: how much the engine takes in, and how long models stay in memory. Each value has its
//! hard bounds in `lyceum_types::limits` and comes through the layers of [`config`](crate::config).

use crate::config::{Origin, Setting, default};
use crate::time;
use lyceum_engine::{EngineLimits, KvStorage};
use lyceum_types::limits;
use std::time::Duration;

pub const KEYS: [&str; 10] = [
    "kv_cache_mib",
    "kv_cache_type",
    "batch_rows",
    "prefill_chunk",
    "queue",
    "draft_tokens",
    "keep_alive",
    "models_mib",
    "model_uploads_mib",
    "allow_pull",
];

/// A number within its bounds, or none where the machine decides.
type Number = Setting<Option<u64>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Memory for the keys and values of one model's sequences; fixed when it first generates.
    pub kv_cache_mib: Setting<u64>,
    pub kv_cache_type: Setting<KvStorage>,
    /// Sequences of one model that run at once: the rows of a pass that writes answers.
    pub batch_rows: Setting<u64>,
    /// Tokens of one prompt in one pass: answers wait no longer for a long one.
    pub prefill_chunk: Setting<u64>,
    /// Sequences that wait or run; what comes beyond is told to come again.
    pub queue: Setting<u64>,
    /// Tokens guessed ahead from what was said; 0: none.
    pub draft_tokens: Setting<u64>,
    /// When an imported model that nobody asks for leaves the memory; None: never.
    pub keep_alive: Setting<Option<Duration>>,
    /// Memory for imported models that are loaded at once; None: seven tenths of the machine's.
    pub models_mib: Number,
    /// What files of models of one project may take on the disk until they are imported.
    pub model_uploads_mib: Setting<u64>,
    /// Whether keys that may change models let the server fetch from its hub.
    pub allow_pull: Setting<bool>,
}

impl Default for Serving {
    fn default() -> Self {
        let engine = EngineLimits::default();
        Serving {
            kv_cache_mib: default((engine.kv_bytes_per_model_max >> 20) as u64),
            kv_cache_type: default(engine.kv_storage),
            batch_rows: default(engine.sequences_running_max as u64),
            prefill_chunk: default(engine.prefill_tokens_max as u64),
            queue: default(engine.sequences_max as u64),
            draft_tokens: default(engine.draft_tokens_max as u64),
            keep_alive: default(Some(Duration::from_secs(30 * 60))),
            models_mib: default(None),
            model_uploads_mib: default(limits::MODEL_UPLOADS_MIB_DEFAULT),
            allow_pull: default(false),
        }
    }
}

impl Serving {
    /// Sets one of [`KEYS`] from its text.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn set(&mut self, key: &str, text: &str, origin: Origin) -> Result<(), String> {
        match key {
            "kv_cache_mib" => set(&mut self.kv_cache_mib, number(text, limits::KV_CACHE_MIB)?, origin),
            "kv_cache_type" => set(&mut self.kv_cache_type, kv_storage(text)?, origin),
            "batch_rows" => set(&mut self.batch_rows, number(text, limits::BATCH_ROWS)?, origin),
            "prefill_chunk" => set(&mut self.prefill_chunk, number(text, limits::PREFILL_CHUNK)?, origin),
            "queue" => set(&mut self.queue, number(text, limits::QUEUE)?, origin),
            "draft_tokens" => set(&mut self.draft_tokens, number(text, limits::DRAFT_TOKENS)?, origin),
            "keep_alive" => set(&mut self.keep_alive, keep_alive(text)?, origin),
            "models_mib" => {
                let value = match text {
                    "auto" => None,
                    text => Some(number(text, limits::MODELS_MIB)?),
                };
                set(&mut self.models_mib, value, origin);
            }
            "model_uploads_mib" => {
                set(&mut self.model_uploads_mib, number(text, limits::MODEL_UPLOADS_MIB)?, origin);
            }
            "allow_pull" => {
                let value = text.parse().map_err(|_| format!("{text:?} is neither true nor false"))?;
                set(&mut self.allow_pull, value, origin);
            }
            _ => unreachable!("only known keys are set: bug"),
        }
        Ok(())
    }

    /// Each key with its value as text and its origin.
    pub fn rows(&self) -> [(&'static str, String, &Origin); KEYS.len()] {
        let models = self.models_mib.value.map_or_else(|| "auto".to_owned(), |mib| mib.to_string());
        [
            ("kv_cache_mib", self.kv_cache_mib.value.to_string(), &self.kv_cache_mib.origin),
            ("kv_cache_type", kv_name(self.kv_cache_type.value).into(), &self.kv_cache_type.origin),
            ("batch_rows", self.batch_rows.value.to_string(), &self.batch_rows.origin),
            ("prefill_chunk", self.prefill_chunk.value.to_string(), &self.prefill_chunk.origin),
            ("queue", self.queue.value.to_string(), &self.queue.origin),
            ("draft_tokens", self.draft_tokens.value.to_string(), &self.draft_tokens.origin),
            ("keep_alive", span(self.keep_alive.value), &self.keep_alive.origin),
            ("models_mib", models, &self.models_mib.origin),
            ("model_uploads_mib", self.model_uploads_mib.value.to_string(), &self.model_uploads_mib.origin),
            ("allow_pull", self.allow_pull.value.to_string(), &self.allow_pull.origin),
        ]
    }

    pub fn engine_limits(&self) -> EngineLimits {
        let of = |setting: &Setting<u64>| usize::try_from(setting.value).unwrap_or(usize::MAX);
        let defaults = EngineLimits::default();
        let (rows, chunk) = (of(&self.batch_rows), of(&self.prefill_chunk));
        EngineLimits {
            kv_bytes_per_model_max: bytes(self.kv_cache_mib.value),
            kv_storage: self.kv_cache_type.value,
            sequences_running_max: rows,
            prefill_tokens_max: chunk,
            // Everybody who writes has a row, and a piece of a prompt finds room beside them.
            step_tokens_max: defaults.step_tokens_max.max(rows + chunk),
            sequences_max: of(&self.queue),
            draft_tokens_max: of(&self.draft_tokens),
            ..defaults
        }
    }

    /// Memory for imported models; None: what the machine has decides.
    pub fn models_bytes(&self) -> Option<usize> {
        self.models_mib.value.map(bytes)
    }
}

fn set<T>(setting: &mut Setting<T>, value: T, origin: Origin) {
    *setting = Setting { value, origin };
}

fn bytes(mib: u64) -> usize {
    usize::try_from(mib << 20).unwrap_or(usize::MAX)
}

fn number(text: &str, (least, most): (u64, u64)) -> Result<u64, String> {
    match text.parse() {
        Ok(n) if (least..=most).contains(&n) => Ok(n),
        _ => Err(format!("{text:?} is no whole number from {least} to {most}")),
    }
}

fn kv_storage(text: &str) -> Result<KvStorage, String> {
    match text {
        "f32" => Ok(KvStorage::F32),
        "bf16" => Ok(KvStorage::Bf16),
        "int8" => Ok(KvStorage::Int8),
        _ => Err(format!("{text:?} is no type of keys and values: there are f32, bf16 and int8")),
    }
}

fn kv_name(storage: KvStorage) -> &'static str {
    match storage {
        KvStorage::F32 => "f32",
        KvStorage::Bf16 => "bf16",
        KvStorage::Int8 => "int8",
    }
}

fn keep_alive(text: &str) -> Result<Option<Duration>, String> {
    if text == "0" {
        return Ok(None);
    }
    let span = time::duration(text, "30m");
    span.map(Some).map_err(|_| format!("{text:?} is neither a time span (90s, 30m, 12h) nor 0 (never)"))
}

fn span(span: Option<Duration>) -> String {
    let seconds = span.map_or(0, |span| span.as_secs());
    match seconds {
        0 => "0".into(),
        s if s % 3600 == 0 => format!("{}h", s / 3600),
        s if s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_reaches_the_engine_and_is_shown_as_it_was_written() {
        let mut serving = Serving::default();
        let before = serving.engine_limits();
        assert_eq!(before, EngineLimits::default(), "the defaults are the engine's own");
        let values = ["300", "int8", "700", "1024", "5000", "0", "90s", "4096", "100", "true"];
        for (key, value) in KEYS.into_iter().zip(values) {
            serving.set(key, value, Origin::Flag("--x")).unwrap();
        }
        let limits = serving.engine_limits();
        assert_eq!((limits.kv_bytes_per_model_max, limits.kv_storage), (300 << 20, KvStorage::Int8));
        assert_eq!((limits.sequences_running_max, limits.prefill_tokens_max), (700, 1024));
        assert_eq!((limits.sequences_max, limits.draft_tokens_max), (5000, 0));
        assert_eq!(limits.step_tokens_max, 1724, "all rows and one piece fit into a pass");
        assert_eq!(serving.models_bytes(), Some(4 << 30));
        assert_eq!((serving.model_uploads_mib.value, serving.allow_pull.value), (100, true));
        assert_eq!(serving.rows().map(|(_, value, _)| value), values.map(str::to_owned));
        assert!(serving.rows().iter().all(|(_, _, origin)| **origin == Origin::Flag("--x")));
        serving.set("keep_alive", "0", Origin::Default).unwrap();
        serving.set("models_mib", "auto", Origin::Default).unwrap();
        assert_eq!((serving.keep_alive.value, serving.models_bytes()), (None, None));
    }

    #[test]
    fn values_beyond_their_bounds_are_refused_and_change_nothing() {
        for (key, bad) in [
            ("kv_cache_mib", vec!["0", "16777217", "-1", "1.5", "1GiB"]),
            ("kv_cache_type", vec!["f16", "F32"]),
            ("batch_rows", vec!["0", "1025"]),
            ("prefill_chunk", vec!["15", "8193"]),
            ("queue", vec!["0", "65537"]),
            ("draft_tokens", vec!["17", "x"]),
            ("keep_alive", vec!["30", "-1m", "never"]),
            ("models_mib", vec!["0", "all"]),
        ] {
            for text in bad {
                let mut serving = Serving::default();
                let why = serving.set(key, text, Origin::Flag("--x")).unwrap_err();
                assert!(why.contains(text), "{why}");
                assert_eq!(serving, Serving::default());
            }
        }
    }
}
