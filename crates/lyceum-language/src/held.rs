//! How much of a text's end must be held back, because what follows may change its meaning.

/// Bytes at the end that may be the beginning of `marker`.
pub(crate) fn held_back(text: &str, marker: &str) -> usize {
    let longest = (marker.len() - 1).min(text.len());
    (1..=longest).rev().find(|&n| text.as_bytes().ends_with(&marker.as_bytes()[..n])).unwrap_or(0)
}

/// Bytes of white space at the end.
pub(crate) fn held_space(text: &str) -> usize {
    text.len() - text.trim_end().len()
}

/// Finds where a JSON object or array ends, in a text that grows. Strings may hold brackets.
#[derive(Clone, Debug, Default)]
pub(crate) struct JsonScan {
    at: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
    end: Option<usize>,
}

impl JsonScan {
    /// The end of the value in bytes, where it has come. `text` begins with `{` or `[` and is what it was before,
    /// with more after it.
    pub(crate) fn end(&mut self, text: &str) -> Option<usize> {
        if self.end.is_some() {
            return self.end;
        }
        for (i, byte) in text.bytes().enumerate().skip(self.at) {
            self.at = i + 1;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        self.end = Some(i + 1);
                        return self.end;
                    }
                }
                _ => {}
            }
        }
        None
    }
}
