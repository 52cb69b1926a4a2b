//! How far a long command is: a bar on a terminal, else a line per 5 seconds. Always on stderr.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const LINE_EVERY: Duration = Duration::from_secs(5);

pub struct Progress {
    name: String,
    how: How,
}

enum How {
    Bar(ProgressBar),
    Lines {
        last: Option<Instant>,
    },
    /// With `--json` the lines on stdout say it.
    Silent,
}

impl Progress {
    pub fn new(name: &str, is_json: bool) -> Self {
        let how = if is_json {
            How::Silent
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg}");
            bar.set_style(style.expect("the template is constant: bug"));
            bar.set_prefix(name.to_owned());
            How::Bar(bar)
        } else {
            How::Lines { last: None }
        };
        Progress { name: name.to_owned(), how }
    }

    /// `done` of `whole`, and what there is to say.
    pub fn at(&mut self, done: u64, whole: u64, message: &str) {
        match &mut self.how {
            How::Silent => {}
            How::Bar(bar) => {
                bar.set_length(whole);
                bar.set_position(done);
                bar.set_message(message.to_owned());
            }
            How::Lines { last } => {
                if last.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
                    *last = Some(Instant::now());
                    eprintln!("{} {done}/{whole} {message}", self.name);
                }
            }
        }
    }

    /// A line beside the bar.
    pub fn note(&self, text: &str) {
        match &self.how {
            How::Silent => {}
            How::Bar(bar) => bar.println(text),
            How::Lines { .. } => eprintln!("{text}"),
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let How::Bar(bar) = self.how {
            bar.finish_and_clear();
        }
    }
}
