//! Text on a grid of cells: what of it may reach the terminal, how wide it is, where it breaks.

use std::borrow::Cow;

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use crate::output::commands_terminal;

/// Code points of one grapheme that are shown. The longest emoji have ten; letters under a heap of accents have
/// thousands.
const GRAPHEME_CHARS_MAX: usize = 12;
/// Joins emoji, and letters in some scripts: invisible, but not without meaning.
const JOINERS: [char; 2] = ['\u{200c}', '\u{200d}'];

/// Text of others without what could command the terminal, look like something else or fall out of its cell. Line
/// breaks stay, tabs become spaces.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for grapheme in text.graphemes(true) {
        for c in grapheme.chars().take(GRAPHEME_CHARS_MAX) {
            match c {
                '\n' => out.push('\n'),
                '\r' => {}
                '\t' => out.push_str("    "),
                c if commands_terminal(c) => out.push('\u{fffd}'),
                c if is_invisible(c) && !JOINERS.contains(&c) => {}
                c => out.push(c),
            }
        }
    }
    out
}

/// As [`clean`], on one line.
pub(crate) fn clean_line(text: &str) -> String {
    clean(text).replace('\n', " ")
}

/// As [`clean`], and each grapheme as [`simple`] has it: what is only looked at.
pub(crate) fn shown(text: &str) -> String {
    clean(text).graphemes(true).map(simple).collect()
}

/// As [`shown`], on one line.
pub(super) fn shown_line(text: &str) -> String {
    shown(text).replace('\n', " ")
}

/// A grapheme in a form that has the same width on every terminal. Joined emoji (families, professions) and skin tones
/// are one picture on some terminals, several on others, and whatever stands behind them is then drawn in the wrong
/// place. Apart, they have two columns each everywhere.
pub(super) fn simple(grapheme: &str) -> Cow<'_, str> {
    let alters = |c: char| c == '\u{200d}' || is_skin_tone(c);
    if !grapheme.starts_with(is_pictograph) || !grapheme.chars().skip(1).any(alters) {
        return Cow::Borrowed(grapheme);
    }
    let first = grapheme.chars().take(1);
    Cow::Owned(first.chain(grapheme.chars().skip(1).filter(|c| !alters(*c))).collect())
}

fn is_pictograph(c: char) -> bool {
    matches!(c, '\u{203c}'..='\u{2bff}' | '\u{1f000}'..='\u{1faff}')
}

fn is_skin_tone(c: char) -> bool {
    matches!(c, '\u{1f3fb}'..='\u{1f3ff}')
}

/// Characters without a glyph that a chat has no use for: they hide text, or differences between names.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// Columns.
pub(super) fn width(text: &str) -> usize {
    text.graphemes(true).map(grapheme_width).sum()
}

/// Columns of one grapheme, by which everything here counts.
pub(super) fn grapheme_width(grapheme: &str) -> usize {
    grapheme.width()
}

/// The beginning of a line that fits these columns, with an ellipsis where something was cut off.
pub(super) fn fit(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for grapheme in text.graphemes(true) {
        used += grapheme_width(grapheme);
        if used > columns.saturating_sub(1) {
            break;
        }
        out.push_str(grapheme);
    }
    if columns > 0 {
        out.push('…');
    }
    out
}

/// Lines of at most so many columns, broken between words where that is possible.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(2);
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let (mut line, mut used) = (String::new(), 0);
        for word in paragraph.split_word_bounds() {
            let wide = width(word);
            if used + wide <= columns {
                line.push_str(word);
                used += wide;
                continue;
            }
            if word.trim().is_empty() {
                // A space at the end of a line is not shown.
                lines.push(std::mem::take(&mut line));
                used = 0;
                continue;
            }
            if wide <= columns {
                lines.push(std::mem::take(&mut line).trim_end().to_owned());
                line.push_str(word);
                used = wide;
                continue;
            }
            for grapheme in word.graphemes(true) {
                let wide = grapheme_width(grapheme);
                if used + wide > columns {
                    lines.push(std::mem::take(&mut line));
                    used = 0;
                }
                line.push_str(grapheme);
                used += wide;
            }
        }
        lines.push(line);
    }
    lines
}

/// Whether some of it is written from right to left.
pub(super) fn has_rtl(text: &str) -> bool {
    text.chars().any(|c| {
        matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}'
        | '\u{10800}'..='\u{10fff}' | '\u{1e800}'..='\u{1efff}')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_commands_the_terminal() {
        for (given, shown) in [
            ("a\x1b[2Jb", "a\u{fffd}[2Jb"),
            ("a\u{9b}31mb", "a\u{fffd}31mb"),
            ("a\u{202e}b\u{2066}c", "a\u{fffd}b\u{fffd}c"),
            ("a\r\nb\tc\0", "a\nb    c\u{fffd}"),
            ("ali\u{200b}ce\u{feff}", "alice"),
            ("👩\u{200d}👩\u{200d}👧 ❤\u{fe0f} שלום", "👩\u{200d}👩\u{200d}👧 ❤\u{fe0f} שלום"),
        ] {
            assert_eq!(clean(given), shown, "{given:?}");
        }
        let heap = format!("e{}x", "\u{301}".repeat(1000));
        assert_eq!(clean(&heap).chars().count(), GRAPHEME_CHARS_MAX + 1);
    }

    #[test]
    fn what_terminals_disagree_on_is_taken_apart() {
        for (given, is_shown, columns) in [
            ("👩\u{200d}👩\u{200d}👧\u{200d}👦", "👩👩👧👦", 8),
            ("👍🏽", "👍", 2),
            ("🤷🏽\u{200d}♂\u{fe0f}", "🤷♂\u{fe0f}", 4),
            ("🏽", "🏽", 2),
            ("❤\u{fe0f} 🇩🇪 é", "❤\u{fe0f} 🇩🇪 é", 7),
            // There the joiner shapes the letters.
            ("ක\u{dca}\u{200d}ෂ", "ක\u{dca}\u{200d}ෂ", 2),
        ] {
            assert_eq!(shown(given), is_shown);
            assert_eq!(width(is_shown), columns, "{given:?}");
        }
    }

    #[test]
    fn lines_break_between_words_and_never_stick_out() {
        for (text, columns, lines) in [
            ("", 10, vec![""]),
            ("a\n\nb", 10, vec!["a", "", "b"]),
            ("hello brave new world", 11, vec!["hello brave", "new world"]),
            ("abcdefghij", 4, vec!["abcd", "efgh", "ij"]),
            ("ab abcdefghij", 4, vec!["ab a", "bcde", "fghi", "j"]),
            ("日本語です", 4, vec!["日本", "語で", "す"]),
            ("日本語", 5, vec!["日本", "語"]),
            ("👩👧👍", 2, vec!["👩", "👧", "👍"]),
        ] {
            let wrapped = wrap(text, columns);
            assert_eq!(wrapped, lines, "{text:?}");
            assert!(wrapped.iter().all(|line| width(line) <= columns));
        }
    }

    #[test]
    fn what_is_cut_off_is_said() {
        for (text, columns, shown) in [
            ("hello", 5, "hello"),
            ("hello", 4, "hel…"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("hello", 0, ""),
        ] {
            assert_eq!(fit(text, columns), shown);
            assert!(width(shown) <= columns);
        }
    }
}
