//! Where each value comes from: a line of the file, the environment, a flag. Later ones win.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, ConfigError, Override};

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

    /// For a message about `key`: where it was set, else the file in which it is missing.
    pub fn at(&self, key: &str) -> String {
        self.get(key).map_or_else(|| self.path.display().to_string(), Origin::to_string)
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
                        if let DeValue::Table(inner) = element.get_ref() {
                            self.note(text, &format!("{key}[{i}]"), inner);
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// Reads a configuration out of the text of a file and what overrides it.
pub(super) fn read(
    path: &Path,
    text: &str,
    overrides: &[Override],
) -> Result<(Config, Origins), ConfigError> {
    let refuse = |mut error: toml::de::Error| {
        error.set_input(None);
        let place = match error.span() {
            // Of what is missing, the place has no length; at the very beginning it says nothing.
            Some(span) if span != (0..0) => format!("{}:{}", path.display(), line_of(text, span.start)),
            _ => path.display().to_string(),
        };
        ConfigError(format!("{place}: {}", error.message()))
    };
    let mut document = DeTable::parse(text).map_err(refuse)?;
    let mut origins = Origins { path: path.to_owned(), set: BTreeMap::new() };
    origins.note(text, "", document.get_ref());

    let mut over = toml::Table::new();
    for Override { key, value, origin } in overrides {
        put(&mut over, key, value.clone());
        origins.set.insert((*key).to_owned(), origin.clone());
    }
    let over = over.to_string();
    merge(document.get_mut(), DeTable::parse(&over).map_err(refuse)?.into_inner());
    let config = Config::deserialize(toml::de::Deserializer::from(document)).map_err(refuse)?;
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
