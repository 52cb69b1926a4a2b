//! Every bound of the product, in one place.

use std::time::Duration;

/// Rows of a data file that are kept as errors in a report; the rest is counted per code.
pub const DATA_ERRORS_SHOWN_MAX: usize = 100;
/// The longest name of a model.
pub const MODEL_NAME_CHARS_MAX: usize = 128;
/// The largest weight file that is read.
pub const WEIGHT_FILE_BYTES_MAX: u64 = 64 << 30;
/// The largest number of classes of a classifier.
pub const CLASSES_MAX: usize = 65_536;

// The store.

/// How long a writer waits for another process's transaction.
pub const DATABASE_BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that only read.
pub const DATABASE_READERS: u32 = 4;
/// Living and dead keys that one project may have.
pub const KEYS_MAX: i64 = 10_000;
/// The longest name of a key.
pub const KEY_NAME_CHARS_MAX: usize = 128;
/// How stale `last_used` of a key may be: a request must not wait for the disk.
pub const KEY_LAST_USED_STALE_MAX: Duration = Duration::from_secs(60);
/// The longest `Idempotency-Key`.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;
/// How long the answer to an `Idempotency-Key` is kept.
pub const IDEMPOTENCY_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a request under way holds its `Idempotency-Key`; its process may have died.
pub const IDEMPOTENCY_HELD: Duration = Duration::from_secs(15 * 60);
/// The largest answer that is kept for an `Idempotency-Key`.
pub const IDEMPOTENCY_BODY_BYTES_MAX: usize = 4 << 20;
/// How long a worker may be silent before another one takes its job; renewed every third of it.
pub const JOB_LEASE: Duration = Duration::from_secs(60);
