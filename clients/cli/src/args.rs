//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use tern_client::{ConversationId, DeviceId, Role, UserId};

use crate::book::NAME_BYTES_MAX;
use crate::output::commands_terminal;

const EXAMPLES: &str = "\
Examples:
  export TERN_SERVER=chat.example.com:7443 TERN_CA=ca.pem TERN_TOKEN=@token.jwt

  tern chat                              conversations, in the whole terminal
  tern send --to bob 'hello'             a message to bob, the user whom the app calls so
  date | tern send --to bob              the message from standard input
  tern tail                              everything new, as it happens, until Ctrl-C
  tern tail --once --json                everything new as JSON lines, then end
  tern history --to bob --limit 50       the last 50 messages with bob
  tern conversations                     all conversations, with what is unread
  tern read --to bob                     mark all of bob's messages as read
  tern group create --title Lunch --member bob --member carol

Users are named as the app names them (the `sub` of their tokens) or by their UUID. Where a name looks like a UUID,
write sub:NAME. Lines have the names that you have used here or given in `tern chat`, else UUIDs; JSON has UUIDs only.

State: `tern tail` remembers what it has shown in ~/.local/state/tern (or $XDG_STATE_HOME/tern); `tern chat`, and all
other commands together, keep messages that wait to be sent in files beside it. They are three devices of the user, so
that all can run at once. What the server was handed and did not confirm in time stays there and goes out with the next
command. While the server cannot be reached, `tern send` keeps nothing; what is written in `tern chat` waits there.

Exit codes: 0 done; 1 refused by the server; 2 wrong usage, file or state; 3 the server cannot be reached.";

/// Above the options that all commands have, behind their own.
const COMMON: &str = "Common options";

/// Chat on a Tern server from a terminal.
#[derive(Debug, Parser)]
#[command(name = "tern", version, after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Args {
    /// The server: host:port; several nodes of one cluster with commas between, of which a random one is used.
    #[arg(long, env = "TERN_SERVER", global = true, help_heading = COMMON, value_name = "ADDR")]
    pub(crate) server: Option<String>,
    /// The certificate authority that vouches for the server, PEM; without it, those of this system.
    #[arg(long, env = "TERN_CA", global = true, help_heading = COMMON, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The name in the server's certificate, when it is not the (first) host in --server.
    #[arg(long, env = "TERN_SERVER_NAME", global = true, help_heading = COMMON, value_name = "NAME")]
    pub(crate) server_name: Option<String>,
    /// The token that says who you are, from the app's backend; @FILE reads it from a file.
    #[arg(long, env = "TERN_TOKEN", global = true, help_heading = COMMON, value_name = "TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// What carries the connection; auto is QUIC, or TCP where the network swallows UDP.
    #[arg(long, env = "TERN_TRANSPORT", global = true, help_heading = COMMON, value_enum, default_value = "auto")]
    pub(crate) transport: Transport,
    /// Where `tail` keeps its state; `chat` uses the same name with "-chat" added, the other commands with "-send".
    #[arg(long, env = "TERN_STATE", global = true, help_heading = COMMON, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// The device id of a new state, in hexadecimal; without it, a random one. Use one for one state only.
    #[arg(long, global = true, help_heading = COMMON, value_name = "HEX")]
    pub(crate) device: Option<DeviceId>,
    /// Give up after so long; `tail` only while it connects for the first time, `chat` never.
    #[arg(long, global = true, help_heading = COMMON, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// One JSON object a line.
    #[arg(long, global = true, help_heading = COMMON)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Transport {
    Auto,
    Tcp,
    Quic,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Chat: a terminal application with your conversations; F1 in it lists its keys.
    Chat,
    /// Send a message; prints `conversation seq` once the server has stored it.
    #[command(mut_arg("to", |arg| arg.help("To this user; any name is accepted: a message waits for a user who has \
        never logged in")))]
    Send(Send),
    /// Show what is new since the last time, then what happens, one line each.
    Tail(Tail),
    /// Show a part of a conversation, the last 20 entries unless asked otherwise.
    History(History),
    /// List your conversations: id, kind, unread, last seq, name, last message.
    Conversations,
    /// Mark a conversation as read.
    Read(Read),
    /// Show how far the members of a conversation have received and read it.
    Receipts(Where),
    /// Make and change groups.
    #[command(subcommand)]
    Group(Group),
}

impl Command {
    /// Whether it sends something.
    pub(crate) fn sends(&self) -> bool {
        matches!(self, Command::Send(_) | Command::Group(_))
            && !matches!(self, Command::Group(Group::Members { .. }))
    }

    /// The users whom it names.
    pub(crate) fn users(&self) -> Vec<&User> {
        match self {
            Command::Send(Send { to: place, .. })
            | Command::History(History { of: place, .. })
            | Command::Read(Read { of: place, .. })
            | Command::Receipts(place) => place.to.iter().collect(),
            Command::Group(Group::Create { members: users, .. } | Group::Add { users, .. }) => {
                users.iter().collect()
            }
            Command::Group(Group::Remove { user, .. } | Group::Role { user, .. }) => vec![user],
            Command::Group(Group::Leave { .. } | Group::Title { .. } | Group::Members { .. })
            | Command::Chat
            | Command::Tail(_)
            | Command::Conversations => Vec::new(),
        }
    }
}

