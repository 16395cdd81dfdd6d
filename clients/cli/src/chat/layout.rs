//! Where things are on the screen, for who draws and for who clicks.

use ratatui::layout::Rect;

use super::model::{Model, Pane};

/// Below this many columns only one pane is shown, the one with the keys.
const TWO_PANES_COLUMNS: u16 = 60;
/// The edit line grows with its text, up to this many rows.
const EDIT_ROWS_MAX: usize = 6;
/// Rows of a conversation in the list.
pub(super) const LIST_ITEM_ROWS: u16 = 2;
/// In front of the text that is typed.
pub(super) const PROMPT_COLUMNS: u16 = 2;

/// The parts of the screen; a part without a place is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Areas {
    pub(super) bar: Rect,
    pub(super) list: Rect,
    /// Between list and chat.
    pub(super) rule: Rect,
    pub(super) header: Rect,
    pub(super) messages: Rect,
    pub(super) edit: Rect,
    pub(super) help: Rect,
}

/// Divides the screen.
pub(super) fn areas(model: &Model) -> Areas {
    let (columns, rows) = model.size;
    let mut areas = Areas { bar: Rect::new(0, 0, columns, rows.min(1)), ..Areas::default() };
    if rows < 2 {
        return areas;
    }
    areas.help = Rect::new(0, rows - 1, columns, 1);
    let body = Rect::new(0, 1, columns, rows - 2);
    let chat = if columns < TWO_PANES_COLUMNS {
        if model.pane == Pane::List || model.open.is_none() {
            areas.list = body;
            return areas;
        }
        body
    } else {
        let list = (columns * 3 / 10).clamp(22, 40);
        areas.list = Rect::new(0, 1, list, body.height);
        areas.rule = Rect::new(list, 1, 1, body.height);
        Rect::new(list + 1, 1, columns - list - 1, body.height)
    };
    let edit_columns = usize::from(chat.width.saturating_sub(PROMPT_COLUMNS));
    let edit_rows = match (&model.search, model.opened()) {
        (None, Some((_, c))) => c.input.rows(edit_columns).0.len().min(EDIT_ROWS_MAX),
        _ => 1,
    };
    let edit_rows = (edit_rows as u16).min(chat.height.saturating_sub(4)).max(1);
    let header_rows = 2.min(chat.height);
    areas.header = Rect { height: header_rows, ..chat };
    // A rule lies above the edit line.
    let messages = chat.height.saturating_sub(header_rows + edit_rows + 1);
    areas.messages = Rect { y: chat.y + header_rows, height: messages, ..chat };
    if chat.height > header_rows + edit_rows {
        areas.edit = Rect { y: chat.bottom() - edit_rows, height: edit_rows, ..chat };
    }
    areas
}

/// The first row of the list that is shown, and how many are.
pub(super) fn list_window(model: &Model) -> (usize, usize) {
    let shown = usize::from(areas(model).list.height / LIST_ITEM_ROWS).max(1);
    (model.chosen_row().saturating_sub(shown - 1), shown)
}
