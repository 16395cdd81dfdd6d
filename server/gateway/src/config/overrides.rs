//! What the environment and the command line may set: one table, from which the flags are made.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::Origin;

struct Known {
    /// The key in the file.
    key: &'static str,
    flag: &'static str,
    variable: &'static str,
    kind: Kind,
    help: &'static str,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Relative to the working directory.
    Path,
    Address,
    Addresses,
    Number,
    Text,
}

impl Kind {
    fn value_name(self) -> &'static str {
        match self {
            Self::Path => "PATH",
            Self::Address => "ADDR",
            Self::Addresses => "ADDR,..",
            Self::Number => "N",
            Self::Text => "TEXT",
        }
    }

    fn parse(self, text: &str) -> Result<toml::Value, String> {
        match self {
            Self::Path if text.is_empty() => Err("expected a path".to_owned()),
            Self::Path => {
                let path = std::path::absolute(PathBuf::from(text)).map_err(|error| error.to_string())?;
                let path = path.into_os_string().into_string();
                Ok(path.map_err(|_| "expected a path in UTF-8".to_owned())?.into())
            }
            Self::Address => address(text),
            Self::Addresses => {
                text.split(',').map(address).collect::<Result<Vec<_>, String>>().map(toml::Value::Array)
            }
            Self::Number => {
                let number: i64 = text.parse().map_err(|_| format!("{text:?}: expected a whole number"))?;
                Ok(number.into())
            }
            Self::Text => Ok(text.into()),
        }
    }
}

fn address(text: &str) -> Result<toml::Value, String> {
    let parsed: Result<SocketAddr, _> = text.trim().parse();
    let parsed = parsed
        .map_err(|_| format!("{text:?} is no address: expected for example [::]:7443 or 192.0.2.1:7443"))?;
    Ok(parsed.to_string().into())
}

macro_rules! known {
    ($($key:literal $flag:literal $variable:literal $kind:ident $help:literal;)*) => {
        const KNOWN: &[Known] = &[$(
            Known { key: $key, flag: $flag, variable: $variable, kind: Kind::$kind, help: $help },
        )*];
    };
}

known! {
    "data" "data" "TERN_DATA" Path "Data directory";
    "listen" "listen" "TERN_LISTEN" Addresses "Addresses for TCP, with commas between them";
    "listen_quic" "listen-quic" "TERN_LISTEN_QUIC" Addresses "Addresses for QUIC, with commas between them";
    "shards" "shards" "TERN_SHARDS" Number "Threads";
    "admin.listen" "admin-listen" "TERN_ADMIN_LISTEN" Address "Address for metrics, health and readiness";
    "tls.certificate" "tls-certificate" "TERN_TLS_CERTIFICATE" Path "Certificate chain, PEM";
    "tls.key" "tls-key" "TERN_TLS_KEY" Path "The certificate's private key, PEM";
    "tokens.issuer" "tokens-issuer" "TERN_TOKENS_ISSUER" Text "The required `iss` of tokens";
    "tokens.audience" "tokens-audience" "TERN_TOKENS_AUDIENCE" Text "The required `aud` of tokens";
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
        command.args(KNOWN.iter().map(|known| {
            Arg::new(known.flag)
                .long(known.flag)
                .env(known.variable)
                .value_name(known.kind.value_name())
                .action(ArgAction::Set)
                .help(known.help)
                .help_heading("Instead of what the file says")
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut overrides = Vec::new();
        for known in KNOWN {
            let Some(text) = matches.get_one::<String>(known.flag) else { continue };
            let origin = match matches.value_source(known.flag) {
                Some(ValueSource::EnvVariable) => Origin::Environment(known.variable),
                _ => Origin::Flag(known.flag),
            };
            let value = known.kind.parse(text).map_err(|problem| {
                clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{origin}: {problem}\n"))
            })?;
            overrides.push(Override { key: known.key, value, origin });
        }
        Ok(Self(overrides))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
