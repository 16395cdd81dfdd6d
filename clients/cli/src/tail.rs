//! What happens, as it happens, from where this device left off.

use std::collections::BTreeMap;

use tern_client::{Client, ConnectionState, ConversationId, Event, Events, Seq};

use crate::args::{Args, Tail};
use crate::fail::Fail;
use crate::output::{self, Names};
use crate::session::{self, Purpose};

/// Read marks are sent when nothing more waits to be shown, or after so many entries.
const READS_MAX: usize = 100;

pub(crate) async fn run(args: &Args, tail: &Tail) -> Result<(), Fail> {
    let (client, mut events, book) = session::connect(args, Purpose::Tail).await?;
    let names = Names { me: client.online().await?, book };
    let result = tokio::select! {
        result = show(args, tail, &client, &mut events, &names) => result,
        () = session::interrupted() => Ok(()),
    };
    client.close().await;
    result
}

async fn show(
    args: &Args,
    tail: &Tail,
    client: &Client,
    events: &mut Events,
    names: &Names,
) -> Result<(), Fail> {
    let mut left = tail.count.unwrap_or(u64::MAX);
    let mut reads = BTreeMap::new();
    let mut shown = 0;
    loop {
        let event = match events.try_next() {
            Some(event) if shown < READS_MAX => event,
            waiting => {
                mark(client, &mut reads).await?;
                shown = 0;
                match waiting {
                    Some(event) => event,
                    None => match events.next().await {
                        Some(event) => event,
                        None => return Ok(()),
                    },
                }
            }
        };
        if let Event::Connection(ConnectionState::Stopped(stop)) = event {
            return Err(stop.into());
        }
        let caught_up = event == Event::CaughtUp;
        let entry = match &event {
            Event::Entry { conversation, entry } => Some((*conversation, entry.seq)),
            _ => None,
        };
        if tail.conversation.is_some_and(|wanted| conversation_of(&event).is_some_and(|c| c != wanted)) {
            // Not shown, so still new to this device.
            events.leave();
            continue;
        }
        let line = if args.json {
            output::event_json(&event).to_string()
        } else {
            output::event_text(&event, names)
        };
        if let Err(error) = output::line(&line) {
            events.leave();
            return Err(error.into());
        }
        if let Some((conversation, seq)) = entry {
            shown += 1;
            left -= 1;
            if tail.read {
                reads.insert(conversation, seq);
            }
        }
        if left == 0 || (tail.once && caught_up) {
            events.confirm();
            return mark(client, &mut reads).await;
        }
    }
}

fn conversation_of(event: &Event) -> Option<ConversationId> {
    match event {
        Event::Entry { conversation, .. }
        | Event::Trimmed { conversation, .. }
        | Event::Reset { conversation, .. }
        | Event::Recovered { conversation, .. } => Some(*conversation),
        Event::Conversation(state) => Some(state.conversation),
        Event::Receipts(moved) => Some(moved.conversation),
        Event::Connection(_) | Event::HistoryReset { .. } | Event::CaughtUp => None,
    }
}

async fn mark(client: &Client, reads: &mut BTreeMap<ConversationId, Seq>) -> Result<(), Fail> {
    while let Some((conversation, seq)) = reads.pop_first() {
        match client.mark_read(conversation, seq).await {
            // Removed from the group meanwhile, for example: no reason to stop showing the rest.
            Ok(()) | Err(tern_client::Error::Refused(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
