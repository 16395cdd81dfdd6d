//! Every key of the configuration with what it may be: one table, by which the file, the environment and the flags are
//! checked, and from which the latter two are made.

use std::fmt::Display;
use std::net::SocketAddr;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::ConfigError;
use super::origin::Origins;
use crate::transport::ShardCount;
use crate::transport::proxy::Network;

/// Addresses of one transport; each costs a socket on each shard.
const ADDRESSES_MAX: usize = 16;
/// Each is looked at for every TCP connection.
const PROXIES_MAX: usize = 256;
/// A clock that is off by more has to be set.
const LEEWAY_SECONDS_MAX: i64 = 24 * 3600;
/// A key set that is fetched more rarely than once a day is not fetched at all.
const REFRESH_SECONDS_MAX: i64 = 24 * 3600;
/// Of the settings in `[limits]`, which are `u32`.
const LIMIT_MAX: i64 = u32::MAX as i64;
/// Names that are less alike are no slip of the fingers; from 0 to 1.
const ALIKE_MIN: f64 = 0.8;

/// A key of the configuration.
pub(super) struct Setting {
    /// With its sections; `[]` stands for the number of a list's element.
    pub(super) key: &'static str,
    pub(super) kind: Kind,
    need: Need,
    pub(super) over: Option<Over>,
}

/// Whether a setting may be left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    MayMiss,
    /// Only together with everything else in its section.
    WithSection,
    Always,
}

/// What goes before the file.
pub(super) struct Over {
    pub(super) flag: &'static str,
    pub(super) variable: &'static str,
    pub(super) help: &'static str,
}

/// What a value may be.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Relative to the file, or to the working directory if it does not come from it; with an example.
    Path(&'static str),
    Address,
    Addresses,
    Networks,
    /// From the first to the second.
    Number(i64, i64),
    Flag,
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
}

impl Setting {
    const fn new(key: &'static str, kind: Kind) -> Self {
        Self { key, kind, need: Need::MayMiss, over: None }
    }

    const fn required(self) -> Self {
        Self { need: Need::Always, ..self }
    }

    const fn required_in_section(self) -> Self {
        Self { need: Need::WithSection, ..self }
    }

    const fn over(self, flag: &'static str, variable: &'static str, help: &'static str) -> Self {
        Self { over: Some(Over { flag, variable, help }), ..self }
    }

    /// The section that it is in, and its name there.
    fn split(&self) -> (&'static str, &'static str) {
        self.key.rsplit_once('.').unwrap_or(("", self.key))
    }
}

