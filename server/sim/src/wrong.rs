//! Servers, nodes of a cluster, and a storage of the SDK, that are wrong on purpose, at least one for each promise that can be broken from outside of the code: what is
//! checked has to find them.

use bytes::Bytes;
use tern_check::Promise;
use tern_protocol::error::ErrorCode;
use tern_protocol::event::{ServerBody, ServerMessage, WireError};
use tern_protocol::ids::{ClientSeq, ConversationId, Seq};
use tern_protocol::model::{Change, Entry};
use tern_server::cluster::View;

use tern_check::random::Random;

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Wrong {
    /// Answers sends before they are stored.
    AcksBeforeItIsDurable,
    /// Shows one of many pushed messages with other contents.
    AltersPushes,
    /// Does not remember which sends it has stored.
    ForgetsWindows,
    /// Exchanges two entries of a log, at the end.
    ExchangesEntries,
    /// Says of one of many logs that it ends sooner.
    HidesHeads,
    /// Says of somebody that they have received and read more than they have.
    RaisesReceipts,
    /// Takes watermarks that are above the head.
    TakesFalseMarks,
    /// Pushes entries to people who are no members.
    TellsOutsiders,
    /// Says of a send that comes again that its number is something else's.
    DisownsSends,
    /// Says that a commit of unknown outcome had no effect.
    CallsUnknownFailed,
    /// Panics in the task of a connection.
    Panics,
    /// Not the server: a device whose app ends loses what was to be sent.
    LosesQueuedSends,
    /// A node tells nobody what another node has told it.
    DropsArrivals,
    /// A node does not tell homes who is connected to it.
    NeverRegisters,
    /// A node says that it has taken over what is still on its way: when the link breaks, nobody tells it again.
    ForgetsUntaken,
    /// A node takes no link for a new one but the first: it does not register its connections again, and does not look for
    /// what they have missed.
    NeverLooksAfterALink,
    /// A node does not look for what a dead one has not told.
    NeverLooksAfterADeath,
    /// A node believes that links which break go on.
    NeverSeesBrokenLinks,
    /// A node answers a forwarded send before the owner has committed it.
    AcksForOwners,
    /// A node asks again, as something new, what a broken link has left without an answer.
    SendsTwice,
    /// An owner whose commit conflicts with that of another one answers as if it had not.
    AcksConflicts,
    /// A node that does not reach the store goes on acknowledging.
    AcksWhileCutOff,
    /// A node says of sends whose answer was lost that they had no effect.
    CallsLostAnswersFailed,
}

impl Wrong {
    /// Those that one server alone can be.
    pub const ALONE: [Self; 12] = [
        Self::AcksBeforeItIsDurable,
        Self::AltersPushes,
        Self::ForgetsWindows,
        Self::DisownsSends,
        Self::ExchangesEntries,
        Self::HidesHeads,
        Self::RaisesReceipts,
        Self::TakesFalseMarks,
        Self::TellsOutsiders,
        Self::CallsUnknownFailed,
        Self::Panics,
        Self::LosesQueuedSends,
    ];
    /// Those of clusters.
    pub const CLUSTER: [Self; 11] = [
        Self::DropsArrivals,
        Self::NeverRegisters,
        Self::ForgetsUntaken,
        Self::NeverLooksAfterALink,
        Self::NeverLooksAfterADeath,
        Self::NeverSeesBrokenLinks,
        Self::AcksForOwners,
        Self::SendsTwice,
        Self::AcksConflicts,
        Self::AcksWhileCutOff,
        Self::CallsLostAnswersFailed,
    ];

    /// The promise that it breaks, perhaps among others. `None`: it panics.
    pub fn breaks(self) -> Option<Promise> {
        Some(match self {
            Self::AcksBeforeItIsDurable
            | Self::LosesQueuedSends
            | Self::AcksForOwners
            | Self::AcksConflicts
            | Self::AcksWhileCutOff => Promise::SentMeansSafe,
            Self::AltersPushes => Promise::DenseOrder,
            Self::ForgetsWindows | Self::DisownsSends | Self::SendsTwice => Promise::ExactlyOnce,
            Self::ExchangesEntries => Promise::RealTimeOrder,
            Self::HidesHeads
            | Self::DropsArrivals
            | Self::NeverRegisters
            | Self::ForgetsUntaken
            | Self::NeverLooksAfterALink
            | Self::NeverLooksAfterADeath
            | Self::NeverSeesBrokenLinks => Promise::GapFreeSync,
            Self::RaisesReceipts | Self::TakesFalseMarks => Promise::ReceiptsOnlyRise,
            Self::TellsOutsiders => Promise::MembershipCuts,
            Self::CallsUnknownFailed | Self::CallsLostAnswersFailed => Promise::UnknownIsNotFailed,
            Self::Panics => return None,
        })
    }

