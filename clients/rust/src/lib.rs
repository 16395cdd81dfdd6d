//! Tern's Rust client.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tern_client::{Client, Config, Event, SqliteStorage, Message, Target, Token, UserId};
//!
//! let config = Config::new("chat.example.com:7443", std::fs::read("ca.pem")?, Token::Fixed("eyJ...".into()));
//! let (client, mut events) = Client::connect(config, SqliteStorage::open("alice.db")?).await?;
//! let hello = Message { content_type: "text/plain".into(), payload: "hello".into(), reply_to: None };
//! let ok = client.send(Target::User(UserId::from_sub("bob")), hello).await?;
//! println!("stored as {} of {}", ok.seq, ok.conversation);
//! while let Some(event) = events.next().await {
//!     if let Event::Entry { conversation, entry } = event {
//!         println!("{conversation} {}: {:?}", entry.seq, entry.change);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What it takes care of
//! - **A message is stored once**, however often the connection breaks or the app is killed: it is numbered and
//!   stored on the device before it goes out ([`Client::enqueue`]).
//! - **Every entry is handed over once, in order**, per conversation and as long as the app runs; after a crash the
//!   one that was being handled comes again ([`Events::next`]).
//! - **Being online**: reconnects with jittered waits, heeding the server's advice; finds dead links; asks the token
//!   source for a fresh token. It stops by itself only when trying again is useless ([`Stop`]).
//!
//! # Where things are
//! - [`Client`], [`Events`], [`Config`]: what an app uses. Its driver is one tokio task.
//! - [`machine`]: the protocol without I/O, for other runtimes and languages.
//! - [`storage`]: what a device must not forget, in memory, in SQLite or in the app's own database.
//! - [`raw`]: bare connections for load generators and hostile tests.

mod client;
mod config;
mod driver;
mod error;
mod event;
pub mod machine;
mod race;
pub mod raw;
pub mod storage;

pub use client::{Client, Events, Pending};
pub use config::{Config, Token, TokenFuture, Transport};
pub use error::{ConnectError, Error, StartError};
pub use event::{ConnectionState, Event, Lost, Stop};
#[cfg(feature = "sqlite")]
pub use storage::{LocalConversation, LocalHistory, SqliteStorage, Unsent};
pub use storage::{MemoryStorage, Storage, StorageError};

pub use tern_protocol::error::{Effect, ErrorCode, Retry};
pub use tern_protocol::event::{
    ConversationPage, ConversationState, HistoryPage, MemberPage, ReceiptCount, ReceiptPage, ReceiptsMoved,
    SendOk, UserReceipt, WireError,
};
pub use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, Seq, UserId};
pub use tern_protocol::model::{Change, Entry, Kind, Message, Role, Target};
pub use tern_protocol::request::HistoryFrom;
