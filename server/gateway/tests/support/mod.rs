//! The real server as a process of its own on a free port, and clients to talk to it.
#![allow(dead_code, unreachable_pub, reason = "every test binary uses a part of it")]

pub mod needs;
pub mod port;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use hyper::StatusCode;
use tern_client::Transport;
use tern_client::raw::{Connection, Connector, Received};
use tern_protocol::error::ErrorCode;
use tern_protocol::event::{
    ConversationState, HistoryPage, LoginOk, ReceiptPage, SendOk, ServerBody, ServerMessage, SyncPage,
    WireError,
};
use tern_protocol::ids::{ClientSeq, ConversationId, DeviceId, RequestId, Seq, UserId};
use tern_protocol::limits::{VERSION_MAX, VERSION_MIN};
use tern_protocol::model::{Change, Entry, Message, Role, Target};
use tern_protocol::request::{
    History, HistoryFrom, Known, ListConversations, ListUsers, Login, Mark, Request, RequestBody, Send, Sync,
};
use tern_server::admin::get;
use tern_server::auth::Minter;
use tern_server::clock;

/// Nothing that a test waits for takes this long, unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Both transports.
pub const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Quic];

/// A server process. Dropping it kills it.
pub struct Ternd {
    child: Child,
    /// Collects what it writes to standard error.
    errors: Option<std::thread::JoinHandle<String>>,
    /// Where it listens for TCP and QUIC.
    pub address: SocketAddr,
    /// Where it answers for metrics, health and readiness.
    pub admin: SocketAddr,
    /// Its data directory.
    pub data: PathBuf,
}

/// Runs a case over each transport, on a server of its own, which has to live until the end.
pub async fn over_each(case: impl AsyncFn(&mut Ternd, Transport)) {
    for transport in TRANSPORTS {
        eprintln!("over {transport:?}:");
        let data = tempfile::tempdir().expect("a temporary directory");
        let mut ternd = Ternd::start(data.path(), &Start::default());
        case(&mut ternd, transport).await;
        ternd.kill();
    }
}

/// How to start one.
#[derive(Debug, Clone)]
pub struct Start<'a> {
    /// Where it is to listen, and where it is again when it is started again.
    pub listen: SocketAddr,
    /// Where it answers for metrics: `None`, on a port that nobody knows.
    pub admin: Option<SocketAddr>,
    /// Threads.
    pub shards: usize,
    /// Environment, for example LD_PRELOAD.
    pub env: &'a [(&'a str, String)],
}

impl Default for Start<'_> {
    fn default() -> Self {
        Self { listen: port::lasting(), admin: None, shards: 2, env: &[] }
    }
}

impl Ternd {
    /// Starts `ternd dev` on a data directory and waits until it serves.
    pub fn start(data: &Path, start: &Start<'_>) -> Self {
        Self::try_start(data, start)
            .unwrap_or_else(|(status, stderr)| panic!("ternd ended: {status}\n{stderr}"))
    }