    /// What it makes of a frame on its way to a client.
    pub fn mangle(self, random: &mut Random, message: &mut ServerMessage) {
        match (self, &mut message.body) {
            (Self::AltersPushes, ServerBody::Push { entry, .. }) if random.chance(50) => {
                if let Change::Message(message) = &mut entry.change {
                    message.payload = Bytes::from_static(b"something else");
                }
            }
            (Self::RaisesReceipts, ServerBody::ReceiptsMoved(moved)) if random.chance(200) => {
                for receipt in &mut moved.users {
                    (receipt.delivered, receipt.read) = (receipt.delivered.next(), receipt.delivered.next());
                }
            }
            // Nothing else is refused so.
            (Self::TakesFalseMarks, ServerBody::Error(error)) if error.code == ErrorCode::InvalidArgument => {
                message.body = ServerBody::MarkOk;
            }
            (Self::CallsLostAnswersFailed, ServerBody::Error(error))
                if error.code == ErrorCode::OutcomeUnknown =>
            {
                error.code = ErrorCode::Unavailable;
            }
            (Self::DisownsSends, ServerBody::SendOk(ok)) if ok.duplicate => {
                let code = ErrorCode::ClientSeqUsed;
                let (text, client_seq) = (code.label().to_owned(), ClientSeq(0));
                message.body = ServerBody::Error(WireError { code, text, retry_after_ms: 0, client_seq });
            }
            _ => {}
        }
    }

    /// Whether it is found in what nodes say to each other.
    pub fn is_of_links(self) -> bool {
        matches!(
            self,
            Self::DropsArrivals
                | Self::NeverRegisters
                | Self::ForgetsUntaken
                | Self::AcksForOwners
                | Self::SendsTwice
        )
    }

    /// Whether it is found in what a node's shards are told of the cluster.
    pub fn is_of_views(self) -> bool {
        matches!(self, Self::NeverLooksAfterALink | Self::NeverLooksAfterADeath | Self::NeverSeesBrokenLinks)
    }

    /// What it makes of that.
    pub fn misjudge(self, view: &View) -> View {
        let mut view = view.clone();
        match self {
            Self::NeverLooksAfterADeath => view.departures = 0,
            Self::NeverLooksAfterALink => {
                view.peers.values_mut().for_each(|peer| peer.links = peer.links.min(1));
            }
            Self::NeverSeesBrokenLinks => {
                view.peers.values_mut().for_each(|peer| peer.is_up = peer.links > 0);
            }
            _ => {}
        }
        view
    }

    /// Whether it keeps a frame from a client: always the same logs.
    pub fn hides(self, message: &ServerMessage) -> bool {
        let hidden = |id: &ConversationId| id.as_bytes()[15].is_multiple_of(4);
        match &message.body {
            ServerBody::Push { conversation, .. } | ServerBody::HeadMoved { conversation, .. } => {
                self == Self::HidesHeads && hidden(conversation)
            }
            _ => false,
        }
    }

    /// Sync pages without what it hides.
    pub fn cut(self, message: &mut ServerMessage) {
        let hidden = |id: &ConversationId| id.as_bytes()[15].is_multiple_of(4);
        if let (Self::HidesHeads, ServerBody::SyncPage(page)) = (self, &mut message.body) {
            page.conversations.retain(|state| !hidden(&state.conversation));
        }
    }

    /// What it makes of a log.
    pub fn disorder(self, log: &mut [Entry]) {
        if self != Self::ExchangesEntries {
            return;
        }
        let Some(at) = log.len().checked_sub(2) else { return };
        log.swap(at, at + 1);
        (log[at].seq, log[at + 1].seq) = (Seq(at as u64 + 1), Seq(at as u64 + 2));
    }
}
