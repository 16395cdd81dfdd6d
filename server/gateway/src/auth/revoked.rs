//! Users and devices whose tokens are refused before they expire: a file that the operator, or the app's backend,
//! writes.
//!
//! ```toml
//! [[revoked]]
//! user = "alice"                     # the `sub` of the tokens
//! device = "5c1f0a92b3d4e6f7"        # one device; without it: all of the user's
//! before = 2026-11-22T12:00:00Z      # tokens made earlier (`iat`); without it: all tokens
//! ```

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use serde::Deserialize;
use tern_protocol::ids::{DeviceId, UserId};
use tern_protocol::limits::SUB_BYTES_MAX;
use tern_protocol::model::WallMillis;
use thiserror::Error;
use time::{Date, Month, OffsetDateTime, Time, UtcOffset};
use toml::Spanned;
use toml::value::{Datetime, Offset};

/// Of a revocation file: about 100,000 users.
pub const REVOKED_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    device: Option<DeviceId>,
    /// `None`: at any time.
    before: Option<WallMillis>,
}

impl Rule {
    /// A token that does not say when it was made counts as old.
    fn covers(&self, device: DeviceId, issued: Option<WallMillis>) -> bool {
        let old = self.before.is_none_or(|before| issued.is_none_or(|issued| issued < before));
        old && self.device.is_none_or(|revoked| revoked == device)
    }
}

/// What a file says.
#[derive(Debug, Default)]
pub struct Revoked(HashMap<UserId, Vec<Rule>>);

/// Why a file of revocations cannot be used: the line, and what was expected.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct RevokedError(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    revoked: Vec<Spanned<Row>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    user: String,
    device: Option<String>,
    before: Option<Datetime>,
}

impl Revoked {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is not as expected.
    pub fn read(path: &Path) -> Result<Self, RevokedError> {
        let refuse = |problem: String| RevokedError(format!("{}: {problem}", path.display()));
        let length = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?.len();
        if length > REVOKED_BYTES_MAX {
            return Err(refuse(format!("{length} bytes: expected at most {REVOKED_BYTES_MAX}")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
        Self::parse(&text)
            .map_err(|(line, problem)| RevokedError(format!("{}:{line}: {problem}", path.display())))
    }

    /// The line and the problem when it is not as expected.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let line = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
        let file: File = toml::from_str(text)
            .map_err(|error| (line(error.span().map_or(0, |span| span.start)), error.message().to_owned()))?;
        let mut users: HashMap<UserId, Vec<Rule>> = HashMap::new();
        for row in file.revoked {
            let at = line(row.span().start);
            let (user, rule) = rule(row.into_inner()).map_err(|problem| (at, problem))?;
            users.entry(user).or_default().push(rule);
        }
        Ok(Self(users))
    }
}

fn rule(row: Row) -> Result<(UserId, Rule), String> {
    if row.user.is_empty() || row.user.len() > SUB_BYTES_MAX {
        return Err(format!("user: expected the `sub` of tokens, 1 to {SUB_BYTES_MAX} bytes"));
    }
    let device =
        row.device.map(|device| device.parse().map_err(|error| format!("device: {error}"))).transpose()?;
    let before = row.before.map(|before| {
        millis(before).ok_or("before: expected a time with its offset, for example 2026-11-22T12:00:00Z")
    });
    Ok((UserId::from_sub(&row.user), Rule { device, before: before.transpose()? }))
}

/// Times before 1970 count as 1970.
fn millis(at: Datetime) -> Option<WallMillis> {
    let (date, time) = (at.date?, at.time?);
    let offset = match at.offset? {
        Offset::Z => UtcOffset::UTC,
        Offset::Custom { minutes } => UtcOffset::from_whole_seconds(i32::from(minutes) * 60).ok()?,
    };
    let month = Month::try_from(date.month).ok()?;
    let date = Date::from_calendar_date(i32::from(date.year), month, date.day).ok()?;
    let time =
        Time::from_hms_nano(time.hour, time.minute, time.second?, time.nanosecond.unwrap_or(0)).ok()?;
    let at = OffsetDateTime::new_in_offset(date, time, offset).unix_timestamp_nanos() / 1_000_000;
    Some(WallMillis(u64::try_from(at).unwrap_or(0)))
}

/// The revocations in effect.
#[derive(Debug, Default)]
pub struct Revocations {
    revoked: RwLock<Arc<Revoked>>,
    generation: AtomicU64,
}

impl Revocations {
    /// Puts others in the place of those before.
    pub fn replace(&self, revoked: Revoked) {
        *self.revoked.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(revoked);
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Rises with every change.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Whether a token of this user, made at `issued` and used by this device, is refused.
    pub fn cover(&self, user: UserId, device: DeviceId, issued: Option<WallMillis>) -> bool {
        let revoked = self.revoked.read().unwrap_or_else(PoisonError::into_inner);
        revoked.0.get(&user).is_some_and(|rules| rules.iter().any(|rule| rule.covers(device, issued)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_devices_and_times() {
        let text = "[[revoked]]\nuser = \"alice\"\nbefore = 2001-09-09T03:46:40+02:00\n\n\
                    [[revoked]]\nuser = \"alice\"\ndevice = \"2\"\n\n[[revoked]]\nuser = \"bob\"\n";
        let revocations = Revocations::default();
        let at = |seconds: u64| Some(WallMillis(seconds * 1000));
        let cover = |user, device, issued| {
            revocations.cover(UserId::from_sub(user), DeviceId::new(device).unwrap(), issued)
        };
        assert!(!cover("bob", 1, None));
        revocations.replace(Revoked::parse(text).unwrap());
        assert_eq!(revocations.generation(), 1);
        for (user, device, issued, expected) in [
            ("alice", 1, at(999_999_999), true),
            ("alice", 1, at(1_000_000_000), false),
            ("alice", 1, None, true),
            ("alice", 2, at(2_000_000_000), true),
            ("bob", 9, at(2_000_000_000), true),
            ("carol", 1, None, false),
        ] {
            assert_eq!(cover(user, device, issued), expected, "{user} {device} {issued:?}");
        }
        revocations.replace(Revoked::parse("").unwrap());
        assert!(!cover("bob", 1, None));
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (row, line, expected) in [
            ("user = \"a\"\nbefor = 1", 3, "unknown field `befor`"),
            ("device = \"1\"", 1, "missing field `user`"),
            ("user = \"\"", 1, "1 to 256 bytes"),
            ("user = \"a\"\ndevice = \"phone\"", 1, "hexadecimal"),
            ("user = \"a\"\nbefore = 2026-11-22T12:00:00", 1, "offset"),
            ("user = \"a\"\nbefore = 2026-13-22T12:00:00Z", 3, ""),
        ] {
            let (at, problem) = Revoked::parse(&format!("[[revoked]]\n{row}\n")).unwrap_err();
            assert!(at == line && problem.contains(expected), "{row}: {at}: {problem}");
        }
    }
}