/// Which conversation.
#[derive(Debug, Clone, ClapArgs)]
#[group(required = true, multiple = false)]
pub(crate) struct Where {
    /// The direct chat with this user, as the app names them or by UUID.
    #[arg(long, value_name = "USER", value_parser = user)]
    pub(crate) to: Option<User>,
    /// A conversation by its id.
    #[arg(long, value_name = "ID")]
    pub(crate) conversation: Option<ConversationId>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Send {
    #[command(flatten)]
    pub(crate) to: Where,
    /// The message; without it, standard input up to its end (of text, the last newline is left out).
    pub(crate) text: Option<String>,
    /// What the message is.
    #[arg(long, value_name = "TYPE", default_value = "text/plain")]
    pub(crate) content_type: String,
    /// The seq that it answers.
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) reply_to: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Tail {
    /// End after so many entries.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Only this conversation; the others stay new.
    #[arg(long, value_name = "ID")]
    pub(crate) conversation: Option<ConversationId>,
    /// End when everything that is new has been shown.
    #[arg(long)]
    pub(crate) once: bool,
    /// Mark what is shown as read.
    #[arg(long)]
    pub(crate) read: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct History {
    #[command(flatten)]
    pub(crate) of: Where,
    /// Where to start; otherwise at the end, with --forward at the beginning.
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) from: Option<u64>,
    /// Towards older entries (as without it).
    #[arg(long, conflicts_with = "forward")]
    pub(crate) backward: bool,
    /// Towards newer entries.
    #[arg(long)]
    pub(crate) forward: bool,
    /// At most so many entries; they are shown oldest first in either direction.
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: u64,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Read {
    #[command(flatten)]
    pub(crate) of: Where,
    /// Up to this seq; without it, to the end.
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) upto: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    /// Make a group with you as its owner; prints `conversation seq`.
    Create {
        /// Its title.
        #[arg(long, value_parser = title)]
        title: String,
        /// A member besides you; give it once for each.
        #[arg(long = "member", value_name = "USER", value_parser = user)]
        members: Vec<User>,
    },
    /// Add members.
    Add {
        /// The group's id.
        group: ConversationId,
        /// Whom.
        #[arg(required = true, value_parser = user)]
        users: Vec<User>,
    },
    /// Remove a member.
    Remove {
        /// The group's id.
        group: ConversationId,
        /// Whom.
        #[arg(value_parser = user)]
        user: User,
    },
    /// Leave a group.
    Leave {
        /// The group's id.
        group: ConversationId,
    },
    /// Give a group another title.
    Title {
        /// The group's id.
        group: ConversationId,
        /// The title.
        #[arg(value_parser = title)]
        title: String,
    },
    /// List the members.
    Members {
        /// The group's id.
        group: ConversationId,
    },
    /// Give a member another role; `owner` hands the group over.
    Role {
        /// The group's id.
        group: ConversationId,
        /// Whose.
        #[arg(value_parser = user)]
        user: User,
        /// Which.
        role: RoleName,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum RoleName {
    Member,
    Admin,
    Owner,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Member => Role::Member,
            RoleName::Admin => Role::Admin,
            RoleName::Owner => Role::Owner,
        }
    }
}

/// A user as people name them: by the `sub` of their tokens, or by UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) id: UserId,
    /// The `sub`, if that was given.
    pub(crate) sub: Option<String>,
}

/// Takes a name or a UUID.
pub(crate) fn user(text: &str) -> Result<User, String> {
    let (id, sub) = match text.strip_prefix("sub:") {
        Some(name) => (None, name),
        None => (text.parse().ok(), text),
    };
    match id {
        Some(id) => Ok(User { id, sub: None }),
        None if sub.is_empty() => Err("a user's name is empty".into()),
        None if sub.trim() != sub => {
            Err(format!("the name {sub:?} begins or ends with a blank: leave that out"))
        }
        // What was typed or pasted in `tern chat` has the second in place of the first.
        None if sub.contains(|c| commands_terminal(c) || c == char::REPLACEMENT_CHARACTER) => {
            Err(format!("the name {sub:?} has a control character: leave that out"))
        }
        None if sub.len() > NAME_BYTES_MAX => Err(format!("a name has {NAME_BYTES_MAX} bytes at most")),
        None => Ok(User { id: UserId::from_sub(sub), sub: Some(sub.to_owned()) }),
    }
}

fn title(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("a group needs a title".into()) } else { Ok(text.to_owned()) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is expected".to_owned())?;
    let limit = Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())?;
    if limit.is_zero() {
        Err("more than 0 is expected".into())
    } else {
        Ok(limit.min(Duration::from_secs(1 << 30)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn users_by_name_and_by_id() {
        let bob = UserId::from_sub("bob");
        let named = |sub: &str| Ok(User { id: UserId::from_sub(sub), sub: Some(sub.to_owned()) });
        assert_eq!(user("bob"), named("bob"));
        assert_eq!(user("sub:bob"), named("bob"));
        assert_eq!(user(&bob.to_string()), Ok(User { id: bob, sub: None }));
        assert_eq!(user(&format!("sub:{bob}")), named(&bob.to_string()));
        for (name, why) in [
            ("", "is empty"),
            ("sub:", "is empty"),
            (" bob", "begins or ends with a blank"),
            ("bob\u{a0}", "begins or ends with a blank"),
            ("sub:bob ", "begins or ends with a blank"),
            (" \t", "begins or ends with a blank"),
            ("bo\x1bb", "control character"),
            ("bo\u{fffd}b", "control character"),
            (&"x".repeat(257), "256 bytes"),
        ] {
            assert!(user(name).is_err_and(|said| said.contains(why)), "{name:?}");
        }
        assert_eq!(user("bob the builder"), named("bob the builder"));
    }
}
