//! Lines on two axes, as SVG.
//!
//! A chart is drawn in units that are pixels on a desktop; narrow screens shrink it a little. Colours, widths and dashes
//! are the style sheet's, so that they follow the reader's light or dark scheme.

use std::fmt::Write;

use maud::{Markup, html};

use super::scale::Scale;

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 250.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;
/// Of a letter or digit of a tick, at most.
const LETTER_WIDTH: f64 = 7.2;
/// Between the base lines of two labels beside lines' ends.
const LABEL_HEIGHT: f64 = 13.0;
/// From the end of the axis to a label.
const LEADER_WIDTH: f64 = 15.0;
const LABEL_LETTERS_MAX: usize = 18;

/// One line.
pub(super) struct Line {
    /// Its classes in the style sheet.
    pub(super) class: String,
    /// What it is; shown when it is pointed at.
    pub(super) title: String,
    /// What is written beside its end.
    pub(super) label: String,
    /// In the order in which they are joined. Nothing is joined to or over a `None`.
    pub(super) points: Vec<(f64, Option<f64>)>,
    /// Each point is marked.
    pub(super) dots: bool,
}

/// What is on the paper.
pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    /// Of the figures upwards.
    pub(super) unit: &'a str,
    pub(super) x: Scale,
    pub(super) x_title: &'a str,
    pub(super) y: Scale,
    pub(super) lines: Vec<Line>,
}

impl Chart<'_> {
    /// As a figure with its title.
    pub(super) fn draw(&self) -> Markup {
        let letters = |text: &str| text.chars().count() as f64;
        let widest = self.y.ticks.iter().map(|(_, name)| letters(name)).fold(0.0, f64::max);
        let left = widest * LETTER_WIDTH + 10.0;
        let labels = self.labels();
        let longest = labels.iter().map(|label| letters(&label.text)).fold(0.0, f64::max);
        let right = WIDTH - (longest * LETTER_WIDTH + LEADER_WIDTH + 4.0);
        let bottom = HEIGHT - BOTTOM;
        let across = |value: f64| left + self.x.place(value) * (right - left);
        html! {
            figure.chart {
                figcaption { (self.title) @if !self.unit.is_empty() { " " span.unit { (self.unit) } } }
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label={ (self.title) ", " (self.unit) } {
                    @for (value, name) in &self.y.ticks {
                        @let y = coordinate(up(&self.y, *value));
                        path.grid d={ "M" (coordinate(left)) " " (y) "H" (coordinate(right)) } {}
                        text x=(coordinate(left - 6.0)) y=(y) dy="0.35em" text-anchor="end" { (name) }
                    }
                    @for (value, name) in &self.x.ticks {
                        @let x = coordinate(across(*value));
                        path.tick d={ "M" (x) " " (bottom) "v4" } {}
                        text x=(x) y=(bottom + 17.0) text-anchor="middle" { (name) }
                    }
                    path.axis d={ "M" (coordinate(left)) " " (bottom) "H" (coordinate(right)) } {}
                    text.unit x=(coordinate((left + right) / 2.0)) y=(HEIGHT - 8.0) text-anchor="middle" {
                        (self.x_title)
                    }
                    @for line in &self.lines {
                        g class=(line.class) {
                            title { (line.title) }
                            path.line d=(self.path(line, across)) {}
                            @for (x, y) in marked(line) {
                                circle.dot cx=(coordinate(across(x))) cy=(coordinate(up(&self.y, y))) r="3" {}
                            }
                        }
                    }
                    @for Label { end: (x, end), y, class, text } in &labels {
                        @let (x, end, y) = (coordinate(across(*x)), coordinate(*end), coordinate(*y));
                        g class=(class) {
                            path.leader d={ "M" (x) " " (end) "H" (coordinate(right + 4.0)) "l8 " (coordinate(y - end)) } {}
                            text.label x=(coordinate(right + LEADER_WIDTH)) y=(y) dy="0.35em" { (text) }
                        }
                    }
                }
            }
        }
    }

    fn path(&self, line: &Line, across: impl Fn(f64) -> f64) -> String {
        let mut path = String::new();
        let mut joined = false;
        for (x, y) in &line.points {
            let Some(y) = y else {
                joined = false;
                continue;
            };
            let step = if joined { 'L' } else { 'M' };
            let (x, y) = (coordinate(across(*x)), coordinate(up(&self.y, *y)));
            // Writing to a String cannot fail.
            let _ = write!(path, "{step}{x} {y}");
            joined = true;
        }
        path
    }

    /// What is written beside lines' ends, moved apart where ends are close.
    fn labels(&self) -> Vec<Label<'_>> {
        let labelled = self.lines.iter().filter(|line| !line.label.is_empty());
        let mut ends: Vec<_> = labelled.filter_map(|line| Some((self.end(line)?, line))).collect();
        ends.sort_by(|((_, one), _), ((_, other), _)| one.total_cmp(other));
        let places = apart(&ends.iter().map(|((_, end), _)| *end).collect::<Vec<_>>());
        let mut labels = Vec::new();
        for ((end, line), y) in ends.into_iter().zip(places) {
            labels.push(Label { end, y, class: &line.class, text: shortened(&line.label) });
        }
        labels
    }

    /// Where a line ends: the figure across, and the height.
    fn end(&self, line: &Line) -> Option<(f64, f64)> {
        line.points.iter().rev().find_map(|(x, y)| Some((*x, up(&self.y, (*y)?))))
    }
}

