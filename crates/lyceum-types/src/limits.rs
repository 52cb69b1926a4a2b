//! Every bound of the product, in one place.

/// Rows of a data file that are kept as errors in a report; the rest is counted per code.
pub const DATA_ERRORS_SHOWN_MAX: usize = 100;
/// The longest name of a model.
pub const MODEL_NAME_CHARS_MAX: usize = 128;
/// The largest weight file that is read.
pub const WEIGHT_FILE_BYTES_MAX: u64 = 64 << 30;
/// The largest number of classes of a classifier.
pub const CLASSES_MAX: usize = 65_536;
