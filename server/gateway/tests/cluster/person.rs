//! A user with a device, who talks, goes on elsewhere when a node sends them away, and remembers all that was told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tern_client::Transport;
use tern_client::raw::Connector;
use tern_protocol::error::Retry;
use tern_protocol::event::{SendOk, ServerBody, WireError};
use tern_protocol::ids::{ClientSeq, ConversationId, Seq, UserId};
use tern_protocol::model::{Change, Entry, Target};
use tern_protocol::request::{History, HistoryFrom, RequestBody, Send};

use crate::nodes::{Cluster, Node};
use crate::support::{PATIENCE, Session, message, sync, text, user};

/// Between two tries of what has been refused for now.
pub(crate) const AGAIN: Duration = Duration::from_millis(20);

/// How often they were told in which way.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    /// An entry itself.
    pub(crate) pushes: usize,
    /// An entry that was there already.
    pub(crate) again: usize,
    /// Only that there is something.
    pub(crate) heads: usize,
    /// Logins after the first.
    pub(crate) logins: usize,
}

pub(crate) struct Person<'a> {
    cluster: &'a Cluster,
    name: String,
    device: u64,
    transport: Transport,
    address: SocketAddr,
    pub(crate) session: Session,
    /// The logs as far as they are known, from seq 1 on without a gap.
    pub(crate) logs: BTreeMap<ConversationId, Vec<Entry>>,
    pub(crate) told: Told,
    client_seqs: BTreeMap<ConversationId, u64>,
}

impl<'a> Person<'a> {
    /// Logs in on a node.
    pub(crate) async fn on(cluster: &'a Cluster, node: &Node, name: &str, device: u64) -> Self {
        let transport = if device.is_multiple_of(2) { Transport::Quic } else { Transport::Tcp };
        let address = node.address;
        let session = login(cluster, address, transport, name, device).await.expect("let in");
        let (logs, client_seqs) = (BTreeMap::new(), BTreeMap::new());
        let (name, told) = (name.to_owned(), Told::default());
        Self { cluster, name, device, transport, address, session, logs, told, client_seqs }
    }

    pub(crate) fn user(&self) -> UserId {
        user(&self.name)
    }

    /// Logs in again, on this node; returns the connection before, as it was.
    pub(crate) async fn moves_to(&mut self, node: &Node) -> Session {
        self.address = node.address;
        let session = login(self.cluster, node.address, self.transport, &self.name, self.device).await;
        self.begins(session.expect("let in")).await
    }

    /// Logs in again wherever somebody lets them in, beginning with the next node.
    pub(crate) async fn goes_on_elsewhere(&mut self) {
        let trying = async {
            loop {
                self.address = self.cluster.address_after(self.address);
                match login(self.cluster, self.address, self.transport, &self.name, self.device).await {
                    Some(session) => return session,
                    None => tokio::time::sleep(AGAIN).await,
                }
            }
        };
        let session = tokio::time::timeout(PATIENCE, trying).await.expect("somebody lets them in");
        self.begins(session).await;
    }

    /// What was missed meanwhile is pulled, as every client does.
    async fn begins(&mut self, session: Session) -> Session {
        let before = std::mem::replace(&mut self.session, session);
        self.told.logins += 1;
        let known: Vec<_> = self.logs.iter().map(|(id, log)| (*id, log.len() as u64)).collect();
        if let Ok(id) = self.session.try_request(sync(&known)).await
            && let Some(Ok(ServerBody::SyncPage(page))) = self.session.try_answer(id).await
        {
            for line in page.conversations {
                if line.head.get() > self.known(line.conversation) {
                    self.pulls(line.conversation).await;
                }
            }
        }
        before
    }

    /// Says something, again and again under the same number, until it is stored.
    pub(crate) async fn says(&mut self, to: ConversationId, words: &str) -> SendOk {
        self.does(Target::Conversation(to), to, message(words)).await
    }

    /// The same in a chat of two.
    pub(crate) async fn tells(&mut self, peer: UserId, words: &str) -> SendOk {
        self.does(Target::User(peer), ConversationId::direct(self.user(), peer), message(words)).await
    }

    /// Makes a group.
    pub(crate) async fn makes(&mut self, group: ConversationId, members: &[&str]) -> SendOk {
        let members = members.iter().map(|name| user(name)).collect();
        let create = Change::Create { title: "a group".into(), members };
        self.does(Target::Conversation(group), group, create).await
    }