/// Beside the end of a line.
struct Label<'a> {
    /// Where the line ends, and the height of the text.
    end: (f64, f64),
    y: f64,
    class: &'a str,
    text: String,
}

/// Heights that are far enough apart, each as near to its own as the others allow.
fn apart(ends: &[f64]) -> Vec<f64> {
    let half = |count: usize| (count - 1) as f64 / 2.0 * LABEL_HEIGHT;
    let within = |middle: f64, count| {
        let top = TOP + half(count);
        (middle.clamp(top, (HEIGHT - BOTTOM - half(count)).max(top)), count)
    };
    // Neighbours that are too close become one block around the mean of their places.
    let mut blocks: Vec<(f64, usize)> = Vec::new();
    for end in ends {
        let mut block = within(*end, 1);
        while let Some((middle, count)) = blocks.pop() {
            let together = count + block.1;
            if block.0 - middle >= together as f64 / 2.0 * LABEL_HEIGHT {
                blocks.push((middle, count));
                break;
            }
            block = within((middle * count as f64 + block.0 * block.1 as f64) / together as f64, together);
        }
        blocks.push(block);
    }
    let spread = |(middle, count): (f64, usize)| {
        (0..count).map(move |index| middle - half(count) + index as f64 * LABEL_HEIGHT)
    };
    blocks.into_iter().flat_map(spread).collect()
}

fn up(scale: &Scale, value: f64) -> f64 {
    let bottom = HEIGHT - BOTTOM;
    bottom - scale.place(value) * (bottom - TOP)
}

/// The points that are marked: all, or those that are joined to nothing and would not be seen.
fn marked(line: &Line) -> Vec<(f64, f64)> {
    let known = |index: usize| line.points.get(index).is_some_and(|(_, y)| y.is_some());
    let joined = |index: usize| known(index + 1) || index.checked_sub(1).is_some_and(known);
    let points = line.points.iter().enumerate();
    points
        .filter(|(index, _)| line.dots || !joined(*index))
        .filter_map(|(_, (x, y))| Some((*x, (*y)?)))
        .collect()
}

fn shortened(label: &str) -> String {
    if label.chars().count() <= LABEL_LETTERS_MAX {
        return label.to_owned();
    }
    label.chars().take(LABEL_LETTERS_MAX - 1).chain(['…']).collect()
}

/// A tenth of a pixel is enough.
fn coordinate(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn labels_do_not_overlap(mut ends in prop::collection::vec(TOP..HEIGHT - BOTTOM, 0..13)) {
            ends.sort_by(f64::total_cmp);
            let places = apart(&ends);
            prop_assert_eq!(places.len(), ends.len());
            for pair in places.windows(2) {
                prop_assert!(pair[1] - pair[0] > LABEL_HEIGHT - 1e-6, "{places:?}");
            }
            for (place, end) in places.iter().zip(&ends) {
                prop_assert!((TOP - 1e-6..=HEIGHT - BOTTOM + 1e-6).contains(place), "{places:?}");
                prop_assert!(ends.len() > 1 || place == end);
            }
        }
    }
}
