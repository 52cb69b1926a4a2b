//! Damage to the cells of a table, before the model's own preparation reads them: values that are missing, numbers
//! that drift, numbers that are measured less well.

use super::Severity;
use crate::error::RobustError;
use lyceum_models::prepare::PrepareError;
use lyceum_models::prepare::tabular::{Cell, Code, Encoder, number};
use lyceum_models::space::gaussian;
use rand::RngExt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Each cell is missing with a chance of 5, 10, 20, 30, 50 %.
    Missing,
    /// Each number rises by 0.1, 0.25, 0.5, 1, 2 training standard deviations.
    Shift,
    /// Each number gets normal noise of 0.05, 0.1, 0.25, 0.5, 1 training standard deviations.
    Noise,
}

impl Damage {
    pub const ALL: [Damage; 3] = [Damage::Missing, Damage::Shift, Damage::Noise];

    pub fn name(self) -> &'static str {
        match self {
            Damage::Missing => "missing",
            Damage::Shift => "shift",
            Damage::Noise => "noise",
        }
    }
}

/// A cell of a table that owns its text.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnedCell {
    Missing,
    Number(f64),
    Text(String),
}

impl OwnedCell {
    pub fn as_cell(&self) -> Cell<'_> {
        match self {
            OwnedCell::Missing => Cell::Missing,
            OwnedCell::Number(x) => Cell::Number(*x),
            OwnedCell::Text(text) => Cell::Text(text),
        }
    }
}

/// The cells that an encoded row came from, up to what encoding forgets: values that were filled in stay filled in,
/// and a name that training never saw is only known as such.
///
/// # Errors
/// A row of another width.
pub fn decode(encoder: &Encoder, row: &[f32]) -> Result<Vec<OwnedCell>, RobustError> {
    if row.len() != encoder.width() {
        return Err(RobustError::Rows(format!("{} numbers are no row of {}", row.len(), encoder.width())));
    }
    let mut rest = row;
    let mut cells = Vec::with_capacity(encoder.columns.len());
    for column in &encoder.columns {
        let (own, after) = rest.split_at(column.width());
        rest = after;
        cells.push(match &column.code {
            Code::Number { .. } if own.get(1) == Some(&1.0) => OwnedCell::Missing,
            Code::Number { mean, std, .. } => OwnedCell::Number(f64::from(own[0]) * std + mean),
            Code::Category { values, .. } => match own.iter().position(|x| *x == 1.0) {
                Some(at) if at < values.len() => OwnedCell::Text(values[at].clone()),
                // The inputs after the values say "other" (if it is there) and "missing".
                Some(at) if at == values.len() && column.accepts_other() => OwnedCell::Text("<other>".into()),
                _ => OwnedCell::Missing,
            },
        });
    }
    Ok(cells)
}

/// A row after the damage: its encoded numbers, or why the model refuses it (one that was trained with
/// `missing = "error"` refuses rows with gaps; that is an answer too, and counted as such).
pub type Damaged = Result<Vec<f32>, PrepareError>;

