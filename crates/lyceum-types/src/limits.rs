//! Every bound of the product, in one place.

use std::time::Duration;

/// Rows of a data file that are kept as errors in a report; the rest is counted per code.
pub const DATA_ERRORS_SHOWN_MAX: usize = 100;
/// The longest name of a model.
pub const MODEL_NAME_CHARS_MAX: usize = 128;
/// The largest weight file that is read.
pub const WEIGHT_FILE_BYTES_MAX: u64 = 64 << 30;
/// Files of an archive of pictures or sounds, and their bytes, unpacked.
pub const ARCHIVE_FILES_MAX: usize = 1_000_000;
pub const ARCHIVE_BYTES_MAX: u64 = 2 << 30;
/// The most pixels of a picture file that are read.
pub const PICTURE_PIXELS_MAX: usize = 100_000_000;
/// The largest number of classes of a classifier.
pub const CLASSES_MAX: usize = 65_536;

// The store.

/// How long a writer waits for another process's transaction.
pub const DATABASE_BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// TLS handshakes under way at once, and how long one may take.
pub const TLS_HANDSHAKES_MAX: usize = 256;
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that only read.
pub const DATABASE_READERS: u32 = 4;
/// Of what a person writes beside an act.
pub const NOTE_CHARS_MAX: usize = 2_000;
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

/// Measurements that lie beside one version.
pub const EVIDENCE_MAX: usize = 256;

/// Files that one project may have, and their bytes.
pub const FILES_MAX: i64 = 10_000;
pub const FILES_BYTES_MAX: u64 = 64 << 30;

// The wire.

/// The largest request body.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// How long a body may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest file that a request may bring (OpenAI's bound).
pub const FILE_BYTES_MAX: u64 = 512 << 20;
/// How long a file may take to arrive; each part of it has [`BODY_TIMEOUT`].
pub const FILE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Files that may be on their way at once.
pub const UPLOADS_MAX: usize = 16;
/// The longest name of a file.
pub const FILE_NAME_CHARS_MAX: usize = 512;
/// Files that one page of a list may have, and how many it has when the request does not say (OpenAI's).
pub const FILES_LISTED_MAX: u32 = 10_000;
/// How long after its creation a file may be told to expire, in seconds (OpenAI's).
pub const FILE_EXPIRES_SECONDS: (u64, u64) = (3600, 2_592_000);
/// The deepest nesting of a JSON body.
pub const JSON_DEPTH_MAX: usize = 32;
/// Requests that may be under way at once; the next one is told to come again.
pub const REQUESTS_MAX: usize = 1024;
/// How much, and for how long, a client that was answered before its whole request was read may go on sending: so long
/// its connection stays, or it would lose the answer with it.
pub const UNREAD_BYTES_MAX: usize = 64 << 20;
pub const UNREAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that wait to be taken; the system may hold fewer.
pub const CONNECTIONS_WAITING_MAX: u32 = 4096;
/// How long one request may take, from its last byte to its answer (a stream: to its end).
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a stream may be silent before a comment keeps its connection alive.
pub const STREAM_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long a server that is asked to stop waits for the answers under way.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest reference to a model in a request.
pub const MODEL_REF_CHARS_MAX: usize = 256;

// Batches and uploads.

