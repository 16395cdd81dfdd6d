//! Rows and columns.

use maud::{Markup, html};

use super::number;

/// What stands in a cell.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Unknown,
    Number(f64),
    Count(f64),
    Text(String),
    Good(String),
    Bad(String),
}

impl Cell {
    pub(super) fn number(figure: Option<f64>) -> Self {
        figure.map_or(Self::Unknown, Self::Number)
    }

    pub(super) fn count(figure: Option<f64>) -> Self {
        figure.map_or(Self::Unknown, Self::Count)
    }

    pub(super) fn text(text: &str) -> Self {
        if text.is_empty() { Self::Unknown } else { Self::Text(text.to_owned()) }
    }

    fn draw(&self) -> Markup {
        match self {
            Self::Unknown => html! { td.number.unit { (number::UNKNOWN) } },
            Self::Number(value) => html! { td.number { (number::figure(*value)) } },
            Self::Count(value) => html! { td.number { (number::count(*value)) } },
            Self::Text(text) => html! { td { (text) } },
            Self::Good(text) => html! { td.good { "✓ " (text) } },
            Self::Bad(text) => html! { td.bad { "✗ " (text) } },
        }
    }
}

/// What is above a column.
pub(super) struct Head {
    pub(super) name: String,
    pub(super) unit: &'static str,
}

/// A row: its own heading, and a cell for each column.
pub(super) struct Row {
    pub(super) head: Markup,
    pub(super) cells: Vec<Cell>,
}

/// As a table that scrolls sideways where the screen is too narrow. Columns of which nothing is known are left out.
pub(super) fn draw(corner: &str, columns: &[Head], rows: &[Row]) -> Markup {
    let known = |column: usize| {
        rows.iter().any(|row| row.cells.get(column).is_some_and(|cell| *cell != Cell::Unknown))
    };
    let shown: Vec<usize> = (0..columns.len()).filter(|column| known(*column)).collect();
    let numeric = |column: usize| {
        let is_number = |row: &Row| matches!(row.cells.get(column), Some(Cell::Number(_) | Cell::Count(_)));
        rows.iter().any(is_number)
    };
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        th scope="col" { (corner) }
                        @for (column, head) in shown.iter().filter_map(|column| Some((*column, columns.get(*column)?))) {
                            th scope="col" class=[numeric(column).then_some("number")] {
                                (head.name)
                                @if !head.unit.is_empty() { " " span.unit { (head.unit) } }
                            }
                        }
                    }
                }
                tbody {
                    @for row in rows {
                        tr {
                            th scope="row" { (row.head) }
                            @for cell in shown.iter().filter_map(|column| row.cells.get(*column)) { (cell.draw()) }
                        }
                    }
                }
            }
        }
    }
}
