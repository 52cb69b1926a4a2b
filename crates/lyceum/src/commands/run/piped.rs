//! What comes through a pipe: a question of its own, or what the prompt on the command line is about.

use super::typed::wait;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use std::io::{IsTerminal, Read};
use std::sync::mpsc::channel;
use std::time::Duration;

const PROMPT_BYTES_MAX: u64 = 16 << 20;

/// After which time without an end of stdin a person is told what is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The whole prompt: the argument, stdin where it is no terminal, or both with an empty line between them, as in
/// `lyceum run smollm2 "Summarise:" < report.txt`. None: a person will type.
///
/// # Errors
/// A stdin that is no text or too long, or Ctrl-C.
pub fn prompt(context: &Context, argument: Option<&str>) -> Result<Option<String>, Failure> {
    if std::io::stdin().is_terminal() {
        return Ok(argument.map(str::to_owned));
    }
    let piped = stdin(context)?;
    Ok(Some(joined(argument, piped)))
}

/// A caller that is no person has an empty stdin, which adds nothing.
fn joined(argument: Option<&str>, piped: String) -> String {
    match argument {
        None => piped,
        Some(argument) if piped.trim().is_empty() => argument.to_owned(),
        Some(argument) if argument.trim().is_empty() => piped,
        Some(argument) => format!("{argument}\n\n{piped}"),
    }
}

/// All of stdin, without the last line's end.
fn stdin(context: &Context) -> Result<String, Failure> {
    let (sender, receiver) = channel();
    // Ctrl-C ends the wait: a pipe that nobody closes has no end.
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = std::io::stdin().take(PROMPT_BYTES_MAX + 1).read_to_end(&mut bytes);
        let _ = sender.send(read.map(|_| bytes));
    });
    let tell = || output::note("stdin is no terminal and is read to its end; < /dev/null gives none");
    let read = wait(context, &receiver, Some((PATIENCE, &tell)))?;
    let bytes = read.map_err(|error| Failure::internal("stdin cannot be read", &error))?;
    if bytes.len() as u64 > PROMPT_BYTES_MAX {
        let why = format!("it has more than {PROMPT_BYTES_MAX} bytes");
        return Err(Failure::new(Exit::Failed, "too_large", "stdin is too long", why, "send a part of it"));
    }
    let mut text = text(bytes, "stdin")?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// Bytes of stdin, or of a part of it, as text.
///
/// # Errors
/// They are not UTF-8: the place of the first that is not.
pub fn text(bytes: Vec<u8>, what: &str) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| {
        let message = format!("{what} is not UTF-8 at byte {}", error.utf8_error().valid_up_to());
        Failure::usage(message, "models read text in UTF-8", "convert it first, as with iconv -t UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_piped_follows_the_argument_after_an_empty_line() {
        let both = |argument, piped: &str| joined(argument, piped.to_owned());
        assert_eq!(both(Some("Summarise:"), "a\nb"), "Summarise:\n\na\nb");
        assert_eq!(both(None, "a"), "a");
        for empty in ["", " \n"] {
            assert_eq!(both(Some("Hello"), empty), "Hello", "{empty:?}");
            assert_eq!(both(Some(empty), "a"), "a", "{empty:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_told_by_their_place() {
        assert_eq!(text(b"a\xc3\xa9".to_vec(), "stdin").unwrap(), "a\u{e9}");
        let failure = text(b"ab\xff".to_vec(), "stdin").unwrap_err();
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::Usage, "stdin is not UTF-8 at byte 2"));
    }
}