/// Lines of one batch, and the bytes of its file (OpenAI's).
pub const BATCH_LINES_MAX: usize = 50_000;
pub const BATCH_BYTES_MAX: u64 = 200 << 20;
/// The longest `custom_id`.
pub const BATCH_CUSTOM_ID_CHARS_MAX: usize = 512;
/// Batches of one project that are not over; the next one is told to come again.
pub const BATCHES_UNFINISHED_MAX: u64 = 64;
/// How long a batch may take; what is not answered then expires (OpenAI's `24h`).
pub const BATCH_WINDOW: Duration = Duration::from_secs(24 * 3600);
/// Lines under way at once: of one batch, of one project, of all projects.
pub const BATCH_LINES_AT_ONCE: usize = 16;
pub const BATCH_LINES_OF_PROJECT_AT_ONCE: usize = 32;
pub const BATCH_LINES_OF_ALL_AT_ONCE: usize = 128;
/// Batches of one project that are worked on at once; the others wait.
pub const BATCHES_OF_PROJECT_AT_ONCE: usize = 4;
/// How long the files of a batch are kept where it does not say (OpenAI's 30 days), and a file with its lines.
pub const BATCH_FILES_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long lines under way may go on when the process ends.
pub const BATCH_STOP_GRACE: Duration = Duration::from_secs(5);
/// How long a batch rests that the disk or the database broke off.
pub const BATCH_PAUSE: Duration = Duration::from_secs(10);
/// How long lines under way may go on when their batch is cancelled or its window has passed (OpenAI's 10 minutes).
pub const BATCH_GRACE: Duration = Duration::from_secs(600);
/// How often batches are looked for that other processes were asked for or left, and the counts of one are written.
pub const BATCHES_LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a line is asked again that the server was not ready for.
pub const BATCH_NOT_READY_ATTEMPTS_MAX: u32 = 20;
/// Batches of one page, and how many where the request does not say (OpenAI's).
pub const BATCHES_LISTED_MAX: u32 = 100;
pub const BATCHES_LISTED_DEFAULT: u32 = 20;
/// The largest part of an upload, the parts of one, its bytes, and how long it waits for them (OpenAI's).
pub const UPLOAD_PART_BYTES_MAX: u64 = 64 << 20;
pub const UPLOAD_PARTS_MAX: usize = 1024;
pub const UPLOAD_BYTES_MAX: u64 = 8 << 30;
pub const UPLOAD_KEPT: Duration = Duration::from_secs(3600);
/// The largest file of a model that is brought (all parts that an upload may have), how long its upload waits for parts, and
/// how long the file waits for the others of its model.
pub const MODEL_UPLOAD_BYTES_MAX: u64 = WEIGHT_FILE_BYTES_MAX;
pub const MODEL_UPLOAD_KEPT: Duration = Duration::from_secs(24 * 3600);
pub const MODEL_FILES_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Files of one model that is brought, and of those the bytes of one that is no weights.
pub const MODEL_FILES_MAX: usize = 1024;
pub const MODEL_DESCRIPTION_BYTES_MAX: u64 = 256 << 20;
/// Bytes of a model trained here that comes back from another machine: it is read whole.
pub const MODEL_TRAINED_BYTES_MAX: u64 = 4 << 30;
/// MiB that the files of models of one project may take on the disk until they are imported.
pub const MODEL_UPLOADS_MIB: (u64, u64) = (1, 1 << 24);
pub const MODEL_UPLOADS_MIB_DEFAULT: u64 = 256 << 10;
/// How often a client is told how far an import or a pull is.
pub const IMPORT_TOLD_EVERY: Duration = Duration::from_millis(250);
/// Uploads of one project that still come.
pub const UPLOADS_PENDING_MAX: usize = 64;

// Completions.