    /// The same, or its exit status and what it wrote to standard error.
    pub fn try_start(data: &Path, start: &Start<'_>) -> Result<Self, (ExitStatus, String)> {
        let child = spawn(data, start);
        let (address, admin, data) = (start.listen, start.listen, data.to_owned());
        let mut ternd = Self { child, errors: None, address, admin, data };
        let line = first_line(ternd.child.stdout.take().expect("piped"));
        let mut stderr = ternd.child.stderr.take().expect("piped");
        if line.is_empty() {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            return Err((ternd.wait(), text));
        }
        // What it logs from here on goes to the test's own output.
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let mut lines = BufReader::new(stderr).lines();
            while let Some(Ok(line)) = lines.next() {
                eprintln!("ternd: {line}");
                text += &line;
                text.push('\n');
            }
            text
        });
        let greeting: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
        let address = |of: &str| greeting[of].as_str().and_then(|a| a.parse().ok()).expect("an address");
        (ternd.admin, ternd.address) = (address("admin"), address("tcp"));
        assert_eq!(greeting["tcp"], greeting["quic"], "the same port for both");
        ternd.errors = Some(errors);
        Ok(ternd)
    }

    /// Starts it and kills it after this time, wherever it has got to by then.
    pub fn start_and_kill(data: &Path, start: &Start<'_>, after: Duration) {
        let mut child = spawn(data, start);
        std::thread::sleep(after);
        child.kill().expect("ternd can be killed");
        let status = child.wait().expect("ternd was started");
        if status.signal() != Some(libc::SIGKILL) {
            let mut text = String::new();
            let _ = child.stderr.take().expect("piped").read_to_string(&mut text);
            panic!("ternd had ended by itself: {status}\n{text}");
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) {
        self.child.kill().expect("ternd can be killed");
        let status = self.child.wait().expect("ternd was started");
        assert_eq!(status.signal(), Some(libc::SIGKILL), "ternd had ended by itself: {status}");
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("ternd was started")
    }

    /// Waits until it has ended by itself: how, and what it wrote to standard error.
    pub fn ended(mut self) -> (ExitStatus, String) {
        let status = self.wait();
        let errors = self.errors.take().expect("taken only here");
        (status, errors.join().expect("reading does not panic"))
    }

    /// The same, but it has to end within the patience; if it does not, it is killed.
    pub async fn ends(mut self) -> (ExitStatus, String) {
        let end = async {
            while self.is_alive() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, end).await.expect("it ends within the patience");
        self.ended()
    }

    /// Its memory.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Sends a signal.
    #[allow(unsafe_code)]
    pub fn signal(&mut self, signal: i32) {
        // SAFETY: kill(2) takes plain numbers, and the child has not been waited for, so the id is still its own.
        let result = unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        assert_eq!(result, 0, "ternd can be signalled");
    }

    /// Asks the admin listener for this path until it answers with this status, and returns what it says then.
    pub async fn answers(&self, path: &str, expected: StatusCode) -> String {
        let asking = async {
            loop {
                let (status, text) = get(self.admin, path).await.expect("the admin listener is there");
                if status == expected {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.expect("the status comes")
    }

    /// A token for a user, good for an hour.
    pub fn token(&self, user: &str) -> String {
        self.token_for(user, Duration::from_secs(3600))
    }

    /// A token with another lifetime.
    pub fn token_for(&self, user: &str, lifetime: Duration) -> String {
        let minter = Minter::load_or_create(&self.data).expect("ternd dev has made a key");
        minter.mint(user, lifetime, clock::wall()).expect("a good name")
    }

    /// The authority that the server's certificate comes from.
    pub fn ca(&self) -> Vec<u8> {
        std::fs::read(self.data.join("ca.pem")).expect("ternd dev has made a certificate")
    }

    /// Makes connections; each has a UDP socket of its own.
    pub fn connector(&self) -> Connector {
        Connector::new(&self.address.to_string(), None, &self.ca()).expect("a good address and certificate")
    }

    /// Ends it with this signal and starts it again on the same address and data.
    pub fn restart(&mut self, signal: i32) -> ExitStatus {
        self.signal(signal);
        let status = self.wait();
        *self = Self::start(&self.data.clone(), &Start { listen: self.address, ..Start::default() });
        status
    }

    /// Whether it has not ended.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("ternd was started").is_none()
    }

    /// A logged-in connection of a user's device.
    pub async fn login(&self, transport: Transport, user: &str, device: u64) -> Session {
        let connection = self.connector().connect(transport).await.expect("ternd accepts connections");
        Session::login(connection, &self.token(user), device).await.expect("the token is good")
    }
}

fn spawn(data: &Path, start: &Start<'_>) -> Child {
    Command::new(env!("CARGO_BIN_EXE_ternd"))
        .args(["dev", "--json", "--listen", &start.listen.to_string(), "--shards", &start.shards.to_string()])
        .arg("--data")
        .arg(data)
        .args(start.admin.map(|admin| format!("--admin={admin}")))
        .env("TERN_LOG", std::env::var("TERN_LOG").unwrap_or_else(|_| "warn".into()))
        .envs(start.env.iter().map(|(key, value)| (*key, value.as_str())))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ternd can be started")
}

/// Within the patience; empty when the process ends without one.
fn first_line(output: ChildStdout) -> String {
    let (said, line) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = said.send(BufReader::new(output).read_line(&mut line).map(|_| line));
    });
    let line = line.recv_timeout(PATIENCE).expect("ternd says something within the patience");
    line.expect("ternd's output can be read")
}

impl Drop for Ternd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A logged-in connection: asks and waits for the answer, keeping the events that come meanwhile.
pub struct Session {
    connection: Connection,
    /// What the login said.
    pub login: LoginOk,
    /// Events that came while answers were awaited.
    pub events: VecDeque<ServerBody>,
    requests: u64,
    /// Not answered yet.
    unanswered: std::collections::HashSet<RequestId>,
    /// Answers that came before they were awaited: answers may come in any order.
    answers: std::collections::HashMap<RequestId, Result<ServerBody, WireError>>,
    client_seqs: std::collections::HashMap<TargetKey, u64>,
}

