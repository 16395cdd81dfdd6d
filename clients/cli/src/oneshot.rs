//! Commands that ask or change one thing and end.

use std::io::Read as _;
use std::time::Duration;

use serde_json::json;
use tern_client::{
    Change, Client, ConversationId, Error, ErrorCode, HistoryFrom, Message, SendOk, Seq, Target, UserId,
};
use tern_protocol::limits::PAYLOAD_BYTES_MAX;
use tokio::time::timeout;

use crate::args::{Args, Command, Group, History, Read, Send, User, Where};
use crate::fail::Fail;
use crate::output::{self, Names};
use crate::session::{self, Purpose};

/// What a command works with.
struct Context<'a> {
    client: &'a Client,
    names: Names,
    json: bool,
    timeout: Duration,
    /// What the server means when it calls an argument of this command invalid.
    invalid: Option<String>,
}

/// The server has one text for all that can be wrong; what was asked of it is known here.
fn invalid(command: &Command) -> Option<String> {
    let beyond =
        |option: &str, seq: u64| format!("the conversation has no {seq}: give {option} a seq that it has");
    match command {
        Command::Send(Send { reply_to: Some(seq), .. }) => Some(beyond("--reply-to", *seq)),
        Command::Read(Read { upto: Some(seq), .. }) => Some(beyond("--upto", *seq)),
        Command::Group(Group::Remove { .. }) => {
            Some("nobody removes themselves: use `tern group leave`".into())
        }
        Command::Group(Group::Role { .. }) => {
            Some("that is you, or nobody of this group; see `tern group members`".into())
        }
        _ => None,
    }
}

pub(crate) async fn run(args: &Args) -> Result<(), Fail> {
    // Before connecting: reading may take long, and may fail.
    let message = match &args.command {
        Command::Send(send) => Some(message(send).await?),
        _ => None,
    };
    let (client, events, book) = match session::connect(args, Purpose::OneShot).await {
        Err(Fail::Unreachable(why)) if args.command.sends() => {
            return Err(Fail::Unreachable(format!("{why}; not sent, and not kept: try again")));
        }
        other => other?,
    };
    drop(events);
    let names = Names { me: client.online().await?, book };
    let context = Context {
        client: &client,
        names,
        json: args.json,
        timeout: args.timeout,
        invalid: invalid(&args.command),
    };
    let work = async {
        match &args.command {
            Command::Send(send) => context.send(&send.to, message.unwrap_or_else(empty)).await,
            Command::History(history) => context.history(history).await,
            Command::Conversations => context.conversations().await,
            Command::Read(read) => context.read(read).await,
            Command::Receipts(of) => context.receipts(of).await,
            Command::Group(group) => context.group(group).await,
            Command::Tail(_) | Command::Chat => Ok(()),
        }
    };
    let result = tokio::select! {
        result = work => result,
        // Cut short on purpose: what is stored to be sent goes with the next command.
        _ = tokio::signal::ctrl_c() => Err(Fail::Unreachable("interrupted".into())),
    };
    // Messages that an earlier command left behind go now, if they do at once.
    let _ = timeout(Duration::from_secs(1), client.close()).await;
    result
}

fn ids(users: &[User]) -> Vec<UserId> {
    users.iter().map(|user| user.id).collect()
}

fn empty() -> Message {
    Message { content_type: String::new(), payload: Default::default(), reply_to: None }
}