/// Prompts of one request.
pub const PROMPTS_MAX: usize = 128;
/// Prompts times `n` of one request.
pub const CHOICES_MAX: usize = 128;
/// The largest `max_tokens`.
pub const MAX_TOKENS_MAX: usize = 65_536;
/// `max_tokens` when the request does not say (OpenAI's default).
pub const MAX_TOKENS_DEFAULT: usize = 16;
/// The largest `logprobs`.
pub const LOGPROBS_MAX: usize = 5;
/// Most likely tokens that are reported with each token of a prompt.
pub const PROMPT_LOGPROBS_MAX: usize = 20;
/// Stop sequences of one request, and the longest of them.
pub const STOPS_MAX: usize = 4;
pub const STOP_CHARS_MAX: usize = 256;
/// The largest `top_k`.
pub const TOP_K_MAX: usize = 1 << 20;
/// Tokens with a bias of their own.
pub const LOGIT_BIAS_MAX: usize = 4096;
/// Messages of a chat, and tools that it offers.
pub const MESSAGES_MAX: usize = 4096;
pub const TOOLS_MAX: usize = 128;
/// Log-probabilities of most likely tokens in a chat.
pub const TOP_LOGPROBS_MAX: usize = 20;
/// Answers that one project keeps at most, the oldest leaving first, and how long each is kept (OpenAI's 30 days).
pub const RESPONSES_MAX: usize = 4096;
pub const RESPONSE_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Answers of the background that a project has made at once; the engine batches them with everybody else's.
pub const BACKGROUND_RESPONSES_AT_ONCE: usize = 16;
/// Answers of the background of a project that wait or are made.
pub const BACKGROUND_RESPONSES_MAX: usize = 256;
/// How long an answer of the background may take, once it has begun.
pub const BACKGROUND_RESPONSE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Pairs of a metadata map, and the longest key and value of one (OpenAI's).
pub const METADATA_PAIRS_MAX: usize = 16;
pub const METADATA_KEY_CHARS_MAX: usize = 64;
pub const METADATA_VALUE_CHARS_MAX: usize = 512;
/// Items of one page of an answer's input, and how many it has when the request does not say (OpenAI's).
pub const INPUT_ITEMS_LISTED_MAX: usize = 100;
pub const INPUT_ITEMS_LISTED_DEFAULT: usize = 20;
/// The longest advisory text (`user`, `safety_identifier`, `prompt_cache_key`).
pub const ADVISORY_CHARS_MAX: usize = 512;

// Embeddings and ranking.

/// Texts of one request (OpenAI's bound), and documents of one.
pub const EMBEDDING_INPUTS_MAX: usize = 2048;
/// Texts of one moderation, and their bytes.
pub const MODERATION_INPUTS_MAX: usize = 2048;
pub const MODERATION_BYTES_MAX: usize = 4 << 20;
pub const RERANK_DOCUMENTS_MAX: usize = 2048;
/// Tokens of all texts of one request (OpenAI's bound).
pub const ENCODED_TOKENS_MAX: usize = 300_000;
/// Ids that one request turns into text.
pub const DETOKENIZE_IDS_MAX: usize = 1 << 20;

// Decisions and predictions.

/// Labelled rows of a cascade, and the largest file that they are read from.
pub const CASCADE_ROWS_MAX: usize = 10_000;
pub const CASCADE_FILE_BYTES_MAX: u64 = 64 << 20;
/// Questions of one request.
pub const QUESTIONS_MAX: usize = 400;
/// Letters of a label that a language model is asked for.
pub const LABEL_CHARS_MAX: usize = 256;
/// Labels of all questions that one request asks a language model: each is a sequence of its own.
pub const LABELS_OF_DECISION_MAX: usize = 2048;
/// Choices of one question, and levels of one.
pub const CHOICES_OF_QUESTION_MAX: usize = 255;
/// Instances of one prediction.
pub const INSTANCES_MAX: usize = 4096;
/// Numbers of all inputs of one tensor request.
pub const TENSOR_ELEMENTS_MAX: usize = 4 << 20;
/// Tensors of one request, and dimensions of one tensor.
pub const TENSORS_MAX: usize = 16;
pub const TENSOR_DIMS_MAX: usize = 8;

// Explanations.

/// The largest `max_passes`, and what it is when the request does not say.
pub const EXPLAIN_PASSES_MAX: u64 = 65_536;
pub const EXPLAIN_PASSES_DEFAULT: u64 = 2048;
/// Explanations that may be under way at once.
pub const EXPLANATIONS_MAX: usize = 32;
/// Memory that one explanation which looks inside a language model may hold between its layers.
pub const EXPLAIN_BYTES_MAX: usize = 2 << 30;
/// Explanations that can be asked for again by their id; the oldest leave first.
pub const EXPLANATIONS_KEPT_MAX: usize = 1024;
/// Instances that one request explains.
pub const EXPLAINED_INSTANCES_MAX: usize = 64;
/// Columns that a counterfactual may change.
pub const COUNTERFACTUAL_CHANGES_MAX: usize = 5;
/// Rows of a background.
pub const BACKGROUND_ROWS_MAX: usize = 256;
/// Nodes, samples and permutations of one method.
pub const EXPLAIN_SAMPLES_MAX: usize = 65_536;

/// Checkpoints of a job that may stay, and training rows that an influence answer lists on each side.
pub const CHECKPOINTS_KEPT_MAX: usize = 100;
pub const INFLUENCE_ROWS: usize = 10;

// Robustness.

/// Rows of one robustness run over HTTP.
pub const ROBUSTNESS_ROWS_MAX: usize = INSTANCES_MAX;
/// The largest file that such a run reads its rows from.
pub const ROBUSTNESS_FILE_BYTES_MAX: u64 = 64 << 20;
/// Items of one suite.
pub const ROBUSTNESS_ITEMS_MAX: usize = 64;
/// Texts of one run over a language model, the tokens of one, and those of an answer that a run has it write.
pub const ROBUSTNESS_TEXTS_MAX: usize = 512;
pub const ROBUSTNESS_TEXT_TOKENS_MAX: usize = 1024;
pub const ROBUSTNESS_ANSWER_TOKENS_MAX: usize = 512;
/// Attacks of one's own of a red-team item, tries of each attack, and characters of a system prompt or of an attack.
pub const RED_TEAM_ATTACKS_MAX: usize = 256;
pub const RED_TEAM_TRIES_MAX: usize = 16;
pub const RED_TEAM_CHARS_MAX: usize = 32_768;
/// How long a background run over HTTP may take, once it has begun.
pub const BACKGROUND_RUN_TIMEOUT: Duration = Duration::from_secs(3600);
/// Background runs (robustness, explanations) that work at once; each takes turns on the device.
pub const BACKGROUND_RUNS_AT_ONCE: usize = 2;
/// Background runs that wait or work.
pub const BACKGROUND_RUNS_MAX: usize = 32;
/// Runs of one kind that a project keeps; the oldest that have ended leave first.
pub const BACKGROUND_RUNS_KEPT: usize = 256;
/// Rows of one window of drift tests; then the next begins.
pub const DRIFT_WINDOW_ROWS: u64 = 10_000;
/// Answers of a language model that one window of its drift counts: the first is the reference.
pub const LANGUAGE_DRIFT_WINDOW: u64 = 1000;
/// Samples of all certificates of one request.
pub const CERTIFY_SAMPLES_MAX: u64 = 200_000;

// Privacy.

/// Canaries of one job.
pub const CANARIES: (usize, usize) = (100, 100_000);
/// Rows of one answer that says which models saw them.
pub const ROWS_TOLD_MAX: usize = 100;

// Choices.

/// Choices of one project that wait or run; the next one is told to come again.
pub const SELECTIONS_UNFINISHED_MAX: u64 = 16;
/// The largest budget of a choice over HTTP.
pub const SELECTION_MINUTES_MAX: f64 = 1440.0;
/// How often a choice is begun whose process dies.
pub const SELECTION_ATTEMPTS_MAX: u32 = 3;

// Trainings over HTTP.

/// Trainings of one project that wait, run or are paused; the next one is told to come again.
pub const TRAININGS_UNFINISHED_MAX: u64 = 64;
/// How often in a row the process of a training may die before it reaches a further step.
pub const TRAINING_DEATHS_MAX: u32 = 3;
/// Letters of a tuned model's suffix.
pub const SUFFIX_CHARS_MAX: usize = 64;
/// Jobs, events or checkpoints of one page.
pub const TRAININGS_LISTED_MAX: u32 = 100;
pub const EVENTS_LISTED_MAX: u32 = 1000;
/// Lines of a training's log that are read for its events: the newest.
pub const EVENTS_READ_BYTES_MAX: u64 = 64 << 20;
/// How often a stream of events looks for more.
pub const EVENTS_LOOK_EVERY: Duration = Duration::from_millis(250);

// The engine: what configuration may choose between.

/// Memory for the keys and values of one model, in MiB.
pub const KV_CACHE_MIB: (u64, u64) = (1, 1 << 24);
/// Sequences that run at once.
pub const BATCH_ROWS: (u64, u64) = (1, 1024);
/// Tokens of one prompt in one pass.
pub const PREFILL_CHUNK: (u64, u64) = (16, 8192);
/// Sequences that wait or run.
pub const QUEUE: (u64, u64) = (1, 65_536);
/// Tokens that are guessed ahead.
pub const DRAFT_TOKENS: (u64, u64) = (0, 16);
/// Memory for imported models that are loaded at once, in MiB.
pub const MODELS_MIB: (u64, u64) = (1, 1 << 24);

// The service.

/// Versions that are loaded at once.
pub const RESIDENT_MODELS_MAX: usize = 64;
/// Rows of one prediction in the engine; longer requests are several.
pub const PREDICT_ROWS_A_BATCH: usize = 256;
/// Tokens of one batch of texts in the engine, padding included.
pub const PREDICT_TOKENS_A_BATCH: usize = 16_384;
/// How long readiness may take to prove itself.
pub const READY_TIMEOUT: Duration = Duration::from_secs(10);

// The ledger.

/// Entries that are written in one transaction, and how long the first of them waits for others.
pub const LEDGER_GROUP_MAX: usize = 256;
pub const LEDGER_GATHER: Duration = Duration::from_millis(5);
/// Entries that wait while the database takes nothing; then no new work begins.
pub const LEDGER_PENDING_MAX: usize = 65_536;
/// How old prices and budgets may be that another process has changed.
pub const LEDGER_LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often the progress of one request is written down.
pub const LEDGER_NOTE_EVERY: Duration = Duration::from_millis(20);
/// A spool that is longer begins anew.
pub const LEDGER_SPOOL_BYTES: u64 = 8 << 20;
/// How long money that no request needs stays with a process.
pub const LEDGER_PURSE_IDLE: Duration = Duration::from_secs(2);
/// How often one request asks budgets for money before it is told to come again.
pub const LEDGER_GRANTS_MAX: usize = 16;
/// How long the end of a process waits for entries to be written.
pub const LEDGER_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Entries of the ledger that one page has.
pub const USAGE_ENTRIES_LISTED_MAX: u32 = 1000;
/// Sums that one question about usage may need.
pub const USAGE_SUMS_MAX: u32 = 200_000;

// Tenancy.

/// Prices that an installation ever had: each server reads them all.
pub const PRICES_MAX: i64 = 100_000;
pub const BUDGETS_MAX: i64 = 100_000;
/// A billion of the currency, in millionths: an amount that a float holds exactly.
pub const AMOUNT_MAX: i64 = 1_000_000_000_000_000;
/// Projects of one organisation, its users, its admin keys; service accounts of one project.
pub const PROJECTS_MAX: i64 = 10_000;
pub const USERS_MAX: i64 = 10_000;
pub const ADMIN_KEYS_MAX: i64 = 10_000;
pub const SERVICE_ACCOUNTS_MAX: i64 = 10_000;
/// The longest name of a project, a user or a service account, and the longest address of a user.
pub const TENANCY_NAME_CHARS_MAX: usize = 256;
pub const EMAIL_CHARS_MAX: usize = 254;
/// Objects of one page of administration, and how many where the request does not say (OpenAI's).
pub const ADMINISTRATION_LISTED_MAX: u32 = 100;
pub const ADMINISTRATION_LISTED_DEFAULT: u32 = 20;
/// The longest life of an admin key over HTTP, in seconds (OpenAI's).
pub const ADMIN_KEY_SECONDS_MAX: u64 = 31_536_000;
/// The longest time that a replaced key lives on beside its successor.
pub const KEY_OVERLAP_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
/// Models that one project's list may name.
pub const MODEL_PERMISSIONS_MAX: usize = 1000;
/// Limits of one project: its own, its models', its keys'.
pub const RATE_LIMITS_MAX: i64 = 10_000;
/// The largest limit, which is also what holds where none was set.
pub const RATE_MAX: u64 = 1_000_000_000;
/// How old what is known of a key or a project may be: what another process changes counts after it.
pub const STANDING_STALE_MAX: Duration = Duration::from_millis(500);
/// How often loaded models are looked for that another process deleted.
pub const DELETED_SOUGHT_EVERY: Duration = Duration::from_secs(5);
/// How often what requests of the last [`STANDING_IN_USE`] rested on is read again, so that the next finds it known.
pub const STANDING_REFRESH_EVERY: Duration = Duration::from_millis(250);
pub const STANDING_IN_USE: Duration = Duration::from_secs(5);
/// Keys, and projects, that are read again before they are asked for: those used last.
pub const STANDINGS_REFRESHED_MAX: usize = 16;
/// Keys and projects that are known by heart; beyond it they are read again.
pub const STANDINGS_MAX: usize = 65_536;
/// Subjects whose rates are counted; those that have nothing counted leave first.
pub const RATES_COUNTED_MAX: usize = 262_144;
/// How often failed logins are summed up in the audit log.
pub const LOGIN_FAILURES_EVERY: Duration = Duration::from_secs(60);

// The guard.

/// Texts up to this length are looked through where the request is read; longer ones would hold up others.
pub const GUARD_INLINE_BYTES_MAX: usize = 16 << 10;
/// How long what was masked can be brought back.
pub const RESTORE_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Texts that one analysis may have.
pub const PII_TEXTS_MAX: usize = 1_000;
/// Findings that a request may bring.
pub const PII_RESULTS_MAX: usize = 100_000;
/// The shortest key of a hash.
pub const HASH_KEY_BYTES_MIN: usize = 16;
