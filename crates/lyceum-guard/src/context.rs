//! What the words before a number say that it is.

/// Whether one of `words` stands in the sentence before; words are lower case and whole.
pub(crate) fn speaks(before: &str, words: &[&str]) -> bool {
    let bytes = before.as_bytes();
    // Digits alone say nothing, and are what there is most of where this is asked often.
    if !bytes.iter().any(|byte| byte.is_ascii_alphabetic()) {
        return false;
    }
    let sentence = &before[sentence_start(before)..];
    let mut follows_word = false;
    for (at, c) in sentence.char_indices() {
        let is_word = c.is_alphanumeric();
        if is_word && !follows_word && words.iter().any(|word| begins_with(&sentence[at..], word)) {
            return true;
        }
        follows_word = is_word;
    }
    false
}

fn begins_with(text: &str, word: &str) -> bool {
    let Some(head) = text.as_bytes().get(..word.len()) else { return false };
    head.eq_ignore_ascii_case(word.as_bytes())
        && !text[word.len()..].chars().next().is_some_and(char::is_alphanumeric)
}

/// Where the last sentence begins: behind a full stop, space and capital, or an empty line. `Tel. 030` is one sentence.
fn sentence_start(text: &str) -> usize {
    let mut start = text.rfind("\n\n").map_or(0, |at| at + 2);
    for (at, mark) in text.match_indices(['.', '!', '?']) {
        let rest = &text[at + mark.len()..];
        let is_end = rest.starts_with([' ', '\n'])
            && rest.trim_start().chars().next().is_some_and(char::is_uppercase)
            && text[..at].chars().rev().take_while(|c| c.is_alphanumeric()).count() > 3;
        if is_end {
            start = start.max(at + mark.len());
        }
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_speak_in_their_own_sentence() {
        assert!(speaks("my SSN is ", &["ssn"]));
        assert!(!speaks("my SSNs are ", &["ssn"]));
        assert!(speaks("Tel. ", &["tel"]));
        assert!(speaks("né le ", &["né"]));
        assert!(!speaks("He was born there. The day is ", &["born"]));
        assert!(!speaks("Date of birth\n\nroom ", &["date of birth"]));
        assert!(speaks("Date of birth\n", &["date of birth"]));
    }
}
