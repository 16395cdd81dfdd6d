//! The files that runs have written, read.
//!
//! A page compares runs of many versions, so a figure that is missing, `null` or no number is "not known", and what is
//! not known here is passed over. Only what is no report of a run at all is an error.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use time::OffsetDateTime;

use super::Error;

/// Characters of a text that are shown; a command line fits.
const TEXT_CHARS_MAX: usize = 2_000;
/// Above it a number is no figure of a run; below it, no sum or scale here can overflow.
const FIGURE_MAX: f64 = 1e15;
/// A point of a series that stands for more than so many times the usual time spans a break.
const BREAK_LENGTHS: f64 = 1.5;

/// A number, if it is known: finite and not absurd.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(from = "Value")]
pub(super) struct Figure(pub(super) Option<f64>);

impl From<Value> for Figure {
    fn from(value: Value) -> Self {
        Self(value.as_f64().filter(|number| number.is_finite() && number.abs() <= FIGURE_MAX))
    }
}

impl Figure {
    /// Known and not below zero, as every time, count and share is.
    pub(super) fn known(self) -> Option<f64> {
        self.0.filter(|number| *number >= 0.0)
    }
}

/// A text without control characters; empty if it is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Value")]
pub(super) struct Text(pub(super) String);

impl From<Value> for Text {
    fn from(value: Value) -> Self {
        let text = match value {
            Value::Null => String::new(),
            Value::String(text) => text,
            other => other.to_string(),
        };
        Self(clean(&text))
    }
}

/// As it may stand on the page.
pub(super) fn clean(text: &str) -> String {
    let printable = |letter: char| match letter {
        '\u{fffe}' | '\u{ffff}' => ' ',
        letter if letter.is_control() => ' ',
        letter => letter,
    };
    let mut cleaned: String = text.trim().chars().take(TEXT_CHARS_MAX).map(printable).collect();
    if text.trim().chars().nth(TEXT_CHARS_MAX).is_some() {
        cleaned.push('…');
    }
    cleaned
}

/// One run of one scenario over one transport.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Run {
    pub(super) scenario: Text,
    pub(super) transport: Text,
    pub(super) connections: Figure,
    pub(super) load: Text,
    pub(super) complete: Option<bool>,
    /// Why not.
    pub(super) problem: Text,
    pub(super) seed: Text,
    pub(super) command: Text,
    pub(super) version: Text,
    pub(super) duration_s: Figure,
    pub(super) offered_per_s: Figure,
    pub(super) acked_per_s: Figure,
    pub(super) delivered_per_s: Figure,
    pub(super) errors: Figure,
    pub(super) refused: Figure,
    pub(super) unanswered: Figure,
    pub(super) disconnected: Figure,
    pub(super) lost: Figure,
    pub(super) duplicated: Figure,
    pub(super) reordered: Figure,
    pub(super) falsely_receipted: Figure,
    pub(super) altered: Figure,
    pub(super) split: Figure,
    #[serde(deserialize_with = "or_default")]
    pub(super) refusals: BTreeMap<String, Figure>,
    #[serde(deserialize_with = "or_default")]
    pub(super) ack_ms: Latency,
    #[serde(deserialize_with = "or_default")]
    pub(super) deliver_ms: Latency,
    #[serde(deserialize_with = "or_default")]
    pub(super) receipt_ms: Latency,
    #[serde(deserialize_with = "or_default")]
    pub(super) login_ms: Latency,
    #[serde(deserialize_with = "or_default")]
    pub(super) server: Server,
    #[serde(deserialize_with = "or_default")]
    pub(super) driver: Driver,
    pub(super) other_cores: Figure,
    #[serde(deserialize_with = "or_default")]
    pub(super) floor: Floor,
    #[serde(deserialize_with = "or_default")]
    pub(super) machine: Machine,
    #[serde(deserialize_with = "or_default")]
    /// While there was load.
    pub(super) series: Vec<Second>,
    #[serde(deserialize_with = "or_default")]
    pub(super) scenario_figures: BTreeMap<String, Value>,
    /// The file that it is from, and when that was written.
    #[serde(skip)]
    pub(super) file: String,
    #[serde(skip)]
    pub(super) written: Option<OffsetDateTime>,
}

/// What the server used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Server {
    pub(super) cpu_us_per_message: Figure,
    pub(super) cpu_us_per_delivery: Figure,
    pub(super) rss_bytes: Figure,
    pub(super) rss_bytes_per_connection: Figure,
    pub(super) kernel_bytes_per_connection: Figure,
    pub(super) cpu_cores: Figure,
}

