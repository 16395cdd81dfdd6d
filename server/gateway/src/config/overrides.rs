//! What the environment and the command line may set.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::Origin;
use super::schema::{Kind, Over, SETTINGS, Setting, nearest};

/// Variables of the environment that begin like ours and are others': those of `tern`, and the log's.
const OTHERS: [&str; 8] = [
    "TERN_CA",
    "TERN_CONFIG",
    "TERN_LOG",
    "TERN_SERVER",
    "TERN_SERVER_NAME",
    "TERN_STATE",
    "TERN_TOKEN",
    "TERN_TRANSPORT",
];
const PREFIX: &str = "TERN_";

impl Kind {
    fn value_name(self) -> &'static str {
        match self {
            Self::Path(_) => "PATH",
            Self::Address => "ADDR",
            Self::Addresses | Self::Networks => "ADDR,..",
            Self::Number(..) => "N",
            Self::Text | Self::Flag | Self::Word(_) => "TEXT",
        }
    }

    /// As the file would have it; what is none of its kind stays as it is, to be refused with everything else.
    fn value(self, text: &str) -> toml::Value {
        match self {
            Self::Path(_) => {
                match std::path::absolute(text).map(PathBuf::into_os_string).map(OsString::into_string) {
                    Ok(Ok(path)) => path.into(),
                    _ => text.into(),
                }
            }
            Self::Addresses | Self::Networks => {
                let addresses = text.split(',').map(|address| address.trim().into());
                toml::Value::Array(addresses.collect())
            }
            Self::Number(..) => text.trim().parse::<i64>().map_or_else(|_| text.into(), Into::into),
            Self::Flag => text.parse::<bool>().map_or_else(|_| text.into(), Into::into),
            Self::Address | Self::Text | Self::Word(_) => text.into(),
        }
    }
}

fn known() -> impl Iterator<Item = (&'static Setting, &'static Over)> {
    SETTINGS.iter().filter_map(|setting| Some((setting, setting.over.as_ref()?)))
}

/// Says of each variable that looks like one of ours and is none what was probably meant. It is no reason to refuse:
/// orchestrators make such variables for a service of that name.
pub fn strangers(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let ours = || known().map(|(_, over)| over.variable);
    let mut strangers: Vec<String> = names
        .into_iter()
        .filter(|name| name.starts_with(PREFIX))
        .filter(|name| !OTHERS.contains(&name.as_str()) && !ours().any(|known| known == name))
        .collect();
    strangers.sort();
    let told = strangers.into_iter().map(|name| {
        let meant = ours().map(|known| &known[PREFIX.len()..]);
        match nearest(&name[PREFIX.len()..], meant) {
            Some(meant) => format!("{name} has no effect; did you mean {PREFIX}{meant}?"),
            None => format!("{name} has no effect: ternd knows no such variable"),
        }
    });
    told.collect()
}

/// A value that goes before the one in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// Its key in the file.
    pub key: &'static str,
    /// What it is.
    pub value: toml::Value,
    /// Who says so.
    pub origin: Origin,
}

/// What the environment and the command line have set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides(pub Vec<Override>);

impl Args for Overrides {
    fn augment_args(command: Command) -> Command {
        command.args(known().map(|(setting, over)| {
            Arg::new(over.flag)
                .long(over.flag)
                .env(over.variable)
                .value_name(setting.kind.value_name())
                .action(ArgAction::Set)
                .help(over.help)
                .help_heading("Instead of what the file says")
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let set = known().filter_map(|(setting, over)| {
            let text = matches.get_one::<String>(over.flag)?;
            let origin = match matches.value_source(over.flag) {
                Some(ValueSource::EnvVariable) => Origin::Environment(over.variable),
                _ => Origin::Flag(over.flag),
            };
            Some(Override { key: setting.key, value: setting.kind.value(text), origin })
        });
        Ok(Self(set.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