async fn message(send: &Send) -> Result<Message, Fail> {
    let is_text = send.content_type.starts_with("text/");
    let payload = match &send.text {
        Some(text) => text.clone().into_bytes(),
        None => {
            let read = tokio::task::spawn_blocking(|| {
                let mut payload = Vec::new();
                // One more than is allowed, and a newline that may go.
                std::io::stdin()
                    .lock()
                    .take(PAYLOAD_BYTES_MAX as u64 + 3)
                    .read_to_end(&mut payload)
                    .map(|_| payload)
            });
            let read = tokio::select! {
                read = read => read,
                _ = tokio::signal::ctrl_c() => return Err(Fail::usage("interrupted; nothing was sent")),
            };
            let mut payload = read
                .map_err(|e| Fail::usage(e.to_string()))?
                .map_err(|e| Fail::usage(format!("standard input cannot be read: {e}")))?;
            if is_text && payload.ends_with(b"\n") {
                payload.pop();
                if payload.ends_with(b"\r") {
                    payload.pop();
                }
            }
            payload
        }
    };
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Fail::usage(format!(
            "the message is longer than {PAYLOAD_BYTES_MAX} bytes: put it elsewhere and send its address"
        )));
    }
    if payload.is_empty() {
        return Err(Fail::usage("the message is empty"));
    }
    Ok(Message {
        content_type: send.content_type.clone(),
        payload: payload.into(),
        reply_to: send.reply_to.map(Seq),
    })
}

