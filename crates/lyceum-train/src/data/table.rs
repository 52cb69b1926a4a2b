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
    /// A table of which nothing but the number of its rows is kept.
    n_passed: Option<usize>,
}

/// What becomes of the rows of a file that is read.
#[derive(Clone, Copy, Debug)]
pub enum Rows {
    Kept,
    /// The file is only judged: however large it is, it takes no memory.
    Passing,
}

impl Rows {
    pub fn of(self, table: Table) -> Table {
        match self {
            Rows::Kept => table,
            Rows::Passing => Table { n_passed: Some(0), ..table },
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Packed {
    Missing,
    Number(f64),
    Text { start: usize, len: u32 },
}

impl Table {
    pub fn new(file: &str, columns: Vec<String>) -> Self {
        let (file, text) = (file.to_owned(), String::new());
        Table { file, columns, text, cells: Vec::new(), places: Vec::new(), n_passed: None }
    }

    pub fn rows(&self) -> usize {
        self.n_passed.unwrap_or(self.places.len())
    }

    /// Appends a row; `cells` has one a column.
    pub fn push_row<'a>(&mut self, place: Place, cells: impl IntoIterator<Item = Cell<'a>>) {
        if let Some(n) = &mut self.n_passed {
            assert_eq!(cells.into_iter().count(), self.columns.len(), "a row has all columns: bug");
            *n += 1;
            return;
        }
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