type TargetKey = [u8; 16];

impl Session {
    /// Logs in on a fresh connection.
    pub async fn login(connection: Connection, token: &str, device: u64) -> Result<Self, WireError> {
        Self::try_login(connection, token, device).await.expect("a login or an error")
    }

    /// The same; `None` when the connection ends without an answer.
    pub async fn try_login(
        mut connection: Connection,
        token: &str,
        device: u64,
    ) -> Option<Result<Self, WireError>> {
        let login = RequestBody::Login(login_request(token, device));
        connection.send_request(&Request { id: RequestId(1), body: login }).await.ok()?;
        match next(&mut connection).await?.body {
            ServerBody::LoginOk(login) => Some(Ok(Self {
                connection,
                login,
                events: VecDeque::new(),
                requests: 1,
                unanswered: Default::default(),
                answers: Default::default(),
                client_seqs: Default::default(),
            })),
            ServerBody::Error(error) => Some(Err(error)),
            // To a connection that is not logged in yet, a server that stops.
            ServerBody::GoingAway { .. } => None,
            other => panic!("neither a login nor an error: {other:?}"),
        }
    }

    /// The user.
    pub fn user(&self) -> UserId {
        self.login.user
    }

    /// Asks for something and is answered.
    pub async fn is_served(&mut self) {
        let list = RequestBody::ListConversations(ListConversations { after: None, limit: 1 });
        assert!(self.ask(list).await.is_ok(), "the connection is served");
    }

    /// The connection, for bytes that no client should send.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// The connection alone; the login was its request 1.
    pub fn into_connection(self) -> Connection {
        assert!(self.requests == 1 && self.events.is_empty(), "fresh from the login");
        self.connection
    }

    /// Sends a request without waiting for its answer; returns its number.
    pub async fn request(&mut self, body: RequestBody) -> RequestId {
        self.try_request(body).await.expect("sent")
    }

    /// The same to a server that may have ended.
    pub async fn try_request(&mut self, body: RequestBody) -> std::io::Result<RequestId> {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.unanswered.insert(id);
        self.connection.send_request(&Request { id, body }).await.map(|()| id)
    }

    /// Asks and waits for the answer.
    pub async fn ask(&mut self, body: RequestBody) -> Result<ServerBody, WireError> {
        let id = self.request(body).await;
        self.answer(id).await
    }

    /// Whether the answer to a request has come before one that was awaited.
    pub fn is_answered(&self, id: RequestId) -> bool {
        self.answers.contains_key(&id)
    }

    /// Waits for the answer to a request.
    pub async fn answer(&mut self, id: RequestId) -> Result<ServerBody, WireError> {
        self.try_answer(id).await.expect("the connection is still open")
    }

    /// The same; `None` when the connection ends without one.
    pub async fn try_answer(&mut self, id: RequestId) -> Option<Result<ServerBody, WireError>> {
        loop {
            if let Some(answer) = self.answers.remove(&id) {
                return Some(answer);
            }
            let message = next(&mut self.connection).await?;
            let event = self.sort(message);
            self.events.extend(event);
        }
    }

    /// Keeps an answer for whoever awaits it, and gives an event back.
    fn sort(&mut self, message: ServerMessage) -> Option<ServerBody> {
        if message.id.get() == 0 {
            return Some(message.body);
        }
        assert!(self.unanswered.remove(&message.id), "an answer that nobody waits for: {message:?}");
        let answer = match message.body {
            ServerBody::Error(error) => Err(error),
            body => Ok(body),
        };
        self.answers.insert(message.id, answer);
        None
    }

