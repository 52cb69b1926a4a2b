//! Words of errors that show what a file or a request said: never all of it.

use std::borrow::Cow;

const HEAD_CHARS: usize = 400;
const TAIL_CHARS: usize = 120;

/// The text, or its beginning and its end where it is long.
pub fn short(text: &str) -> Cow<'_, str> {
    if text.len() <= HEAD_CHARS + TAIL_CHARS || text.chars().count() <= HEAD_CHARS + TAIL_CHARS {
        return Cow::Borrowed(text);
    }
    let head = text.char_indices().nth(HEAD_CHARS).map_or(text.len(), |(at, _)| at);
    let tail = text.char_indices().nth_back(TAIL_CHARS - 1).map_or(0, |(at, _)| at);
    Cow::Owned(format!("{} … {}", &text[..head], &text[tail..]))
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn long_words_keep_their_ends() {
        assert_eq!(short("é".repeat(300).as_str()), "é".repeat(300));
        let long = short(&format!("begin{}end", "日".repeat(5000))).into_owned();
        assert!(long.starts_with("begin日") && long.ends_with("日end"));
        assert_eq!(long.chars().count(), 400 + 3 + 120);
    }
}
