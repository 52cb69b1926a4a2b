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

/// How a value is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Written {
    #[default]
    Json,
    /// A list of Python's calls.
    PythonList,
    /// Python's calls until a fence closes their block.
    PythonBlock,
}

pub(crate) const FENCE: &str = "```";

/// Finds where a value ends, in a text that grows. Strings may hold brackets.
#[derive(Clone, Debug, Default)]
pub(crate) struct ValueScan {
    at: usize,
    depth: usize,
    /// The quote that ends the string which it is in.
    quote: Option<u8>,
    escaped: bool,
    end: Option<usize>,
}

impl ValueScan {
    /// The end of the value in bytes, where it has come. `text` begins with the value (`{` or `[` of JSON and of lists)
    /// and is what it was before, with more after it.
    pub(crate) fn end(&mut self, text: &str, written: Written) -> Option<usize> {
        let python = written != Written::Json;
        if self.end.is_some() {
            return self.end;
        }
        for (i, byte) in text.bytes().enumerate().skip(self.at) {
            if written == Written::PythonBlock && self.quote.is_none() && self.depth == 0 && byte == b'`' {
                // It may be the beginning of the fence.
                self.at = i;
                let rest = &text[i..];
                if rest.starts_with(FENCE) {
                    self.end = Some(i);
                }
                if self.end.is_some() || FENCE.starts_with(rest) {
                    return self.end;
                }
            }
            self.at = i + 1;
            if let Some(quote) = self.quote {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    _ if byte == quote => self.quote = None,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.quote = Some(byte),
                b'\'' if python => self.quote = Some(byte),
                b'(' if python => self.depth += 1,
                b')' if python => self.depth = self.depth.saturating_sub(1),
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 && written != Written::PythonBlock {
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
