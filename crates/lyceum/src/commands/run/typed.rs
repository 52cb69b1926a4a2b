//! What a person types into a conversation: lines, texts of several lines, and the few commands that end or empty it.

use super::piped::text;
use crate::context::Context;
use crate::failure::Failure;
use std::io::{BufRead, IsTerminal, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Between two looks at Ctrl-C while nobody types.
const LOOK: Duration = Duration::from_millis(50);

/// Begins and ends a text of several lines.
const QUOTES: &str = "\"\"\"";

const HELP: &str = "  /clear       forget what was said
  /bye         end (also /exit, /quit, Ctrl-D)
  /?           this (also /help)
  \"\"\"          begins a text of several lines, and ends it
Ctrl-C ends at once; what was said is kept nowhere.";

/// What is meant by what was typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    Text(String),
    /// What was said so far is to be forgotten.
    Clear,
    End,
}

/// A command, where a line is one.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Clear,
    End,
    Help,
    Unknown,
}

/// Says on a terminal whom one talks to, and how to end it.
pub fn greet(model: &str) {
    if std::io::stdin().is_terminal() {
        eprintln!("{model}; /? shows the commands, /bye or Ctrl-D ends it");
    }
}

/// The next thing that a person says; waits for it.
///
/// # Errors
/// Ctrl-C, or a stdin that cannot be read.
pub fn next(context: &Context) -> Result<Typed, Failure> {
    next_of(|sign| read_line(context, sign))
}

/// The same of any lines. Where they end within a text, what was typed of it is the text.
fn next_of(mut read: impl FnMut(&str) -> Result<Option<String>, Failure>) -> Result<Typed, Failure> {
    let mut lines: Option<Vec<String>> = None;
    loop {
        let sign = if lines.is_some() { ". " } else { "> " };
        let Some(line) = read(sign)? else {
            let begun = lines.map(|lines| lines.join("\n").trim().to_owned());
            return Ok(begun.filter(|text| !text.is_empty()).map_or(Typed::End, Typed::Text));
        };
        if let Some(begun) = &mut lines {
            match line.trim_end().strip_suffix(QUOTES) {
                None => begun.push(line),
                Some(last) => {
                    begun.push(last.to_owned());
                    return Ok(Typed::Text(begun.join("\n").trim().to_owned()));
                }
            }
            continue;
        }
        if let Some(first) = line.strip_prefix(QUOTES) {
            match first.trim_end().strip_suffix(QUOTES) {
                Some(whole) => return Ok(Typed::Text(whole.trim().to_owned())),
                None => lines = Some(vec![first.to_owned()]),
            }
            continue;
        }
        match command(&line) {
            Some(Command::Clear) => return Ok(Typed::Clear),
            Some(Command::End) => return Ok(Typed::End),
            Some(Command::Help) => eprintln!("{HELP}"),
            Some(Command::Unknown) => {
                eprintln!("{} is no command; /? shows those that there are", line.trim())
            }
            None if line.trim().is_empty() => {}
            None => return Ok(Typed::Text(line)),
        }
    }
}

/// One word that begins with a slash is a command; `/usr/bin`, `/ 2` and sentences are texts.
fn command(line: &str) -> Option<Command> {
    let name = line.trim().strip_prefix('/')?;
    match name {
        "bye" | "exit" | "quit" => Some(Command::End),
        "clear" => Some(Command::Clear),
        "?" | "help" => Some(Command::Help),
        _ if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic()) => Some(Command::Unknown),
        _ => None,
    }
}

/// A line of stdin without its end; None at the end of stdin. The thread that reads is let go of when Ctrl-C comes
/// first: nothing else can wake it.
fn read_line(context: &Context, sign: &str) -> Result<Option<String>, Failure> {
    eprint!("{sign}");
    // Nothing is lost when the prompt sign does not come.
    let _ = std::io::stderr().flush();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut line = Vec::new();
        let read = std::io::stdin().lock().read_until(b'\n', &mut line);
        let _ = sender.send(read.map(|n| (n > 0).then_some(line)));
    });
    let read = wait(context, &receiver, None)?;
    let line = read.map_err(|error| Failure::internal("stdin cannot be read", &error))?;
    let line = line.map(|line| text(line, "the line")).transpose()?;
    if line.is_none() && std::io::stdin().is_terminal() {
        eprintln!();
    }
    Ok(line.map(|line| line.trim_end_matches(['\n', '\r']).to_owned()))
}

/// What a thread that reads sends; `tell` is called once where nothing came for its time.
pub(super) fn wait<T>(
    context: &Context,
    receiver: &Receiver<T>,
    mut tell: Option<(Duration, &dyn Fn())>,
) -> Result<T, Failure> {
    let begun = Instant::now();
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(read) => return Ok(read),
            Err(_) if context.control.check().is_err() => {
                return Err(Failure::interrupted("nothing was left undone"));
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some((_, tell)) = tell.take_if(|(patience, _)| begun.elapsed() >= *patience) {
                    tell();
                }
            }
            Err(error) => return Err(Failure::internal("stdin cannot be read", &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_several_lines_ends_at_its_quotes_or_with_the_input() {
        let typed = |text: &str| {
            let mut lines = text.lines();
            let mut all = Vec::new();
            loop {
                match next_of(|_| Ok(lines.next().map(str::to_owned))).unwrap() {
                    Typed::End => return all,
                    Typed::Text(text) => all.push(text),
                    Typed::Clear => all.push("/clear".into()),
                }
            }
        };
        assert_eq!(typed("\"\"\"a\nb\"\"\"\nc\n"), ["a\nb", "c"]);
        assert_eq!(typed("\"\"\"one\"\"\"\n/clear\n"), ["one", "/clear"]);
        assert_eq!(typed("\"\"\"a\nb\n"), ["a\nb"], "the input ended first");
        assert_eq!(typed("\"\"\"\n \n"), [""; 0], "nothing was typed of it");
    }

    #[test]
    fn a_slash_and_one_word_are_a_command_and_nothing_else_is() {
        for line in ["/bye", " /exit ", "/quit"] {
            assert_eq!(command(line), Some(Command::End), "{line}");
        }
        assert_eq!(command("/clear"), Some(Command::Clear));
        assert_eq!((command("/?"), command("/help")), (Some(Command::Help), Some(Command::Help)));
        assert_eq!(command("/byee"), Some(Command::Unknown));
        for line in ["bye", "/", "/usr/bin/env", "/2", "/bye for now", "say /bye", "//bye"] {
            assert_eq!(command(line), None, "{line}");
        }
    }
}
