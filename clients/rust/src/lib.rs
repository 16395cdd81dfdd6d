//! Tern's Rust client: an app's whole side of a chat.
//!
//! # What it takes care of
//! - **A message is stored once**, however often the connection breaks or the app is killed: it is numbered and
//!   stored on the device before it goes out ([`Client::enqueue`]).
//! - **Every entry is handed over once, in order**, per conversation and as long as the app runs, gaps repaired before;
//!   after a crash the one that was being handled comes again ([`Events::next`]).
//! - **Being online**: QUIC, or TCP where a network swallows UDP ([`Transport::Auto`]); reconnects with jittered waits,
//!   heeding the server's advice; finds dead links and follows changes of network ([`Client::network_changed`]); asks
//!   the token source for a fresh token. It stops by itself only when trying again is useless ([`Stop`]).
//! - **Battery**: a client that waits for nothing has one timer, that of the next heartbeat, which is as far away as the
//!   server and the routers on the way allow.
//! - **A local history** to draw screens from without a server ([`LocalHistory`]).
//!
//! It runs inside of a tokio runtime; a client is one task there, which never waits for a disk.
//!
//! # Connect
//! The app's backend signs a token; its `sub` is the user. The storage is this device's identity and memory: one file for
//! each user of the device.
//!
//! ```no_run
//! use tern_client::{Client, Config, SqliteStorage, StartError, Token};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // Asked before each connection; `fresh` says that the last token was refused.
//! let token = Token::source(|fresh: bool| async move {
//!     ask_the_backend(fresh).await.map_err(|error| error.to_string())
//! });
//! let config = Config::new("chat.example.com:7443", std::fs::read("ca.pem")?, token);
//! // This waits for the disk; once the client has the storage, no runtime does.
//! let storage = tokio::task::spawn_blocking(|| SqliteStorage::open("alice.db")).await??;
//! // `Client::start` does not wait for the network, and connects in the background: for an app that opens without one.
//! let (client, events) = match Client::connect(config, storage).await {
//!     Ok(started) => started,
//!     Err(StartError::Offline(why)) => return Err(format!("no connection: {why}").into()),
//!     Err(other) => return Err(other.into()),
//! };
//! // Waits until everything is sent, 5 s at most, and leaves the storage free.
//! let all_sent = client.close().await;
//! # let _ = (all_sent, events);
//! # Ok(())
//! # }
//! # async fn ask_the_backend(_fresh: bool) -> std::io::Result<String> { Ok(String::new()) }
//! ```
//!
//! # Send
//! ```no_run
//! # use tern_client::{Change, Client, Error, Message, Target, UserId};
//! # async fn example(client: Client) -> Result<(), Error> {
//! let to = Target::User(UserId::from_sub("bob"));
//! let hello = Message { content_type: "text/plain".into(), payload: "hello".into(), reply_to: None };
//! // Waits until the server has it.
//! let stored = client.send(to, hello.clone()).await?;
//! println!("stored as {} of {}", stored.seq, stored.conversation);
//!
//! // Or: waits until it is on this device's disk; it is sent when there is a network, if need be by the app's next run.
//! let pending = client.enqueue(to, Change::Message(hello)).await?;
//! match pending.await {
//!     Ok(stored) => println!("sent as {}", stored.seq),
//!     // It stays in the storage.
//!     Err(Error::Stopped(why)) => println!("not yet: {why}"),
//!     Err(Error::Refused(error)) => println!("never: {}", error.text),
//!     Err(other) => return Err(other),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Receive
//! Asking for the next event says that the one before has been dealt with. An app that is slow holds nothing up: what
//! does not fit [`Config::events_max`] waits on the server.
//!
//! ```no_run
//! # use tern_client::{Change, ConnectionState, Event, Events, UserId};
//! # async fn example(mut events: Events) {
//! while let Some(event) = events.next().await {
//!     match event {
//!         Event::Entry { conversation, entry } => match entry.change {
//!             Change::Message(message) => println!("{conversation} {}: {:?}", entry.seq, message.payload),
//!             other => println!("{conversation} {}: {other:?}", entry.seq),
//!         },
//!         Event::Connection(ConnectionState::Offline { reason, retry_in }) => {
//!             println!("{reason}; trying again in {retry_in:?}");
//!         }
//!         Event::Connection(ConnectionState::Stopped(why)) => println!("not without your help: {why}"),
//!         Event::Recovered { result, .. } => println!("left from the last run: {result:?}"),
//!         Event::HistoryReset { .. } => println!("forget everything; it is told anew"),
//!         Event::Reset { conversation, .. } => println!("forget what you have of {conversation}"),
//!         _ => {}
//!     }
//! }
//! # }
//! ```
//!
//! # Receipts
//! That an entry is on this device is said by taking the next event. That the user has seen it, only the app knows.
//!
//! ```no_run
//! # use tern_client::{Client, ConversationId, Error, Event, Seq};
//! # async fn example(client: Client, conversation: ConversationId, seq: Seq, event: Event) -> Result<(), Error> {
//! client.mark_read(conversation, seq).await?;
//! // Others' come as events while online ...
//! if let Event::Receipts(moved) = event {
//!     println!("{moved:?}");
//! }
//! // ... and may be asked for.
//! for receipt in client.receipts(conversation, None, 0).await?.receipts {
//!     println!("{} has read up to {}", receipt.user, receipt.read);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # History
//! What this device was handed is on its disk, whether online or not. Older pages are on the server.
//!
//! ```no_run
//! # use tern_client::{Client, Config, HistoryFrom, Seq, SqliteStorage};
//! # async fn example(config: Config) -> Result<(), Box<dyn std::error::Error>> {
//! let storage = SqliteStorage::open("alice.db")?.history_bytes_max(64 << 20);
//! let local = storage.history()?;
//! let (client, _events) = Client::start(config, storage).await?;
//! for line in local.conversations(None, 50)? {
//!     let entries = local.latest(line.conversation, 30)?;
//!     let waiting = local.unsent(line.conversation)?;
//!     println!("{} {:?}: {} entries, {} not sent yet", line.title, line.peer, entries.len(), waiting.len());
//!     // The user scrolls up: first what is here, then what only the server has.
//!     let Some(oldest) = entries.first().map(|entry| entry.seq) else { continue };
//!     let mut older = local.before(line.conversation, oldest, 30)?;
//!     if older.is_empty() && oldest > Seq(1) {
//!         let from = HistoryFrom::Backward(Some(oldest.prev()));
//!         older = client.history(line.conversation, from, 30).await?.entries;
//!     }
//!     println!("{older:?}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Groups
//! Who comes and goes, and the title, are entries of the log like messages.
//!
//! ```no_run
//! # use tern_client::{Change, Client, Error, Role, UserId};
//! # async fn example(client: Client) -> Result<(), Error> {
//! let (bob, carol) = (UserId::from_sub("bob"), UserId::from_sub("carol"));
//! let (group, _seq) = client.create_group("walkers", vec![bob]).await?;
//! client.change(group, Change::Add { members: vec![carol] }).await?;
//! client.change(group, Change::Role { member: carol, role: Role::Admin }).await?;
//! client.change(group, Change::Title { title: "hikers".into() }).await?;
//! client.change(group, Change::Remove { member: bob }).await?;
//! for (member, role, since) in client.members(group, None, 0).await?.members {
//!     println!("{member} is {role:?} since {since}");
//! }
//! client.change(group, Change::Leave).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Drop, cancel, close
//! Every future may be dropped at any time, in a `select!` or a timeout. What happens then, and at an end of another kind:
//!
//! | dropped | |
//! |---|---|
//! | [`Client::start`], [`Client::connect`] before they return | there is no client; the storage is let go of |
//! | [`Client::send`], [`Client::change`], [`Client::enqueue`] | before the message has a number on the disk, it goes once or not at all; from then on, once |
//! | [`Pending`] | the message goes, once |
//! | a question: [`Client::history`], [`Client::mark_read`], … | it is asked or not, and its answer dropped |
//! | [`Events::next`] | nothing is lost: the next call returns what this one would have |
//! | [`Events`] | nothing is handed over any more, and the cursor stays; sends and questions go on |
//! | one of several [`Client`] handles | nothing |
//! | the last of them | the client stops without waiting for anything; what has a number stays in the storage, for the next client |
//! | [`Client::close`] after its first poll | it closes as if it were waited for |
//!
//! - **Closed**, by one handle for all: sends and questions that come later end with [`Stop::Closed`]. Closing again returns
//!   the same as the first time.
//! - **The runtime is shut down** beneath a client: that is as if the app were killed. Handles and events that were kept
//!   are of no use in another runtime, and say so: [`Stop::Closed`], no more events. Start another client on the storage.
//! - **The storage is free** for the next client when [`Client::close`] has returned or [`Events::next`] has given `None`.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use tern_client::{Change, Client, Error, Message, Target};
//! # async fn example(client: Client, to: Target, hello: Message) -> Result<(), Error> {
//! let pending = client.enqueue(to, Change::Message(hello)).await?;
//! match tokio::time::timeout(Duration::from_secs(3), pending).await {
//!     Ok(sent) => println!("stored as {}", sent?.seq),
//!     // Not to be sent again: it goes by itself when there is a network.
//!     Err(_) => println!("on its way"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Several accounts
//! A client is one account on one server. An app has as many as it likes; they share nothing but the runtime.
//!
//! ```no_run
//! # use tern_client::{Client, Config, SqliteStorage, StartError, Token};
//! # async fn example(ca: Vec<u8>, tokens: Vec<(String, String)>) -> Result<(), StartError> {
//! let mut clients = Vec::new();
//! for (name, token) in tokens {
//!     let config = Config::new("chat.example.com:7443", ca.clone(), Token::Fixed(token));
//!     let storage = SqliteStorage::open(format!("{name}.db"))?;
//!     let (client, mut events) = Client::start(config, storage).await?;
//!     clients.push(client);
//!     tokio::spawn(async move {
//!         while let Some(event) = events.next().await {
//!             println!("{name}: {event:?}");
//!         }
//!     });
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # A storage of one's own
//! [`SqliteStorage`] is for apps on a device, [`MemoryStorage`] for tests and for bots that may forget. An app with
//! a database of its own keeps the client's state there, in the same transaction as its own tables if it likes:
//!
//! ```
//! use tern_client::storage::{Record, State};
//! use tern_client::{Storage, StorageError};
//!
//! /// Everything in one row.
//! struct Row {
//!     state: State,
//! }
//!
//! impl Storage for Row {
//!     fn load(&mut self) -> Result<State, StorageError> {
//!         Ok(self.state.clone())
//!     }
//!
//!     fn append(&mut self, records: &[Record]) -> Result<(), StorageError> {
//!         records.iter().for_each(|record| self.state.apply(record));
//!         // `State::records` gives the fewest records that make it. What is vital has to be on the disk before this
//!         // returns: the message goes out right after.
//!         if records.iter().any(Record::is_vital) {
//!             write_and_sync(self.state.records()).map_err(|e| StorageError::Other(e.to_string()))?;
//!         }
//!         Ok(())
//!     }
//! }
//! # fn write_and_sync(_: impl Iterator<Item = Record>) -> std::io::Result<()> { Ok(()) }
//! # let mut row = Row { state: State::default() };
//! # row.append(&[Record::Base(tern_client::ClientSeq(7))]).unwrap();
//! # assert_eq!(row.load().unwrap().base.get(), 7);
//! ```
//!
//! # Features
//! `sqlite` (on by default): [`SqliteStorage`] and [`LocalHistory`]. SQLite is built along, which takes a C compiler.
//!
//! # Where things are
//! - [`Client`], [`Events`], [`Config`]: what an app uses. Its driver is one tokio task.
//! - [`machine`]: the protocol without I/O, for other runtimes and languages.
//! - [`storage`]: what a device must not forget.
//! - [`raw`]: bare connections for load generators and hostile tests.

mod client;
mod config;
mod driver;
mod error;
mod event;
pub mod machine;
mod networks;
mod race;
pub mod raw;
pub mod storage;

pub use client::{Client, Events, Pending};
pub use config::{Config, Token, TokenFuture, Transport};
pub use error::{ConnectError, Error, StartError};
pub use event::{ConnectionState, Event, Lost, Stop};
#[cfg(feature = "sqlite")]
pub use storage::{LocalConversation, LocalHistory, LostMessage, SqliteStorage, Unsent};
pub use storage::{MemoryStorage, Storage, StorageError};

pub use tern_protocol::error::{Effect, ErrorCode, Retry};
pub use tern_protocol::event::{
    ConversationPage, ConversationState, HistoryPage, MemberPage, ReceiptCount, ReceiptPage, ReceiptsMoved,
    SendOk, UserReceipt, WireError,
};
pub use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, Seq, StoreEpoch, UserId};
pub use tern_protocol::model::{Change, Entry, Kind, Message, Role, Target};
pub use tern_protocol::request::HistoryFrom;
