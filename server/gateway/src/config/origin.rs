//! Where each value comes from: a line of the file, the environment, a flag. Later ones win.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, ConfigError, Mistake, Override, schema};

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In this line of the file, counted from 1.
    File(PathBuf, usize),
    /// In this environment variable.
    Environment(&'static str),
    /// By this flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => f.write_str(variable),
            Self::Flag(flag) => write!(f, "--{flag}"),
        }
    }
}

/// The origins of all values that were set, by their keys: `tls.certificate`, `tokens.keys[0].file`.
#[derive(Debug, Clone)]
pub struct Origins {
    path: PathBuf,
    set: BTreeMap<String, Origin>,
}

impl Origins {
    /// Where the value of `key` was set; `None`: nowhere.
    pub fn get(&self, key: &str) -> Option<&Origin> {
        self.set.get(key)
    }

    /// A message about `key`: where it was set, else its section, else the file in which it is missing.
    pub(super) fn mistake(&self, key: &str, problem: impl fmt::Display) -> Mistake {
        let origin = ancestors(key).find_map(|key| self.get(key));
        let place = origin.map_or_else(|| self.path.display().to_string(), Origin::to_string);
        let line = match origin {
            Some(Origin::File(_, line)) => *line,
            _ => 0,
        };
        Mistake { key: key.to_owned(), line, text: format!("{place}: {key}: {problem}") }
    }

    fn note(&mut self, text: &str, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let key = if prefix.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{prefix}.{}", name.get_ref())
            };
            let line = line_of(text, name.span().start);
            self.set.insert(key.clone(), Origin::File(self.path.clone(), line));
            match value.get_ref() {
                DeValue::Table(inner) => self.note(text, &key, inner),
                DeValue::Array(elements) => {
                    for (i, element) in elements.iter().enumerate() {
                        let key = format!("{key}[{i}]");
                        let line = line_of(text, element.span().start);
                        self.set.insert(key.clone(), Origin::File(self.path.clone(), line));
                        if let DeValue::Table(inner) = element.get_ref() {
                            self.note(text, &key, inner);
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// `tokens.keys[0].file`, `tokens.keys[0]`, `tokens.keys`, `tokens`.
fn ancestors(key: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(key), |key| key.rfind(['.', '[']).map(|end| &key[..end]))
}

/// Whether a mistake in `one` may be the reason of one in `other`: the same key, one of them in the other, or both in one
/// element of a list.
pub(super) fn are_related(one: &str, other: &str) -> bool {
    let scope = |key: &str| key.rfind(']').map_or(key.len(), |end| end + 1);
    let (one, other) = (&one[..scope(one)], &other[..scope(other)]);
    ancestors(one).any(|key| key == other) || ancestors(other).any(|key| key == one)
}

/// Reads a configuration out of the text of a file and what overrides it. What could not be used is in `mistakes`, and
/// something else in its place.
///
/// # Errors
/// When it is not TOML.
pub(super) fn read(
    path: &Path,
    text: &str,
    overrides: &[Override],
    mistakes: &mut ConfigError,
) -> Result<(Config, Origins), ConfigError> {
    let refuse = |error: &toml::de::Error| {
        let line = error.span().map_or(0, |span| line_of(text, span.start));
        let place = if line == 0 { String::new() } else { format!(":{line}") };
        let text = format!("{}{place}: {}", path.display(), error.message());
        Mistake { key: String::new(), line, text }
    };
    let (mut document, errors) = DeTable::parse_recoverable(text);
    let mut lines: Vec<Mistake> = errors.iter().map(refuse).collect();
    if !lines.is_empty() {
        // What else is wrong in a line may be so only because the first thing is.
        lines.dedup_by_key(|mistake| mistake.line);
        return Err(ConfigError(lines));
    }
    let mut origins = Origins { path: path.to_owned(), set: BTreeMap::new() };
    origins.note(text, "", document.get_ref());

    let mut over = toml::Table::new();
    for Override { key, value, origin } in overrides {
        put(&mut over, key, value.clone());
        origins.set.retain(|set, _| !ancestors(set).any(|set| set == *key));
        origins.set.insert((*key).to_owned(), origin.clone());
    }
    let over = over.to_string();
    let parse = |error: toml::de::Error| ConfigError(vec![refuse(&error)]);
    merge(document.get_mut(), DeTable::parse(&over).map_err(parse)?.into_inner());
    schema::check(document.get_mut(), &origins, mistakes);
    let config = Config::deserialize(toml::de::Deserializer::from(document)).map_err(parse)?;
    Ok((config, origins))
}

fn put(table: &mut toml::Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => drop(table.insert(key.to_owned(), value)),
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| toml::Table::new().into());
            if let toml::Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// What is no table in `base` and should be one stays, to be refused as it stands in the file.
fn merge<'i>(base: &mut DeTable<'i>, over: DeTable<'i>) {
    for (name, value) in over {
        let present = base.get_mut(name.get_ref().as_ref() as &str).map(Spanned::get_mut);
        match (present, value.into_inner()) {
            (Some(DeValue::Table(base)), DeValue::Table(over)) => merge(base, over),
            (Some(_), DeValue::Table(_)) => {}
            (_, value) => {
                // Without a place: it is not in the file.
                let name: Cow<'i, str> = name.into_inner();
                base.insert(Spanned::new(0..0, name), Spanned::new(0..0, value));
            }
        }
    }
}

/// Counted from 1.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}