/// Damages row number `row` and encodes it. `spread` is the standard deviation of each column among the training
/// rows (of categories it is not read).
///
/// # Errors
/// Cells or spreads that do not fit the columns.
pub fn damage(
    encoder: &Encoder,
    cells: &[Cell<'_>],
    spread: &[f64],
    damage: Damage,
    severity: Severity,
    seed: u64,
    row: u64,
) -> Result<Damaged, RobustError> {
    if cells.len() != encoder.columns.len() || spread.len() != cells.len() {
        let text =
            format!("{} cells, {} spreads, {} columns", cells.len(), spread.len(), encoder.columns.len());
        return Err(RobustError::Rows(text));
    }
    let rng = &mut crate::generator(seed, row);
    let damaged: Vec<Cell<'_>> = encoder
        .columns
        .iter()
        .zip(cells.iter().zip(spread))
        .map(|(column, (&cell, &spread))| match (damage, &column.code) {
            (Damage::Missing, _) => {
                let gone = rng.random::<f64>() < severity.of([0.05, 0.1, 0.2, 0.3, 0.5]);
                if gone { Cell::Missing } else { cell }
            }
            (_, Code::Category { .. }) => cell,
            (Damage::Shift | Damage::Noise, Code::Number { .. }) => {
                let by = match damage {
                    Damage::Shift => severity.of([0.1, 0.25, 0.5, 1.0, 2.0]),
                    _ => severity.of([0.05, 0.1, 0.25, 0.5, 1.0]) * f64::from(gaussian(rng)),
                };
                match number(cell) {
                    Ok(Some(x)) => Cell::Number(x + by * spread),
                    _ => cell,
                }
            }
        })
        .collect();
    let mut out = Vec::new();
    Ok(encoder.encode(&damaged, &mut out).map(|()| out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_models::prepare::tabular::{CategoryMissing, Column, NumberMissing};
    use lyceum_types::spec::Unseen;

    fn encoder(missing: NumberMissing) -> Encoder {
        let number = Code::Number { mean: 0.0, std: 1.0, missing };
        let category = Code::Category {
            values: vec!["a".into(), "b".into()],
            unseen: Unseen::Error,
            missing: CategoryMissing::Fill("a".into()),
        };
        let column = |name: &str, code: &Code| Column { name: name.into(), code: code.clone() };
        Encoder { columns: vec![column("x", &number), column("c", &category)] }
    }

    #[test]
    fn a_decoded_row_encodes_to_itself() {
        let mut encoder = encoder(NumberMissing::Indicator(2.0));
        let Code::Category { unseen, missing, .. } = &mut encoder.columns[1].code else { unreachable!() };
        (*unseen, *missing) = (Unseen::Other, CategoryMissing::Indicator);
        let rows = [
            [Cell::Number(1.5), Cell::Text("b")],
            [Cell::Missing, Cell::Text("never seen")],
            [Cell::Number(0.0), Cell::Missing],
        ];
        for cells in rows {
            let mut row = Vec::new();
            encoder.encode(&cells, &mut row).unwrap();
            let decoded = decode(&encoder, &row).unwrap();
            let cells: Vec<Cell<'_>> = decoded.iter().map(OwnedCell::as_cell).collect();
            let mut again = Vec::new();
            encoder.encode(&cells, &mut again).unwrap();
            assert_eq!(row, again);
        }
        assert!(decode(&encoder, &[0.0]).is_err());
    }

    #[test]
    fn a_shift_moves_numbers_by_their_spread_and_leaves_categories() {
        let encoder = encoder(NumberMissing::Error);
        let cells = [Cell::Number(3.0), Cell::Text("b")];
        let out = damage(&encoder, &cells, &[4.0, 0.0], Damage::Shift, Severity::ALL[3], 1, 0).unwrap();
        assert_eq!(out.unwrap(), [7.0, 0.0, 1.0]);
        assert!(damage(&encoder, &cells[..1], &[4.0], Damage::Shift, Severity::ALL[3], 1, 0).is_err());
    }

    #[test]
    fn gaps_are_filled_or_refused_as_the_model_was_trained() {
        let cells = [Cell::Number(3.0), Cell::Text("b")];
        let run = |missing: NumberMissing| {
            let encoder = encoder(missing);
            let at = |row| {
                damage(&encoder, &cells, &[1.0, 0.0], Damage::Missing, Severity::ALL[4], 1, row).unwrap()
            };
            (0..400).map(at).collect::<Vec<Damaged>>()
        };
        let refused = run(NumberMissing::Error).iter().filter(|r| r.is_err()).count();
        assert!((150..250).contains(&refused), "{refused}");
        let filled = run(NumberMissing::Fill(-1.0));
        let n_filled = filled.iter().filter(|r| r.as_ref().unwrap()[0] == -1.0).count();
        assert_eq!(n_filled, refused, "the same cells are gone");
    }
}
