//! What rows of activations are, for processors where the way that is fastest for many rows is slow for one: there some
//! products are made otherwise for the two classes, with other bits.

/// A row's class is its own, not how many rows there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RowClass {
    /// Rows that come many at a time: texts that are read, batches.
    #[default]
    Bulk,
    /// Rows of sequences that grow by one token at a time.
    Step,
}
