//! What is printed: lines for people, JSON objects for programs.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use tern_client::{
    Change, ConnectionState, ConversationId, ConversationState, Entry, Event, Kind, ReceiptsMoved, Role,
    UserId,
};

use crate::book::Book;

/// Prints one line, at once: what has been printed counts as shown.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Without control characters: a message must not command the reader's terminal, nor look like two.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if commands_terminal(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether a terminal would do something at this character instead of showing it.
pub(crate) fn commands_terminal(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `2026-11-22 05:59:21`, UTC.
pub(crate) fn time(ms: u64) -> String {
    let (days, seconds) = (ms / 86_400_000, ms / 1000 % 86_400);
    // Days to a date, by eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Member => "member",
        Role::Admin => "admin",
        Role::Owner => "owner",
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Direct => "direct",
        Kind::Group => "group",
    }
}

/// The text of a payload that is some.
pub(crate) fn text<'a>(content_type: &str, payload: &'a [u8]) -> Option<&'a str> {
    let is_text = content_type.is_empty() || content_type.to_ascii_lowercase().starts_with("text/");
    if is_text { std::str::from_utf8(payload).ok() } else { None }
}

fn users(users: &[UserId]) -> Vec<String> {
    users.iter().map(ToString::to_string).collect()
}

/// Who is who, in lines for people.
pub(crate) struct Names {
    pub(crate) me: UserId,
    pub(crate) book: Book,
}

impl Names {
    /// The name that the user knows somebody by, or the UUID.
    pub(crate) fn of(&self, user: UserId) -> String {
        match self.book.get(user) {
            _ if user == self.me => "me".into(),
            Some(name) => name.to_owned(),
            None => user.to_string(),
        }
    }

    fn all(&self, users: &[UserId]) -> String {
        users.iter().map(|user| self.of(*user)).collect::<Vec<_>>().join(", ")
    }
}

/// What an entry says, for people.
pub(crate) fn change_text(change: &Change, names: &Names) -> String {
    match change {
        Change::Message(m) => {
            let reply = m.reply_to.map_or(String::new(), |seq| format!("(re {seq}) "));
            match text(&m.content_type, &m.payload) {
                Some(text) => reply + &printable(text),
                None => format!("{reply}[{}, {} bytes]", printable(&m.content_type), m.payload.len()),
            }
        }
        Change::Create { title, members } => {
            let with =
                if members.is_empty() { String::new() } else { format!(" with {}", names.all(members)) };
            format!("* made the group \"{}\"{with}", printable(title))
        }
        Change::Add { members } => format!("* added {}", names.all(members)),
        Change::Remove { member } => format!("* removed {}", names.of(*member)),
        Change::Leave => "* left".into(),
        Change::Title { title } => format!("* named the group \"{}\"", printable(title)),
        Change::Role { member, role: r } => format!("* made {} {}", names.of(*member), role(*r)),
        Change::Unknown => "* something that this tern is too old for".into(),
    }
}

pub(crate) fn entry_text(conversation: ConversationId, entry: &Entry, names: &Names) -> String {
    let (sender, text) = (names.of(entry.sender.user), change_text(&entry.change, names));
    format!("{} {conversation} {} {sender}: {text}", time(entry.time.0), entry.seq)
}

pub(crate) fn entry_json(conversation: ConversationId, entry: &Entry) -> Value {
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.into(), value);
    put("event", "entry".into());
    put("conversation", conversation.to_string().into());
    put("seq", entry.seq.get().into());
    put("time_ms", entry.time.0.into());
    put("sender", entry.sender.user.to_string().into());
    put("device", entry.sender.device.to_string().into());
    put("client_seq", entry.client_seq.get().into());
    match &entry.change {
        Change::Message(m) => {
            put("type", "message".into());
            put("content_type", m.content_type.clone().into());
            match text(&m.content_type, &m.payload) {
                Some(text) => put("text", text.into()),
                None => put("base64", STANDARD.encode(&m.payload).into()),
            };
            if let Some(seq) = m.reply_to {
                put("reply_to", seq.get().into());
            }
        }
        Change::Create { title, members } => {
            put("type", "create".into());
            put("title", title.clone().into());
            put("members", users(members).into());
        }
        Change::Add { members } => {
            put("type", "add".into());
            put("members", users(members).into());
        }
        Change::Remove { member } => {
            put("type", "remove".into());
            put("member", member.to_string().into());
        }
        Change::Leave => {
            put("type", "leave".into());
        }
        Change::Title { title } => {
            put("type", "title".into());
            put("title", title.clone().into());
        }
        Change::Role { member, role: r } => {
            put("type", "role".into());
            put("member", member.to_string().into());
            put("role", role(*r).into());
        }
        Change::Unknown => {
            put("type", "unknown".into());
        }
    }
    Value::Object(out)
}

