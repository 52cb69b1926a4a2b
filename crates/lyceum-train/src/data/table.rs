//! A table in memory, whatever file it came from: named columns, cells with their text, and where each row
//! stands in its file.

use super::report::{Issue, Place};
use lyceum_models::prepare::tabular::Cell;

/// Rows and named columns. Texts are kept in one buffer.
#[derive(Clone, Debug)]
pub struct Table {
    /// As the spec writes it, for messages.
    pub file: String,
    pub columns: Vec<String>,
    text: String,
    cells: Vec<Packed>,
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
enum Packed {
    Missing,
    Number(f64),
    Text { start: usize, len: u32 },
}

impl Table {
    pub fn new(file: &str, columns: Vec<String>) -> Self {
        Table { file: file.to_owned(), columns, text: String::new(), cells: Vec::new(), places: Vec::new() }
    }

    pub fn rows(&self) -> usize {
        self.places.len()
    }

    /// Appends a row; `cells` has one a column.
    pub fn push_row<'a>(&mut self, place: Place, cells: impl IntoIterator<Item = Cell<'a>>) {
        for cell in cells {
            let packed = match cell {
                Cell::Missing => Packed::Missing,
                Cell::Number(x) => Packed::Number(x),
                Cell::Text(text) => {
                    let start = self.text.len();
                    self.text.push_str(text);
                    Packed::Text { start, len: text.len() as u32 }
                }
            };
            self.cells.push(packed);
        }
        self.places.push(place);
        assert_eq!(self.cells.len(), self.places.len() * self.columns.len(), "a row has all columns: bug");
    }

    pub fn cell(&self, row: usize, column: usize) -> Cell<'_> {
        match self.cells[row * self.columns.len() + column] {
            Packed::Missing => Cell::Missing,
            Packed::Number(x) => Cell::Number(x),
            Packed::Text { start, len } => Cell::Text(&self.text[start..start + len as usize]),
        }
    }

    pub fn place(&self, row: usize) -> Place {
        self.places[row]
    }

    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }

    /// An error in one cell.
    pub fn issue(
        &self,
        row: usize,
        column: usize,
        code: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Issue {
        Issue::new(&self.file, code, message, hint).at(self.places[row]).column(self.columns[column].as_str())
    }
}