    async fn does(&mut self, target: Target, conversation: ConversationId, change: Change) -> SendOk {
        let last = self.client_seqs.entry(conversation).or_default();
        *last += 1;
        let client_seq = ClientSeq(*last);
        let trying = async {
            loop {
                match self.tries(target, client_seq, change.clone()).await {
                    Some(Ok(ok)) => return ok,
                    Some(Err(error)) => {
                        assert_ne!(error.code.retry(), Retry::Never, "{}: {error:?}", self.name);
                        tokio::time::sleep(AGAIN).await;
                    }
                    None => self.goes_on_elsewhere().await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, trying).await.expect("stored within the patience")
    }

    /// Sends once; `None`: the connection has ended before there was an answer.
    pub(crate) async fn tries(
        &mut self,
        target: Target,
        client_seq: ClientSeq,
        change: Change,
    ) -> Option<Result<SendOk, WireError>> {
        let send = RequestBody::Send(Send { target, client_seq, change });
        let id = self.session.try_request(send).await.ok()?;
        match self.session.try_answer(id).await? {
            Ok(ServerBody::SendOk(ok)) => Some(Ok(ok)),
            Ok(other) => panic!("not the answer to a send: {other:?}"),
            Err(error) => Some(Err(error)),
        }
    }

    /// Waits until the log is known up to there. It is asked for only when something was told, so what nobody tells is
    /// never known.
    pub(crate) async fn hears(&mut self, conversation: ConversationId, head: Seq) {
        let hearing = async {
            while self.known(conversation) < head.get() {
                let event = self.session.event().await.expect("still connected");
                match event {
                    ServerBody::Push { conversation, entry } => {
                        let next = self.known(conversation) + 1;
                        match entry.seq.get() {
                            seq if seq > next => self.pulls(conversation).await,
                            _ => self.is_pushed(conversation, entry),
                        }
                    }
                    ServerBody::HeadMoved { conversation, head } => {
                        self.told.heads += 1;
                        if head.get() > self.known(conversation) {
                            self.pulls(conversation).await;
                        }
                    }
                    _ => {}
                }
            }
        };
        let heard = tokio::time::timeout(PATIENCE, hearing).await;
        assert!(heard.is_ok(), "{} is not told of {conversation} up to {head:?}", self.name);
    }

    fn known(&self, conversation: ConversationId) -> u64 {
        self.logs.get(&conversation).map_or(0, |log| log.len() as u64)
    }

    /// Asks for what is not known yet, as long as the connection lives.
    async fn pulls(&mut self, conversation: ConversationId) {
        loop {
            let from = HistoryFrom::Forward(Seq(self.known(conversation) + 1));
            let request = RequestBody::History(History { conversation, from, limit: 0 });
            let Ok(id) = self.session.try_request(request).await else { return };
            match self.session.try_answer(id).await {
                Some(Ok(ServerBody::HistoryPage(page))) if page.entries.is_empty() => return,
                Some(Ok(ServerBody::HistoryPage(page))) => {
                    page.entries.into_iter().for_each(|entry| self.learns(conversation, entry));
                }
                Some(Err(error)) if error.code.retry() != Retry::Never => tokio::time::sleep(AGAIN).await,
                Some(other) => panic!("not the answer to a history request: {other:?}"),
                None => return,
            }
        }
    }

    fn is_pushed(&mut self, conversation: ConversationId, entry: Entry) {
        let known = self.known(conversation);
        self.told.pushes += usize::from(entry.seq.get() > known);
        self.told.again += usize::from(entry.seq.get() <= known);
        self.learns(conversation, entry);
    }

    fn learns(&mut self, conversation: ConversationId, entry: Entry) {
        let log = self.logs.entry(conversation).or_default();
        let seq = entry.seq.get() as usize;
        match log.get(seq - 1) {
            Some(known) => assert_eq!(*known, entry, "everybody is told the same, always"),
            None => {
                assert_eq!(seq, log.len() + 1, "no gaps");
                log.push(entry);
            }
        }
    }

    /// The messages of a log, as it is in the store.
    pub(crate) async fn reads(&mut self, conversation: ConversationId) -> Vec<String> {
        let log = self.session.log_from(conversation, 1).await.expect("a member");
        let messages = log.iter().filter(|entry| matches!(entry.change, Change::Message(_)));
        messages.map(|entry| text(entry).to_owned()).collect()
    }
}

/// `None`: not here, for now.
async fn login(
    cluster: &Cluster,
    address: SocketAddr,
    transport: Transport,
    name: &str,
    device: u64,
) -> Option<Session> {
    let connector = Connector::new(&address.to_string(), None, &cluster.ca()).expect("a good address");
    let connection = connector.connect(transport).await.ok()?;
    Session::try_login(connection, &cluster.token(name), device).await?.ok()
}

/// Everybody has been told the same log, up to this head.
pub(crate) fn same_logs(people: &[&Person<'_>], conversation: ConversationId, head: Seq) {
    for person in people {
        assert_eq!(person.logs[&conversation].len() as u64, head.get(), "{}", person.name);
        assert_eq!(person.logs[&conversation], people[0].logs[&conversation], "{}", person.name);
    }
}