pub(super) const SETTINGS: &[Setting] = &[
    Setting::new("data", Kind::Path("/var/lib/tern")).required().over("data", "TERN_DATA", "Data directory"),
    Setting::new("listen", Kind::Addresses).over(
        "listen",
        "TERN_LISTEN",
        "Addresses for TCP, with commas between them",
    ),
    Setting::new("listen_quic", Kind::Addresses).over(
        "listen-quic",
        "TERN_LISTEN_QUIC",
        "Addresses for QUIC, with commas between them",
    ),
    Setting::new("proxy_protocol_from", Kind::Networks),
    Setting::new("shards", Kind::Number(1, ShardCount::MAX as i64)).over("shards", "TERN_SHARDS", "Threads"),
    Setting::new("store.kind", Kind::Word(&["embedded", "fdb"])).over(
        "store",
        "TERN_STORE",
        "Where conversations are kept: embedded or fdb",
    ),
    Setting::new("store.cluster_file", Kind::Path("/etc/foundationdb/fdb.cluster")).over(
        "cluster-file",
        "TERN_CLUSTER_FILE",
        "Cluster file of FoundationDB",
    ),
    Setting::new("store.prefix", Kind::Text),
    Setting::new("admin.listen", Kind::Address).over(
        "admin-listen",
        "TERN_ADMIN_LISTEN",
        "Address for metrics, health and readiness",
    ),
    Setting::new("admin.allow_remote", Kind::Flag),
    Setting::new("tls.certificate", Kind::Path("/etc/tern/server.pem")).required().over(
        "tls-certificate",
        "TERN_TLS_CERTIFICATE",
        "Certificate chain, PEM",
    ),
    Setting::new("tls.key", Kind::Path("/etc/tern/server.key")).required().over(
        "tls-key",
        "TERN_TLS_KEY",
        "The certificate's private key, PEM",
    ),
    Setting::new("cluster.listen", Kind::Address).required_in_section().over(
        "cluster-listen",
        "TERN_CLUSTER_LISTEN",
        "Address for links from other nodes",
    ),
    Setting::new("cluster.advertise", Kind::Address).over(
        "cluster-advertise",
        "TERN_CLUSTER_ADVERTISE",
        "Address at which other nodes reach this one",
    ),
    Setting::new("cluster.advertise_clients", Kind::Text).over(
        "cluster-advertise-clients",
        "TERN_CLUSTER_ADVERTISE_CLIENTS",
        "Address (host:port) of this node for clients that others send here",
    ),
    Setting::new("cluster.name", Kind::Text).over(
        "cluster-name",
        "TERN_CLUSTER_NAME",
        "What people call this node",
    ),
    Setting::new("cluster.ca", Kind::Path("/etc/tern/cluster-ca.pem")).required_in_section(),
    Setting::new("cluster.certificate", Kind::Path("/etc/tern/node.pem")).required_in_section(),
    Setting::new("cluster.key", Kind::Path("/etc/tern/node.key")).required_in_section(),
    Setting::new("limits.connections_per_shard", Kind::Number(0, LIMIT_MAX)),
    Setting::new("limits.before_login_per_address", Kind::Number(0, LIMIT_MAX)),
    Setting::new("limits.device_sends_per_second", Kind::Number(0, LIMIT_MAX)),
    Setting::new("limits.device_sends_burst", Kind::Number(0, LIMIT_MAX)),
    Setting::new("limits.user_sends_per_second", Kind::Number(0, LIMIT_MAX)),
    Setting::new("limits.user_sends_burst", Kind::Number(0, LIMIT_MAX)),
    Setting::new("limits.device_work_per_second", Kind::Number(0, LIMIT_MAX)),
    Setting::new("limits.device_work_burst", Kind::Number(0, LIMIT_MAX)),
    Setting::new("limits.user_work_per_second", Kind::Number(0, LIMIT_MAX)),
    Setting::new("limits.user_work_burst", Kind::Number(0, LIMIT_MAX)),
    Setting::new("tokens.issuer", Kind::Text).over(
        "tokens-issuer",
        "TERN_TOKENS_ISSUER",
        "The required `iss` of tokens",
    ),
    Setting::new("tokens.audience", Kind::Text).over(
        "tokens-audience",
        "TERN_TOKENS_AUDIENCE",
        "The required `aud` of tokens",
    ),
    Setting::new("tokens.leeway_seconds", Kind::Number(0, LEEWAY_SECONDS_MAX)),
    Setting::new("tokens.revoked", Kind::Path("/etc/tern/revoked.toml")),
    Setting::new("tokens.keys[].algorithm", Kind::Word(&["EdDSA", "ES256", "RS256", "HS256"])).required(),
    Setting::new("tokens.keys[].file", Kind::Path("/etc/tern/token.pub")).required(),
    Setting::new("tokens.keys[].id", Kind::Text),
    Setting::new("tokens.jwks.file", Kind::Path("/etc/tern/jwks.json")),
    Setting::new("tokens.jwks.url", Kind::Text),
    Setting::new("tokens.jwks.ca", Kind::Path("/etc/tern/ca.pem")),
    Setting::new("tokens.jwks.refresh_seconds", Kind::Number(1, REFRESH_SECONDS_MAX)),
];

impl Kind {
    /// What was expected, with an example.
    fn expected(self) -> String {
        match self {
            Self::Path(example) => format!("expected a path in quotes, such as {example:?}"),
            Self::Address => "expected an IP address and a port, such as \"127.0.0.1:7480\"".to_owned(),
            Self::Addresses => format!(
                "expected a list of 1 to {ADDRESSES_MAX} addresses with ports, such as [\"[::]:7443\"] or \
                 [\"192.0.2.1:7443\"]"
            ),
            Self::Networks => {
                format!("expected a list of at most {PROXIES_MAX} networks, such as [\"10.0.0.0/8\"]")
            }
            Self::Number(min, max) => format!("expected a whole number from {min} to {max}"),
            Self::Flag => "expected true or false".to_owned(),
            Self::Text => "expected text in quotes".to_owned(),
            Self::Word(words) => format!("expected one of {}", list(words)),
        }
    }

    /// Stands for a value that cannot be used or is missing, until that has been told.
    fn placeholder(self) -> DeValue<'static> {
        let text = match self {
            Self::Word(words) => words[0],
            Self::Address => "127.0.0.1:1",
            _ => "/",
        };
        DeValue::String(text.into())
    }

    /// Reports what is wrong with the value of `key`.
    fn check(self, key: &str, value: &DeValue<'_>, report: &mut impl FnMut(&str, String)) {
        let refuse = || format!("{}: {}", shown(value), self.expected());
        let is_good = match (self, value) {
            (Self::Path(_), DeValue::String(text)) => !text.is_empty(),
            (Self::Address, DeValue::String(text)) => text.parse::<SocketAddr>().is_ok(),
            (Self::Addresses, DeValue::Array(elements)) => {
                let address = |text: &str| match text.parse::<SocketAddr>() {
                    Ok(_) => Ok(()),
                    Err(_) => Err(format!(
                        "{text:?} is no address: expected for example [::]:7443 or 192.0.2.1:7443"
                    )),
                };
                each(key, elements, address, report);
                (1..=ADDRESSES_MAX).contains(&elements.len())
            }
            (Self::Networks, DeValue::Array(elements)) => {
                each(key, elements, |text| text.parse::<Network>().map(drop), report);
                elements.len() <= PROXIES_MAX
            }
            (Self::Number(min, max), DeValue::Integer(number)) => {
                i64::from_str_radix(number.as_str(), number.radix())
                    .is_ok_and(|number| (min..=max).contains(&number))
            }
            (Self::Flag, DeValue::Boolean(_)) | (Self::Text, DeValue::String(_)) => true,
            (Self::Word(words), DeValue::String(text)) => words.contains(&text.as_ref()),
            _ => false,
        };
        if !is_good {
            report(key, refuse());
        }
    }
}