    /// The next event; `None` when the server has closed the connection.
    pub async fn event(&mut self) -> Option<ServerBody> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        loop {
            let message = next(&mut self.connection).await?;
            if let Some(event) = self.sort(message) {
                return Some(event);
            }
        }
    }

    /// The next pushed entry; other events are dropped.
    pub async fn pushed(&mut self) -> (ConversationId, Entry) {
        loop {
            if let ServerBody::Push { conversation, entry } = self.event().await.expect("still connected") {
                return (conversation, entry);
            }
        }
    }

    /// The error with which the server closes the connection; other events are dropped.
    pub async fn closing_error(&mut self) -> ErrorCode {
        let mut code = None;
        while let Some(event) = self.event().await {
            if let ServerBody::Error(error) = event {
                code = Some(error.code);
            }
        }
        code.expect("an error before the end")
    }

    /// The number of this session's next send to a target. Sessions of the same device count on from each other only
    /// if the test says so with [`Session::count_from`].
    pub fn next_client_seq(&mut self, target: &Target) -> ClientSeq {
        let key = match target {
            Target::Conversation(id) => *id.as_bytes(),
            Target::User(id) => *ConversationId::direct(self.login.user, *id).as_bytes(),
        };
        let last = self.client_seqs.entry(key).or_insert(0);
        *last += 1;
        ClientSeq(*last)
    }

    /// The next send to this conversation gets the number after this one.
    pub fn count_from(&mut self, conversation: ConversationId, last: u64) {
        self.client_seqs.insert(*conversation.as_bytes(), last);
    }

    /// Sends a change and waits until it is stored.
    pub async fn send(&mut self, target: Target, change: Change) -> Result<SendOk, WireError> {
        let client_seq = self.next_client_seq(&target);
        self.send_as(target, client_seq, change).await
    }

    /// The same under a number of the test's choice.
    pub async fn send_as(
        &mut self,
        target: Target,
        client_seq: ClientSeq,
        change: Change,
    ) -> Result<SendOk, WireError> {
        match self.ask(RequestBody::Send(Send { target, client_seq, change })).await? {
            ServerBody::SendOk(ok) => Ok(ok),
            other => panic!("not the answer to a send: {other:?}"),
        }
    }

    /// Sends a text to a user.
    pub async fn text(&mut self, to: UserId, text: &str) -> Result<SendOk, WireError> {
        self.send(Target::User(to), message(text)).await
    }

    /// Raises watermarks and waits for the answer.
    pub async fn mark(
        &mut self,
        conversation: ConversationId,
        delivered: u64,
        read: u64,
    ) -> Result<(), WireError> {
        let mark = Mark { conversation, delivered: Seq(delivered), read: Seq(read) };
        match self.ask(RequestBody::Mark(vec![mark])).await? {
            ServerBody::MarkOk => Ok(()),
            other => panic!("not the answer to a mark: {other:?}"),
        }
    }

    /// Says watermarks for which it wants no answer.
    pub async fn mark_without_answer(&mut self, conversation: ConversationId, delivered: u64, read: u64) {
        let mark = Mark { conversation, delivered: Seq(delivered), read: Seq(read) };
        let request = Request { id: RequestId(0), body: RequestBody::Mark(vec![mark]) };
        self.connection.send_request(&request).await.expect("the connection is open");
    }

    /// The whole log of a conversation, from a seq, page by page.
    pub async fn log_from(
        &mut self,
        conversation: ConversationId,
        from: u64,
    ) -> Result<Vec<Entry>, WireError> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let from = HistoryFrom::Forward(entries.last().map_or(Seq(from), |e| e.seq.next()));
            match self.ask(RequestBody::History(History { conversation, from, limit: 0 })).await? {
                ServerBody::HistoryPage(page) if page.entries.is_empty() => return Ok(entries),
                ServerBody::HistoryPage(page) => entries.extend(page.entries),
                other => panic!("not the answer to a history request: {other:?}"),
            }
        }
    }

    /// The first event in which `wanted` finds something; others are dropped.
    pub async fn until<T>(&mut self, mut wanted: impl FnMut(&ServerBody) -> Option<T>) -> T {
        loop {
            let event = self.event().await.expect("still connected");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    }

    /// Changes a group, or sends to a conversation.
    pub async fn change(&mut self, to: ConversationId, change: Change) -> Result<SendOk, WireError> {
        self.send(Target::Conversation(to), change).await
    }

    /// Makes a group with these members besides oneself.
    pub async fn create(&mut self, group: ConversationId, title: &str, members: &[&str]) -> SendOk {
        let members = members.iter().map(|name| user(name)).collect();
        self.change(group, Change::Create { title: title.to_owned(), members }).await.expect("created")
    }

    /// A page of a log.
    pub async fn history(
        &mut self,
        conversation: ConversationId,
        from: HistoryFrom,
        limit: u32,
    ) -> Result<HistoryPage, WireError> {
        match self.ask(RequestBody::History(History { conversation, from, limit })).await? {
            ServerBody::HistoryPage(page) => Ok(page),
            other => panic!("not the answer to a history request: {other:?}"),
        }
    }

    /// A page of what happened since.
    pub async fn sync(&mut self, request: RequestBody) -> SyncPage {
        match self.ask(request).await.expect("a good request") {
            ServerBody::SyncPage(page) => page,
            other => panic!("not the answer to a sync: {other:?}"),
        }
    }

    /// The whole conversation list, in pages of at most `limit`.
    pub async fn conversations(&mut self, limit: u32) -> Vec<ConversationState> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let list = RequestBody::ListConversations(ListConversations { after, limit });
            let ServerBody::ConversationPage(page) = self.ask(list).await.expect("a good request") else {
                panic!("not the answer to a list request");
            };
            assert!(limit == 0 || page.conversations.len() <= limit as usize, "a page within its limit");
            all.extend(page.conversations);
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    }

    /// A conversation's line in the list.
    pub async fn line(&mut self, conversation: ConversationId) -> ConversationState {
        self.line_or_none(conversation).await.expect("in the list")
    }

    /// The same, if there is one.
    pub async fn line_or_none(&mut self, conversation: ConversationId) -> Option<ConversationState> {
        self.conversations(0).await.into_iter().find(|state| state.conversation == conversation)
    }

    /// All members, in pages of at most `limit`.
    pub async fn members(
        &mut self,
        conversation: ConversationId,
        limit: u32,
    ) -> Result<Vec<(UserId, Role, Seq)>, WireError> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let list = RequestBody::ListMembers(ListUsers { conversation, after, limit });
            let ServerBody::MemberPage(page) = self.ask(list).await? else {
                panic!("not the answer to a list request");
            };
            assert!(limit == 0 || page.members.len() <= limit as usize, "a page within its limit");
            all.extend(page.members);
            after = page.next;
            if after.is_none() {
                assert_eq!(page.count as usize, all.len());
                return Ok(all);
            }
        }
    }

    /// A page of the members' watermarks.
    pub async fn receipts(
        &mut self,
        conversation: ConversationId,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<ReceiptPage, WireError> {
        match self.ask(RequestBody::ListReceipts(ListUsers { conversation, after, limit })).await? {
            ServerBody::ReceiptPage(page) => Ok(page),
            other => panic!("not the answer to a list request: {other:?}"),
        }
    }

    /// Closes it as a client should.
    pub async fn close(self) {
        self.connection.close().await;
    }
}