pub(crate) fn conversation_json(state: &ConversationState) -> Value {
    json!({
        "event": "conversation",
        "conversation": state.conversation.to_string(),
        "kind": kind(state.kind),
        "title": state.title,
        "peer": state.peer.map(|p| p.to_string()),
        "head": state.head.get(),
        "floor": state.floor.get(),
        "read": state.read.get(),
        "peer_delivered": state.peer_delivered.get(),
        "peer_read": state.peer_read.get(),
        "role": state.role.map(role),
    })
}

/// A row of `tern conversations`.
pub(crate) fn listed_json(state: &ConversationState) -> Value {
    let mut row = conversation_json(state);
    row["unread"] = state.unread.into();
    row["time_ms"] = state.time.0.into();
    row["last"] = state.entries.last().map_or(Value::Null, |e| entry_json(state.conversation, e));
    row
}

pub(crate) fn listed_text(state: &ConversationState, names: &Names) -> String {
    let unread = if state.unread >= 100 { "99+".into() } else { state.unread.to_string() };
    let last = state.entries.last().map_or(String::new(), |e| shortened(&change_text(&e.change, names)));
    format!(
        "{} {:6} {unread:>4} new  {:>6}  {}  {last}",
        state.conversation,
        kind(state.kind),
        state.head,
        name(state, names),
    )
}

fn name(state: &ConversationState, names: &Names) -> String {
    match (state.peer, state.role) {
        (Some(peer), _) => names.of(peer),
        (None, Some(_)) => format!("\"{}\"", printable(&state.title)),
        // The server tells no title of what went on without us.
        (None, None) => "(left)".into(),
    }
}

fn shortened(text: &str) -> String {
    const CHARS: usize = 40;
    let mut out: String = text.chars().take(CHARS).collect();
    if text.chars().count() > CHARS {
        out.push('…');
    }
    out
}

fn receipts_json(moved: &ReceiptsMoved) -> Value {
    let users: Vec<_> = moved
        .users
        .iter()
        .map(|u| json!({"user": u.user.to_string(), "delivered": u.delivered.get(), "read": u.read.get()}))
        .collect();
    let counts: Vec<_> = moved
        .counts
        .iter()
        .map(|c| json!({"seq": c.seq.get(), "delivered": c.delivered, "read": c.read, "members": c.members}))
        .collect();
    json!({
        "event": "receipts", "conversation": moved.conversation.to_string(), "users": users, "counts": counts,
    })
}

fn receipts_text(moved: &ReceiptsMoved, names: &Names) -> String {
    let mut parts: Vec<_> = moved
        .users
        .iter()
        .map(|u| format!("{} has received {} and read {}", names.of(u.user), u.delivered, u.read))
        .collect();
    parts.extend(moved.counts.iter().map(|c| {
        format!("{} was received by {} and read by {} of {}", c.seq, c.delivered, c.read, c.members)
    }));
    format!("-- {} {}", moved.conversation, parts.join("; "))
}

fn state_json(state: &ConnectionState) -> Value {
    match state {
        ConnectionState::Connecting => json!({"event": "state", "state": "connecting"}),
        ConnectionState::Online { user } => {
            json!({"event": "state", "state": "online", "user": user.to_string()})
        }
        ConnectionState::Offline { reason, retry_in } => json!({
            "event": "state", "state": "offline", "reason": reason.to_string(),
            "retry_in_ms": retry_in.as_millis() as u64,
        }),
        ConnectionState::Stopped(stop) => {
            json!({"event": "state", "state": "stopped", "reason": stop.to_string()})
        }
    }
}

