//! Prometheus' text format, version 0.0.4: `# HELP`, `# TYPE`, then a line for each sample.

use std::collections::HashSet;
use std::fmt::Write;

use tern_store::histogram::Snapshot;

use super::catalog::{Family, Kind};

/// Its media type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page that is being written.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    families: HashSet<&'static str>,
}

/// The samples of one family.
pub struct Samples<'a> {
    family: &'static Family,
    text: &'a mut String,
}

impl Page {
    /// Writes one family.
    ///
    /// # Panics
    /// When it is on the page already.
    pub fn family(&mut self, family: &'static Family, samples: impl FnOnce(&mut Samples<'_>)) {
        assert!(self.families.insert(family.name), "{} twice on a page", family.name);
        let Family { name, kind, help, .. } = family;
        put(&mut self.text, format_args!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.name()));
        samples(&mut Samples { family, text: &mut self.text });
    }

    /// The text.
    pub fn finish(self) -> String {
        self.text
    }
}

impl Samples<'_> {
    /// A number; `labels` are the values of the family's labels.
    ///
    /// # Panics
    /// When there are not as many, or the family is a histogram.
    pub fn value(&mut self, labels: &[&str], value: impl Into<Number>) {
        assert_ne!(self.family.kind, Kind::Histogram, "{}", self.family.name);
        self.line("", labels, None, value.into());
    }

    /// A histogram; the recorded values are divided by `divisor`.
    ///
    /// # Panics
    /// When there are not as many labels as the family has, or it is no histogram.
    pub fn histogram(&mut self, labels: &[&str], values: &Snapshot, divisor: f64) {
        assert_eq!(self.family.kind, Kind::Histogram, "{}", self.family.name);
        let mut below = 0;
        for (bound, count) in values.bounds.iter().zip(values.counts) {
            below += count;
            let bound = (*bound as f64 / divisor).to_string();
            self.line("_bucket", labels, Some(&bound), below.into());
        }
        self.line("_bucket", labels, Some("+Inf"), values.count().into());
        self.line("_sum", labels, None, (values.sum as f64 / divisor).into());
        self.line("_count", labels, None, values.count().into());
    }

    fn line(&mut self, suffix: &str, values: &[&str], bound: Option<&str>, number: Number) {
        let Family { name, labels, .. } = self.family;
        assert_eq!(labels.len(), values.len(), "labels of {name}");
        self.text.push_str(name);
        self.text.push_str(suffix);
        let labels = labels.iter().copied().zip(values.iter().copied());
        for (i, (label, value)) in labels.chain(bound.map(|bound| ("le", bound))).enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            put(self.text, format_args!("{}{label}=\"{value}\"", if i == 0 { '{' } else { ',' }));
        }
        if !values.is_empty() || bound.is_some() {
            self.text.push('}');
        }
        match number {
            Number::Whole(number) => put(self.text, format_args!(" {number}\n")),
            Number::Real(number) => put(self.text, format_args!(" {number}\n")),
        }
    }
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a string takes everything");
}

/// A sample's number.
#[derive(Debug, Clone, Copy)]
pub enum Number {
    /// Counted.
    Whole(u64),
    /// Measured.
    Real(f64),
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<f64> for Number {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

/// One line of a page that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// With the suffix of a histogram's line.
    pub name: String,
    /// Names and values.
    pub labels: Vec<(String, String)>,
    /// The number.
    pub value: f64,
}

impl Sample {
    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// Reads the samples of a page; `None` when a line is not of the format.
pub fn parse(text: &str) -> Option<Vec<Sample>> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Sample> {
    let (name, mut rest) = line.split_at(line.find(['{', ' '])?);
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = unquote(after)?;
            labels.push((label.to_owned(), value));
            rest = after.strip_prefix(',').unwrap_or(after);
        }
    }
    Some(Sample { name: name.to_owned(), labels, value: rest.trim().parse().ok()? })
}

/// A label's value up to its closing quote, and what follows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::catalog;

    #[test]
    fn a_page_is_written_and_read() {
        let mut page = Page::default();
        page.family(&catalog::BUILD_INFO, |samples| samples.value(&["1 \"beta\"\\\n"], 1));
        page.family(&catalog::STORE_STALL, |samples| samples.value(&[], 0.25));
        let histogram = tern_store::histogram::Histogram::new(&[250, 1_000]);
        [100, 2_000].into_iter().for_each(|micros| histogram.record(micros));
        page.family(&catalog::REQUEST_SECONDS, |samples| {
            samples.histogram(&["send"], &histogram.snapshot(), 1e6);
        });
        let text = page.finish();
        assert!(
            text.contains("# TYPE tern_store_stall_seconds gauge\ntern_store_stall_seconds 0.25\n"),
            "{text}"
        );
        assert!(text.contains("tern_request_seconds_bucket{kind=\"send\",le=\"0.00025\"} 1\n"), "{text}");
        let samples = parse(&text).expect("what was written can be read");
        assert_eq!(samples[0].label("version"), Some("1 \"beta\"\\\n"));
        let of = |name: &str| samples.iter().filter(|s| s.name == name).map(|s| s.value).collect::<Vec<_>>();
        assert_eq!(of("tern_request_seconds_bucket"), [1.0, 1.0, 2.0]);
        assert_eq!(of("tern_request_seconds_count"), [2.0]);
        assert_eq!(of("tern_request_seconds_sum"), [0.0021]);
    }

    #[test]
    fn what_is_no_page_is_refused() {
        for text in ["{", "a", "a{b=\"c} 1", "a{b} 1", "a one", "<html> 1 2"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