impl Context<'_> {
    fn conversation(&self, of: &Where) -> Result<ConversationId, Fail> {
        match (of.conversation, &of.to) {
            (Some(id), _) => Ok(id),
            (None, Some(user)) => Ok(ConversationId::direct(self.names.me, user.id)),
            (None, None) => Err(Fail::usage("give --to or --conversation")),
        }
    }

    /// An answer in time.
    async fn ask<T>(&self, question: impl Future<Output = Result<T, Error>>) -> Result<T, Fail> {
        match timeout(self.timeout, question).await {
            Ok(answer) => answer.map_err(|error| self.fail(error)),
            Err(_) => Err(Fail::timeout("no answer from the server", self.timeout)),
        }
    }

    /// Stores a change and waits until the server has it.
    async fn store(&self, target: Target, change: Change) -> Result<SendOk, Fail> {
        let pending = self.ask(self.client.enqueue(target, change)).await?;
        match timeout(self.timeout, pending).await {
            Ok(result) => result.map_err(|error| self.fail(error)),
            Err(_) => Err(self.unconfirmed()),
        }
    }

    fn fail(&self, error: Error) -> Fail {
        match (&error, &self.invalid) {
            (Error::Refused(refused), Some(why)) if refused.code == ErrorCode::InvalidArgument => {
                Fail::Refused(format!("{}: {why}", refused.code))
            }
            _ => error.into(),
        }
    }

    fn unconfirmed(&self) -> Fail {
        Fail::Unreachable(format!(
            "not confirmed within {} s: it is kept and goes out with the next command, so do not repeat it",
            self.timeout.as_secs_f64()
        ))
    }

    fn print_stored(&self, ok: &SendOk) -> Result<(), Fail> {
        let line = if self.json {
            json!({
                "conversation": ok.conversation.to_string(), "seq": ok.seq.get(), "time_ms": ok.time.0,
                "duplicate": ok.duplicate,
            })
            .to_string()
        } else {
            format!("{} {}", ok.conversation, ok.seq)
        };
        Ok(output::line(&line)?)
    }

    async fn send(&self, to: &Where, message: Message) -> Result<(), Fail> {
        let target = match (to.conversation, &to.to) {
            (None, Some(user)) => Target::User(user.id),
            _ => Target::Conversation(self.conversation(to)?),
        };
        let ok = self.store(target, Change::Message(message)).await?;
        self.print_stored(&ok)
    }

    async fn history(&self, args: &History) -> Result<(), Fail> {
        let id = self.conversation(&args.of)?;
        let mut left = args.limit;
        let mut from = match (args.forward, args.from) {
            (true, from) => HistoryFrom::Forward(Seq(from.unwrap_or(1))),
            (false, from) => HistoryFrom::Backward(from.map(Seq)),
        };
        let mut older = Vec::new();
        while left > 0 {
            let limit = u32::try_from(left).unwrap_or(u32::MAX);
            let page = self.ask(self.client.history(id, from, limit)).await?;
            let (Some(first), Some(last)) = (page.entries.first(), page.entries.last()) else { break };
            left = left.saturating_sub(page.entries.len() as u64);
            let end = if args.forward { last.seq >= page.head } else { first.seq <= page.floor };
            if args.forward {
                from = HistoryFrom::Forward(last.seq.next());
                for entry in &page.entries {
                    self.print_entry(id, entry)?;
                }
            } else {
                from = HistoryFrom::Backward(Some(first.seq.prev()));
                older.push(page.entries);
            }
            if end {
                break;
            }
        }
        for entry in older.iter().rev().flatten() {
            self.print_entry(id, entry)?;
        }
        Ok(())
    }

    fn print_entry(&self, id: ConversationId, entry: &tern_client::Entry) -> Result<(), Fail> {
        let line = if self.json {
            output::entry_json(id, entry).to_string()
        } else {
            output::entry_text(id, entry, &self.names)
        };
        Ok(output::line(&line)?)
    }

    async fn conversations(&self) -> Result<(), Fail> {
        let mut after = None;
        loop {
            let page = self.ask(self.client.conversations(after, 0)).await?;
            for state in &page.conversations {
                let line = if self.json {
                    output::listed_json(state).to_string()
                } else {
                    output::listed_text(state, &self.names)
                };
                output::line(&line)?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn read(&self, args: &Read) -> Result<(), Fail> {
        let id = self.conversation(&args.of)?;
        let upto = match args.upto {
            Some(seq) => Seq(seq),
            None => self.ask(self.client.history(id, HistoryFrom::Backward(None), 1)).await?.head,
        };
        if upto.get() > 0 {
            self.ask(self.client.mark_read(id, upto)).await?;
        }
        let line = if self.json {
            json!({"conversation": id.to_string(), "read": upto.get()}).to_string()
        } else {
            format!("{id} {upto}")
        };
        Ok(output::line(&line)?)
    }

    async fn receipts(&self, of: &Where) -> Result<(), Fail> {
        let id = self.conversation(of)?;
        let mut after = None;
        loop {
            let page = self.ask(self.client.receipts(id, after, 0)).await?;
            for r in &page.receipts {
                let line = if self.json {
                    json!({"user": r.user.to_string(), "delivered": r.delivered.get(), "read": r.read.get()})
                        .to_string()
                } else {
                    format!("{} received {} read {}", self.names.of(r.user), r.delivered, r.read)
                };
                output::line(&line)?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn group(&self, group: &Group) -> Result<(), Fail> {
        let (id, change) = match group {
            Group::Create { title, members } => {
                let create = self.client.create_group(title.clone(), ids(members));
                let (id, seq) = timeout(self.timeout, create).await.map_err(|_| self.unconfirmed())??;
                let line = if self.json {
                    json!({"conversation": id.to_string(), "seq": seq.get()}).to_string()
                } else {
                    format!("{id} {seq}")
                };
                return Ok(output::line(&line)?);
            }
            Group::Members { group } => return self.members(*group).await,
            Group::Add { group, users } => (*group, Change::Add { members: ids(users) }),
            Group::Remove { group, user } => (*group, Change::Remove { member: user.id }),
            Group::Leave { group } => (*group, Change::Leave),
            Group::Title { group, title } => (*group, Change::Title { title: title.clone() }),
            Group::Role { group, user, role } => {
                (*group, Change::Role { member: user.id, role: (*role).into() })
            }
        };
        if !id.is_group() {
            return Err(Fail::usage(format!(
                "{id} is a direct chat, which stays as it is: for more people, use `tern group create`"
            )));
        }
        let ok = self.store(Target::Conversation(id), change).await?;
        self.print_stored(&ok)
    }

    async fn members(&self, id: ConversationId) -> Result<(), Fail> {
        let mut after = None;
        loop {
            let page = self.ask(self.client.members(id, after, 0)).await?;
            for (user, role, joined) in &page.members {
                let role = output::role(*role);
                let line = if self.json {
                    json!({"user": user.to_string(), "role": role, "joined": joined.get()}).to_string()
                } else {
                    format!("{} {role} since {joined}", self.names.of(*user))
                };
                output::line(&line)?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }
}
