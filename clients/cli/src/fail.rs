//! Why a command failed: one line for people, one exit code for scripts.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tern_client::{Effect, Error, ErrorCode, Lost, StartError, Stop, StorageError, WireError};

/// A command's failure.
#[derive(Debug)]
pub(crate) enum Fail {
    /// The server said no: 1.
    Refused(String),
    /// The command line, a file or the state is not right: 2.
    Usage(String),
    /// The server cannot be reached or does not answer: 3.
    Unreachable(String),
    /// Whoever read our output has gone: 0, and nothing to say.
    Quiet,
}

impl Fail {
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Fail::Usage(text.into())
    }

    pub(crate) fn timeout(what: &str, after: Duration) -> Self {
        Fail::Unreachable(format!("{what} within {} s (see --timeout)", after.as_secs_f64()))
    }

    /// What went wrong, in one line.
    pub(crate) fn text(&self) -> &str {
        match self {
            Fail::Refused(text) | Fail::Usage(text) | Fail::Unreachable(text) => text,
            Fail::Quiet => "",
        }
    }

    pub(crate) fn report(self) -> ExitCode {
        let (text, code) = match self {
            Fail::Refused(text) => (text, 1),
            Fail::Usage(text) => (text, 2),
            Fail::Unreachable(text) => (text, 3),
            Fail::Quiet => return ExitCode::SUCCESS,
        };
        use io::Write;
        let _ = writeln!(io::stderr(), "tern: {}", crate::output::printable(&text));
        ExitCode::from(code)
    }
}

impl From<io::Error> for Fail {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Fail::Quiet,
            _ => Fail::Usage(format!("cannot write the output: {error}")),
        }
    }
}

impl From<Error> for Fail {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(text) => Fail::usage(text),
            Error::Refused(error) => refused(&error),
            Error::Stopped(stop) => stop.into(),
            Error::Unexpected => Fail::Unreachable(error.to_string()),
        }
    }
}

impl From<Stop> for Fail {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::TakenOver => Fail::Refused(
                "taken_over: this device has logged in elsewhere: give each process its own --state".into(),
            ),
            Stop::TokenRefused(error) | Stop::UnsupportedVersion(error) => refused(&error),
            Stop::AnotherUser { .. } => Fail::usage(format!("{stop}: give --state a file for each user")),
            Stop::Storage(_) | Stop::Closed => Fail::usage(stop.to_string()),
        }
    }
}

impl From<StartError> for Fail {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Storage(StorageError::InUse(path)) => Fail::usage(format!(
                "{path} is in use by another tern: end that one, or give this one its own --state"
            )),
            StartError::Storage(error) => Fail::usage(format!("the state cannot be used: {error}")),
            StartError::Config(error) => Fail::usage(error.to_string()),
            StartError::Offline(Lost::Closed(error)) => refused(&error),
            StartError::Offline(lost) => Fail::Unreachable(lost.to_string()),
            StartError::Stopped(stop) => stop.into(),
        }
    }
}

/// What to do about a connection that failed for this reason; empty when there is nothing to say. `ca` is the file with
/// the authority, if one was given.
pub(crate) fn hint(reason: &str, ca: Option<&Path>) -> String {
    match ca {
        _ if !reason.contains("UnknownIssuer") => String::new(),
        Some(ca) => format!(": is the CA in {} that of this server?", ca.display()),
        None => ": none of this system's CAs vouches for it: name the server's with --ca".into(),
    }
}

fn refused(error: &WireError) -> Fail {
    // What the advice says as well is not said twice.
    let known = matches!(
        error.code,
        ErrorCode::Forbidden
            | ErrorCode::NotMember
            | ErrorCode::UnknownConversation
            | ErrorCode::ConversationExists
            | ErrorCode::NoChange
    );
    let text = if known || error.text.is_empty() { String::new() } else { format!(" ({})", error.text) };
    Fail::Refused(format!("{}{text}: {}", error.code, advice(error.code)))
}

fn advice(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::TokenInvalid => "the server does not accept this token; check --token and who signed it",
        ErrorCode::TokenExpired => "get a new token",
        ErrorCode::UnsupportedVersion => "this tern and the server are too far apart; update the older one",
        ErrorCode::UnknownRequest => "the server is older than this tern; update it",
        ErrorCode::UnknownConversation => {
            "no such conversation, or not one of yours; see `tern conversations`"
        }
        ErrorCode::NotMember => "you are not, or no longer, a member of this group",
        ErrorCode::Forbidden => "your role in this group does not allow it; ask its owner or an admin",
        ErrorCode::ConversationExists => "a conversation with this id exists already",
        ErrorCode::TooManyMembers => "the group would be too large; add fewer",
        ErrorCode::NoChange => "it is so already; nothing to do",
        ErrorCode::TooLarge => "make it smaller",
        ErrorCode::InvalidArgument => "correct the command",
        ErrorCode::DuplicateTrimmed => "it was stored before, and the server has trimmed it since",
        ErrorCode::TakenOver => "this device has logged in elsewhere: give each process its own --state",
        ErrorCode::GoingAway
        | ErrorCode::Overloaded
        | ErrorCode::RateLimited
        | ErrorCode::Unavailable
        | ErrorCode::TooManyInFlight
        | ErrorCode::LoginTimeout
        | ErrorCode::IdleTimeout => "try again in a while",
        ErrorCode::OutcomeUnknown | ErrorCode::Internal => "try again; the server's log has the details",
        ErrorCode::Malformed
        | ErrorCode::FrameTooLarge
        | ErrorCode::NotLoggedIn
        | ErrorCode::AlreadyLoggedIn
        | ErrorCode::ClientSeqStale
        | ErrorCode::ClientSeqUsed => match code.effect() {
            Effect::None => "a fault of this program; nothing was done",
            Effect::Done | Effect::Unknown => "a fault of this program",
        },
    }
}