/// What the load generator used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Driver {
    pub(super) cpu_us_per_message: Figure,
    pub(super) cpu_cores: Figure,
}

/// What the machine allows.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Floor {
    pub(super) relay_us_per_message: Figure,
    pub(super) store_us_per_message: Figure,
    pub(super) ratio: Figure,
}

/// Where it ran.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Machine {
    pub(super) cores: Figure,
    pub(super) cpu: Text,
    pub(super) kernel: Text,
    pub(super) load_before: Figure,
}

/// One second of a run.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Second {
    pub(super) t_s: Figure,
    /// What the run was doing; "measuring" is what its results are of.
    pub(super) phase: Text,
    pub(super) connections: Figure,
    pub(super) offered: Figure,
    pub(super) acked: Figure,
    pub(super) delivered: Figure,
    pub(super) logins: Figure,
    pub(super) errors: Figure,
    pub(super) ack_p99_ms: Figure,
    pub(super) server_cores: Figure,
    pub(super) server_rss_bytes: Figure,
}

impl Second {
    /// Whether the results are of it.
    pub(super) fn is_measured(&self) -> bool {
        matches!(self.phase.0.as_str(), "" | "measuring")
    }

    /// Whether the load has ended and clients only finish and leave.
    fn is_over(&self) -> bool {
        matches!(self.phase.0.as_str(), "draining" | "leaving")
    }
}

/// `count`, `mean`, `max`, and percentiles named `p50`, `p99`, `p999` …, in milliseconds.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Latency(BTreeMap<String, Figure>);

impl Latency {
    pub(super) fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied().and_then(Figure::known)
    }

    /// Share below (0.5, 0.99, …) and milliseconds, by share.
    pub(super) fn percentiles(&self) -> Vec<(f64, f64)> {
        let point = |(name, figure): (&String, &Figure)| {
            let digits = name.strip_prefix('p')?;
            let plain = (2..=6).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
            let share: f64 = format!("0.{digits}").parse().ok().filter(|_| plain)?;
            Some((share, figure.known()?))
        };
        let mut points: Vec<_> = self.0.iter().filter_map(point).collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        points
    }
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(value: D) -> Result<T, D::Error> {
    Option::deserialize(value).map(Option::unwrap_or_default)
}

/// The runs in a file: one object, or an array of them.
pub(super) fn load(file: &Path) -> Result<Vec<Run>, Error> {
    let failed = |error| Error::Read { file: file.into(), error };
    let text = std::fs::read(file).map_err(failed)?;
    let written = std::fs::metadata(file).and_then(|about| about.modified()).ok().and_then(utc);
    let mut runs = parse(&text).map_err(|problem| Error::Format { file: file.into(), problem })?;
    for run in &mut runs {
        run.file = clean(&file.display().to_string());
        run.written = written;
    }
    Ok(runs)
}

/// `None` if a calendar cannot have it.
fn utc(at: SystemTime) -> Option<OffsetDateTime> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    OffsetDateTime::from_unix_timestamp(since.as_secs().try_into().ok()?).ok()
}

/// The same, of a file's text; the error says what is wrong with it.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Run>, String> {
    let value: Value = serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
    let values = match value {
        Value::Array(values) if values.is_empty() => return Err("an empty array".into()),
        Value::Array(values) => values,
        one => vec![one],
    };
    values.into_iter().map(one).collect()
}

/// Without what comes after the load. A point that stands for much more time than others is a mean over a break in
/// which something else was measured, and says nothing of the load: of it, only the time stays.
fn under_load(mut series: Vec<Second>) -> Vec<Second> {
    series.retain(|second| !second.is_over());
    let length = |pair: &[Second]| Some(pair[1].t_s.known()? - pair[0].t_s.known()?);
    let lengths: Vec<Option<f64>> = series.windows(2).map(length).collect();
    let mut known: Vec<f64> = lengths.iter().flatten().copied().collect();
    known.sort_by(f64::total_cmp);
    let usual = known.get(known.len() / 2).copied().unwrap_or(f64::MAX);
    for (second, length) in series.iter_mut().skip(1).zip(lengths) {
        if length.is_some_and(|length| length > usual * BREAK_LENGTHS) {
            *second = Second { t_s: second.t_s, ..Second::default() };
        }
    }
    series
}

fn one(value: Value) -> Result<Run, String> {
    if !value.is_object() {
        return Err("neither an object nor an array of objects".into());
    }
    let mut run = Run::deserialize(value).map_err(|error| error.to_string())?;
    run.series = under_load(run.series);
    if run.scenario.0.is_empty() { Err("it has no \"scenario\"".into()) } else { Ok(run) }
}
