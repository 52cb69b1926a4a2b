//! Results on stdout: tables and sentences for people, one JSON object a line for programs.

use serde_json::Value;
use std::io::{IsTerminal, Write};

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    People,
    Json,
}

/// One line of JSON, compact.
pub fn json_line(value: &Value) {
    write_stdout(&format!("{value}\n"));
}

/// A result for people.
pub fn text(text: impl AsRef<str>) {
    write_stdout(&format!("{}\n", text.as_ref()));
}

/// A table: with lines on a terminal, plain columns elsewhere.
pub fn table(header: &[&str], rows: &[Vec<String>]) {
    use comfy_table::{ContentArrangement, Table, presets};
    let mut table = Table::new();
    let on_terminal = std::io::stdout().is_terminal();
    table.load_style(if on_terminal { presets::UTF8_HORIZONTAL_ONLY } else { presets::NOTHING });
    if on_terminal {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table.set_header(header.to_vec());
    rows.iter().for_each(|row| {
        table.add_row(row);
    });
    let lines = table.to_string();
    text(lines.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"));
}

/// A note for people beside the result.
pub fn note(text: impl AsRef<str>) {
    eprintln!("{}", text.as_ref());
}

/// A reader that went away (`lyceum ls | head`) is no fault; there is nobody to tell about any other.
pub fn write_stdout(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Text on stderr while it comes; there is nobody to tell where it cannot be written.
pub fn write_stderr(text: &str) {
    let mut out = std::io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Whether colours may be used in messages (`NO_COLOR`, <https://no-color.org>).
pub fn stderr_has_color() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stderr().is_terminal()
}

/// Whether colours may be used in results.
pub fn stdout_has_color() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stdout().is_terminal()
}

/// `12.3 MB`
pub fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let (mut size, mut unit) = (count as f64, 0);
    while size >= 1000.0 && unit + 1 < units.len() {
        size /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{size:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_have_three_digits_and_a_unit() {
        assert_eq!(super::bytes(999), "999 B");
        assert_eq!(super::bytes(12_345), "12.3 kB");
        assert_eq!(super::bytes(5_000_000_000_000_000), "5000.0 TB");
    }
}
