//! The edit line: text and a cursor that moves by what a reader sees as one character.

use unicode_segmentation::UnicodeSegmentation;

use super::text;

/// A line of text (or several) that is being typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Input {
    text: String,
    /// In bytes, at the border of a grapheme.
    cursor: usize,
    bytes_max: usize,
}

/// How to move or what to take away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Left,
    Right,
    WordLeft,
    WordRight,
    Home,
    End,
}

impl Input {
    /// Empty; never longer than this.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { text: String::new(), cursor: 0, bytes_max }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn take(&mut self) -> String {
        self.cursor = 0;
        std::mem::take(&mut self.text)
    }

    /// Adds text at the cursor. False: there is no room for it, and nothing changed.
    #[must_use]
    pub(super) fn insert(&mut self, more: &str) -> bool {
        let more = text::clean(more);
        if self.text.len() + more.len() > self.bytes_max {
            return false;
        }
        self.text.insert_str(self.cursor, &more);
        self.cursor += more.len();
        // What was typed may have joined with what follows.
        self.cursor = self.border(self.cursor);
        true
    }

    pub(super) fn go(&mut self, step: Step) {
        self.cursor = self.target(step);
    }

    /// Takes away what lies between the cursor and where the step leads.
    pub(super) fn delete(&mut self, step: Step) {
        let target = self.target(step);
        let (from, to) = (self.cursor.min(target), self.cursor.max(target));
        self.text.replace_range(from..to, "");
        self.cursor = self.border(from);
    }

    /// The next border of a grapheme, here or further on.
    fn border(&self, from: usize) -> usize {
        let mut borders = self.text.grapheme_indices(true).map(|(at, _)| at);
        borders.find(|at| *at >= from).unwrap_or(self.text.len())
    }

    fn target(&self, step: Step) -> usize {
        let (before, after) = self.text.split_at(self.cursor);
        match step {
            Step::Left => before.grapheme_indices(true).next_back().map_or(0, |(at, _)| at),
            Step::Right => self.cursor + after.graphemes(true).next().map_or(0, str::len),
            Step::WordLeft => before.unicode_word_indices().next_back().map_or(0, |(at, _)| at),
            Step::WordRight => {
                let word = after.unicode_word_indices().next();
                word.map_or(self.text.len(), |(at, word)| self.cursor + at + word.len())
            }
            Step::Home => before.rfind('\n').map_or(0, |at| at + 1),
            Step::End => after.find('\n').map_or(self.text.len(), |at| self.cursor + at),
        }
    }

    /// On one line of so many columns: the text as it is shown, from as far before the cursor as fits, and the cursor's
    /// column.
    pub(super) fn row(&self, columns: usize) -> (String, u16) {
        let (before, after) = self.text.split_at(self.cursor);
        let before: Vec<_> = before.graphemes(true).map(text::simple).collect();
        // The cursor has a column of its own.
        let mut room = columns.saturating_sub(1);
        let fits = before.iter().rev().take_while(|grapheme| {
            let left = room.checked_sub(text::width(grapheme));
            room = left.unwrap_or(0);
            left.is_some()
        });
        let first = before.len() - fits.count();
        let mut row: String = before[first..].concat();
        let column = text::width(&row) as u16;
        row.extend(after.graphemes(true).take(columns).map(text::simple));
        (row, column)
    }

    /// The text as it is shown on lines of so many columns, and where the cursor is: row and column.
    pub(super) fn rows(&self, columns: usize) -> (Vec<String>, (usize, usize)) {
        let columns = columns.max(2);
        let mut rows = vec![String::new()];
        let (mut used, mut cursor) = (0, (0, 0));
        for (at, grapheme) in self.text.grapheme_indices(true) {
            let shown = text::simple(grapheme);
            let wide = if grapheme == "\n" { 0 } else { text::width(&shown) };
            if used + wide > columns {
                rows.push(String::new());
                used = 0;
            }
            if at == self.cursor {
                cursor = (rows.len() - 1, used);
            }
            if grapheme == "\n" {
                rows.push(String::new());
                used = 0;
            } else if let Some(row) = rows.last_mut() {
                row.push_str(&shown);
                used += wide;
            }
        }
        if self.cursor == self.text.len() {
            if used == columns {
                rows.push(String::new());
                used = 0;
            }
            cursor = (rows.len() - 1, used);
        }
        (rows, cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Input {
        let mut input = Input::new(1000);
        assert!(input.insert(text));
        input
    }

    #[test]
    fn the_cursor_moves_by_what_a_reader_sees() {
        let mut input = typed("aé👩\u{200d}👧日");
        let mut cursors = vec![];
        for _ in 0..5 {
            cursors.push(input.rows(80).1.1);
            input.go(Step::Left);
        }
        assert_eq!(cursors, [8, 6, 2, 1, 0]);
        input.go(Step::Right);
        input.go(Step::Right);
        input.delete(Step::Right);
        assert_eq!(input.text(), "aé日");
        input.delete(Step::Left);
        assert_eq!(input.text(), "a日");
    }

    #[test]
    fn words_and_lines() {
        let mut input = typed("hello brave\nnew world");
        input.delete(Step::WordLeft);
        assert_eq!(input.text(), "hello brave\nnew ");
        input.delete(Step::Home);
        assert_eq!(input.text(), "hello brave\n");
        input.go(Step::Left);
        input.go(Step::Home);
        input.go(Step::WordRight);
        input.delete(Step::End);
        assert_eq!(input.text(), "hello\n");
        assert_eq!(input.take(), "hello\n");
        assert_eq!(input, Input::new(1000));
    }

    #[test]
    fn rows_and_the_cursor_in_them() {
        for (text, columns, rows, cursor) in [
            ("", 4, vec![""], (0, 0)),
            ("abc", 4, vec!["abc"], (0, 3)),
            ("abcd", 4, vec!["abcd", ""], (1, 0)),
            ("abc日", 4, vec!["abc", "日"], (1, 2)),
            ("a\nb", 4, vec!["a", "b"], (1, 1)),
        ] {
            assert_eq!(
                typed(text).rows(columns),
                (rows.into_iter().map(Into::into).collect(), cursor),
                "{text:?}"
            );
        }
    }

    #[test]
    fn one_row_follows_the_cursor() {
        for (text, back, columns, row, cursor) in [
            ("", 0, 4, "", 0),
            ("abc", 0, 4, "abc", 3),
            ("abcd", 0, 4, "bcd", 3),
            ("abcdef", 2, 4, "bcdef", 3),
            ("a日日", 0, 4, "日", 2),
            ("abc", 0, 0, "", 0),
        ] {
            let mut input = typed(text);
            (0..back).for_each(|_| input.go(Step::Left));
            assert_eq!(input.row(columns), (row.into(), cursor), "{text:?}");
        }
    }

    #[test]
    fn nothing_is_cut_off_silently() {
        let mut input = Input::new(4);
        assert!(input.insert("abc"));
        assert!(!input.insert("de"));
        assert_eq!(input.text(), "abc");
        assert!(input.insert("\x1b") || input.text() == "abc", "a replacement is three bytes long");
    }
}