fn state_text(state: &ConnectionState) -> String {
    match state {
        ConnectionState::Connecting => "-- connecting".into(),
        ConnectionState::Online { user } => format!("-- online as {user}"),
        ConnectionState::Offline { reason, retry_in } => {
            format!(
                "-- offline: {}; next try in {:.1} s",
                printable(&reason.to_string()),
                retry_in.as_secs_f64()
            )
        }
        ConnectionState::Stopped(stop) => format!("-- stopped: {}", printable(&stop.to_string())),
    }
}

/// An event as a JSON object.
pub(crate) fn event_json(event: &Event) -> Value {
    match event {
        Event::Entry { conversation, entry } => entry_json(*conversation, entry),
        Event::Trimmed { conversation, from, to } => json!({
            "event": "trimmed", "conversation": conversation.to_string(), "from": from.get(), "to": to.get(),
        }),
        Event::HistoryReset { epoch } => json!({"event": "history_reset", "epoch": epoch.to_string()}),
        Event::Reset { conversation, cursor, head } => json!({
            "event": "reset",
            "conversation": conversation.to_string(),
            "cursor": cursor.get(),
            "head": head.get(),
        }),
        Event::Conversation(state) => conversation_json(state),
        Event::Receipts(moved) => receipts_json(moved),
        Event::Connection(state) => state_json(state),
        Event::CaughtUp => json!({"event": "caught_up"}),
        Event::Recovered { conversation, client_seq, result } => json!({
            "event": "recovered",
            "conversation": conversation.to_string(),
            "client_seq": client_seq.get(),
            "seq": result.as_ref().ok().map(|ok| ok.seq.get()),
            "error": result.as_ref().err().map(|e| e.code.label()),
        }),
    }
}

/// An event as a line.
pub(crate) fn event_text(event: &Event, names: &Names) -> String {
    match event {
        Event::Entry { conversation, entry } => entry_text(*conversation, entry, names),
        Event::Trimmed { conversation, from, to } => {
            format!("-- {conversation} {from} to {to} are no longer on the server")
        }
        Event::HistoryReset { .. } => {
            "-- the server was restored from a backup: starting all conversations anew; what the backup lacks is gone \
             (tern chat shows which of its own messages)"
                .into()
        }
        Event::Reset { conversation, .. } => format!(
            "-- the server's store is older than what this device has seen: starting {conversation} anew"
        ),
        Event::Conversation(state) => {
            format!(
                "-- {} {} {}, up to {}",
                state.conversation,
                kind(state.kind),
                name(state, names),
                state.head
            )
        }
        Event::Receipts(moved) => receipts_text(moved, names),
        Event::Connection(state) => state_text(state),
        Event::CaughtUp => "-- caught up".into(),
        Event::Recovered { conversation, result, .. } => match result {
            Ok(ok) => format!("-- {conversation} {} is a message that had been waiting", ok.seq),
            Err(error) => {
                format!("-- {conversation} a message that had been waiting was refused: {}", error.code)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(time(0), "1970-01-01 00:00:00");
        assert_eq!(time(951_782_399_000), "2000-02-28 23:59:59");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(time(1_795_327_161_999), "2026-11-22 05:59:21");
    }

    #[test]
    fn a_group_of_one_and_of_more() {
        let (me, bob) = (UserId::from_sub("alice"), UserId::from_sub("bob"));
        let mut names = Names { me, book: Book::default() };
        names.book.set(bob, "bob");
        for (members, with) in [(vec![], ""), (vec![bob, me], " with bob, me")] {
            let create = Change::Create { title: "solo".into(), members };
            assert_eq!(change_text(&create, &names), format!("* made the group \"solo\"{with}"));
        }
    }

    #[test]
    fn messages_cannot_command_the_terminal() {
        assert_eq!(printable("a\x1b[2J\r\nb\u{202e}ü"), "a\\u{1b}[2J\\r\\nb\\u{202e}ü");
    }
}
