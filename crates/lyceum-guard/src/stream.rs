//! A text that is changed while it comes: what may still become a finding is held back, everything else goes on.

use crate::analyse::{End, Reader};
use crate::recogniser::CONTEXT_BYTES_MAX;
use crate::{Analyser, Finding, GuardError, Wanted};

/// What stands in a text for what was found.
pub trait Replace {
    /// Adds to `out` what stands for `found`, which reads `text`.
    ///
    /// # Errors
    /// The text must not go on.
    fn replace(&mut self, found: &Finding, text: &str, out: &mut String) -> Result<(), GuardError>;
}

impl<F: FnMut(&Finding, &str, &mut String)> Replace for F {
    fn replace(&mut self, found: &Finding, text: &str, out: &mut String) -> Result<(), GuardError> {
        self(found, text, out);
        Ok(())
    }
}

/// Changes a text that comes in parts. At most [`HELD_BYTES_MAX`](crate::segment::HELD_BYTES_MAX) characters wait, and
/// what comes out does not depend on the cuts.
pub struct Rewriter {
    reader: Reader,
    /// Context, then what waits.
    buffer: String,
    waits_from: usize,
    bytes_dropped: usize,
}

impl Rewriter {
    pub fn new(analyser: &Analyser, wanted: &Wanted) -> Self {
        let reader = Reader::new(analyser.clone(), wanted.clone());
        Self { reader, buffer: String::new(), waits_from: 0, bytes_dropped: 0 }
    }

    /// What can go on now that `text` has come.
    ///
    /// # Errors
    /// A recogniser failed, or `replace` refuses: nothing may go on, and the rewriter is of no further use.
    pub fn push(&mut self, text: &str, replace: &mut impl Replace) -> Result<String, GuardError> {
        self.buffer.push_str(text);
        self.go(End::Later, replace)
    }

    /// Nothing more comes: the rest.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(&mut self, replace: &mut impl Replace) -> Result<String, GuardError> {
        self.go(End::Here, replace)
    }

    /// Characters that wait.
    pub fn held(&self) -> usize {
        self.buffer[self.waits_from..].chars().count()
    }

    fn go(&mut self, end: End, replace: &mut impl Replace) -> Result<String, GuardError> {
        let mut out = String::new();
        while let Some(read) = self.reader.next(&self.buffer, self.waits_from, end)? {
            let (mut at, piece_end) = (self.waits_from, self.waits_from + read.n_bytes);
            for found in &read.findings {
                let start = found.bytes.start - self.bytes_dropped;
                let stop = found.bytes.end - self.bytes_dropped;
                out.push_str(&self.buffer[at..start]);
                replace.replace(found, &self.buffer[start..stop], &mut out)?;
                at = stop;
            }
            out.push_str(&self.buffer[at..piece_end]);
            self.waits_from = piece_end;
        }
        self.drop_read();
        Ok(out)
    }

    /// Only the context of what comes is kept.
    fn drop_read(&mut self) {
        let mut n = self.waits_from.saturating_sub(CONTEXT_BYTES_MAX);
        // In large steps: moving what waits costs as much as it is long.
        if n < 4 * CONTEXT_BYTES_MAX {
            return;
        }
        while !self.buffer.is_char_boundary(n) {
            n -= 1;
        }
        self.buffer.drain(..n);
        self.waits_from -= n;
        self.bytes_dropped += n;
    }
}

/// A whole text, changed.
///
/// # Errors
/// As [`Rewriter::push`].
pub fn rewrite(
    analyser: &Analyser,
    wanted: &Wanted,
    text: &str,
    replace: &mut impl Replace,
) -> Result<String, GuardError> {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for found in analyser.analyse(text, wanted)? {
        out.push_str(&text[at..found.bytes.start]);
        replace.replace(&found, &text[found.bytes.clone()], &mut out)?;
        at = found.bytes.end;
    }
    out.push_str(&text[at..]);
    Ok(out)
}