/// The next message; heartbeats are skipped; `None` at the end of the stream, however it ended.
pub async fn next(connection: &mut Connection) -> Option<ServerMessage> {
    loop {
        let received =
            tokio::time::timeout(PATIENCE, connection.recv()).await.expect("something within the patience");
        match received {
            Ok(Received::Message(message)) => return Some(message),
            Ok(Received::Heartbeat) => {}
            Ok(Received::Closed) | Err(_) => return None,
        }
    }
}

/// A login as every client of this version sends it.
pub fn login_request(token: &str, device: u64) -> Login {
    Login {
        token: token.to_owned(),
        device: DeviceId::new(device).expect("not 0"),
        versions: (VERSION_MIN, VERSION_MAX),
        features: vec![],
        client: "tests".to_owned(),
    }
}

/// A text message.
pub fn message(text: &str) -> Change {
    Change::Message(Message {
        content_type: "text/plain".to_owned(),
        payload: text.to_owned().into(),
        reply_to: None,
    })
}

/// The text of a message.
pub fn text(entry: &Entry) -> &str {
    match &entry.change {
        Change::Message(message) => std::str::from_utf8(&message.payload).expect("text"),
        other => panic!("not a message: {other:?}"),
    }
}

/// A sync of a device that has these.
pub fn sync(known: &[(ConversationId, u64)]) -> RequestBody {
    let mut known: Vec<_> = known.iter().map(|(id, seq)| Known::entries(*id, Seq(*seq))).collect();
    known.sort_by_key(|known| known.conversation);
    RequestBody::Sync(Sync { known, after: None, until: None, latest: None })
}

/// A user's id.
pub fn user(name: &str) -> UserId {
    UserId::from_sub(name)
}

/// The id of a test's n-th group.
pub fn group(n: u64) -> ConversationId {
    let mut random = [0x5a; 16];
    random[8..].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    ConversationId::group_from_random(random)
}

/// The code of what should have been refused.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, WireError>) -> ErrorCode {
    result.expect_err("refused").code
}

/// The texts of messages.
pub fn texts(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(text).collect()
}

/// The seqs of entries.
pub fn seqs(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq.get()).collect()
}