/// Reports each element that is no text, or whose text is refused.
fn each(
    key: &str,
    elements: &DeArray<'_>,
    check: impl Fn(&str) -> Result<(), String>,
    report: &mut impl FnMut(&str, String),
) {
    for (i, element) in elements.iter().enumerate() {
        let checked = match element.get_ref() {
            DeValue::String(text) => check(text),
            other => Err(format!("{}: expected text in quotes", shown(other))),
        };
        if let Err(problem) = checked {
            report(&format!("{key}[{i}]"), problem);
        }
    }
}

/// A value in a message.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(elements) => format!("a list of {}", elements.len()),
        DeValue::Table(_) => "a section".to_owned(),
    }
}

fn list(words: &[impl Display]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

/// The one that was probably meant.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = known.into_iter().map(|known| (strsim::jaro(name, known), known));
    alike.filter(|(alike, _)| *alike >= ALIKE_MIN).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// What is in a section, and below it: the names, without those of sections further down.
fn names(section: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for setting in SETTINGS {
        let rest = match section {
            "" => Some(setting.key),
            _ => setting.key.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')),
        };
        let name = rest.map(|rest| rest.split(['.', '[']).next().unwrap_or(rest));
        names.extend(name.filter(|name| !names.contains(name)));
    }
    names
}

fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// Notes every mistake in a document, and leaves one that can be read into a configuration: what cannot be used is
/// taken out, and what has to be there is put in.
pub(super) fn check(document: &mut DeTable<'_>, origins: &Origins, mistakes: &mut ConfigError) {
    section("", "", document, &mut |key, problem| mistakes.add(origins.mistake(key, problem)));
}

/// `pattern` is the section as [`SETTINGS`] has it, `key` the one that it is.
fn section(pattern: &str, key: &str, table: &mut DeTable<'_>, report: &mut impl FnMut(&str, String)) {
    let known = names(pattern);
    let present: Vec<String> = table.keys().map(|name| name.get_ref().to_string()).collect();
    for name in &present {
        let (pattern, key) = (join(pattern, name), join(key, name));
        let Some(value) = table.get_mut(name.as_str()) else { continue };
        let mut is_good = true;
        let mut report_here = |key: &str, problem: String| {
            is_good = false;
            report(key, problem);
        };
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.key == pattern) {
            setting.kind.check(&key, value.get_ref(), &mut report_here);
        } else if !known.contains(&name.as_str()) {
            report_here(&key, unknown(name, &known));
        } else if SETTINGS.iter().any(|setting| setting.key.starts_with(&format!("{pattern}[]."))) {
            match value.get_mut() {
                DeValue::Array(elements) if elements.iter().all(|element| element.get_ref().is_table()) => {
                    for (i, element) in elements.iter_mut().enumerate() {
                        if let DeValue::Table(inner) = element.get_mut() {
                            section(&format!("{pattern}[]"), &format!("{key}[{i}]"), inner, report);
                        }
                    }
                }
                other => {
                    report_here(
                        &key,
                        format!("{}: expected sections that begin with [[{key}]]", shown(other)),
                    );
                }
            }
        } else {
            match value.get_mut() {
                DeValue::Table(inner) => section(&pattern, &key, inner, report),
                other => report_here(&key, format!("{}: expected a section, [{key}]", shown(other))),
            }
        }
        if !is_good {
            table.remove(name.as_str());
        }
    }
    let required = SETTINGS.iter().filter(|setting| setting.need != Need::MayMiss);
    for (setting, name) in required.map(|setting| (setting, setting.split())) {
        let (own, name) = name;
        if own == pattern && !table.contains_key(name) {
            if !present.iter().any(|present| present == name) {
                report(&join(key, name), format!("is missing: {}", setting.kind.expected()));
            }
            table.insert(Spanned::new(0..0, name.into()), Spanned::new(0..0, setting.kind.placeholder()));
        } else if pattern.is_empty()
            && setting.need == Need::Always
            && !own.is_empty()
            && !own.contains(['.', '['])
            && !table.contains_key(own)
        {
            let mut inner = DeTable::new();
            section(own, own, &mut inner, report);
            table.insert(Spanned::new(0..0, own.into()), Spanned::new(0..0, DeValue::Table(inner)));
        }
    }
}

fn unknown(name: &str, known: &[&'static str]) -> String {
    let elsewhere = || SETTINGS.iter().map(Setting::split).find(|(_, other)| *other == name);
    if let Some(meant) = nearest(name, known.iter().copied()) {
        return format!("there is no such setting; did you mean {meant:?}?");
    }
    match elsewhere() {
        Some(("", _)) => {
            "belongs before the first section: what stands behind a line such as [tls] is in that section"
                .to_owned()
        }
        Some((section, _)) => format!("belongs in the section [{}]", section.replace("[]", "")),
        None => format!("there is no such setting; expected one of {}", list(known)),
    }
}
