//! Every metric: name, type, labels, meaning. Names are never reused for something else.

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rises; begins at 0 with the process.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts by size: `_bucket`, `_sum`, `_count`.
    Histogram,
}

impl Kind {
    /// The name in the text format.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What kind of number.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

macro_rules! catalog {
    ($($ident:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $ident: Family =
                Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*

        /// All of them, in the order of the page.
        pub static ALL: &[&Family] = &[$(&$ident),*];
    };
}

catalog! {
    BUILD_INFO = Gauge "tern_build_info" ["version"]
        "1; the label is the program's version.";
    DRAINING = Gauge "tern_draining" []
        "1 while the server is stopping and takes nobody new, else 0.";
    RELOADS = Counter "tern_reloads_total" ["source", "result"]
        "Times that changed files, or published keys, were read again; after a failure the old ones stay in effect.";
    RESIDENT_MEMORY = Gauge "process_resident_memory_bytes" []
        "Memory of the process that is in RAM.";
    CPU_SECONDS = Counter "process_cpu_seconds_total" []
        "CPU time of the process, user and system.";
    OPEN_FILES = Gauge "process_open_fds" []
        "Open files and sockets; each TCP connection is one.";
    MAX_FILES = Gauge "process_max_fds" []
        "As many may be open.";
    START_TIME = Gauge "process_start_time_seconds" []
        "When the process started, seconds since 1970.";

    CONNECTIONS = Gauge "tern_connections" ["shard", "transport"]
        "Connections whose handshake is done.";
    SESSIONS = Gauge "tern_sessions" ["shard"]
        "Connections that are logged in.";
    HANDSHAKES = Counter "tern_handshakes_total" ["shard", "transport", "result"]
        "Handshakes by how they ended; QUIC clients who had to prove their address (retried) come again. Refused: too \
         many of that address had not logged in, or too many were shaking hands.";
    HANDSHAKES_PENDING = Gauge "tern_handshakes_pending" ["shard", "transport"]
        "Handshakes that are under way or wait for their turn.";
    ACCEPT_PAUSES = Counter "tern_accept_pauses_total" ["shard"]
        "Times that no TCP connection could be accepted, for lack of files for example.";
    LOGINS = Counter "tern_logins_total" ["result"]
        "Logins by how they ended; tern_errors_total says why they were refused.";
    CUTS = Counter "tern_cuts_total" ["reason"]
        "Connections given up without a word: the client took nothing for too long, lagged in too many conversations, \
         or the shard was full.";
    READ_BYTES = Counter "tern_read_bytes_total" ["shard"]
        "Bytes of frames from clients, without TLS and QUIC.";
    WRITTEN_BYTES = Counter "tern_written_bytes_total" ["shard"]
        "Bytes of frames to clients, without TLS and QUIC.";

    REQUESTS = Counter "tern_requests_total" ["shard", "kind"]
        "Requests taken up.";
    REQUEST_SECONDS = Histogram "tern_request_seconds" ["kind"]
        "From a request's arrival to its good answer; of a send, to SendOk.";
    SENDS = Counter "tern_sends_total" ["shard", "result"]
        "Answers to sends: stored, stored before (duplicate), refused.";
    ERRORS = Counter "tern_errors_total" ["code"]
        "Errors told to clients, by the code in spec/errors.md.";
    READ_PAUSES = Counter "tern_read_pauses_total" ["shard"]
        "Times that a connection was not read from for a while: its client had been told to wait (rate_limited), and \
         went on.";

    PUSHES = Counter "tern_pushes_total" ["shard"]
        "Entries queued for a connection.";
    PUSH_SECONDS = Histogram "tern_push_seconds" []
        "From an entry being durable to its being written to a recipient's connection; the oldest of a write counts.";
    RECEIPTS = Counter "tern_receipts_total" ["shard"]
        "Receipts queued for a connection.";
    DROPS = Counter "tern_drops_total" ["reason"]
        "Pushes and receipts dropped; clients are told the heads, and pull.";

    CONVERSATIONS = Gauge "tern_conversations" ["shard"]
        "Conversations held in memory by their owner.";
    LOADS = Counter "tern_loads_total" ["result"]
        "Conversations loaded from the store.";
    COMMITS = Counter "tern_commits_total" ["result"]
        "Batches of entries committed by the owners of conversations.";
    COMMIT_ENTRIES = Histogram "tern_commit_entries" []
        "Entries in a batch.";
    COMMIT_SECONDS = Histogram "tern_commit_seconds" []
        "From handing a batch to the store until it is durable.";

    WAITING_SENDS = Gauge "tern_waiting_sends" ["shard"]
        "Sends taken up and not answered yet.";
    WAITING_BYTES = Gauge "tern_waiting_bytes" []
        "What the requests that wait hold.";
    WAITING_BYTES_MAX = Gauge "tern_waiting_bytes_max" []
        "Beyond, requests are refused as overloaded.";
    MAILBOX_MESSAGES = Gauge "tern_mailbox_messages" ["shard", "lane"]
        "Places taken in a shard's mailbox.";
    MAILBOX_CAPACITY = Gauge "tern_mailbox_capacity" ["lane"]
        "Places in a shard's mailbox.";
    SHARD_BUSY = Counter "tern_shard_busy_seconds_total" ["shard"]
        "Time in which a shard's thread did not wait; its rate is the shard's load, 1 at most.";
    SHARD_TICK_AGE = Gauge "tern_shard_tick_age_seconds" ["shard"]
        "Since a shard last looked at its deadlines, every 50 ms.";
    QUIC_FORWARDED = Counter "tern_quic_forwarded_total" ["shard", "result"]
        "Datagrams that came to this shard and belonged to another: handed over, or dropped when that one did not keep \
         up.";

    CLUSTER_NODES = Gauge "tern_cluster_nodes" []
        "Nodes of the cluster that this one sees, itself among them; 1 without a cluster.";
    CLUSTER_LINKS_UP = Gauge "tern_cluster_links_up" []
        "Other nodes to which there is a link.";
    CLUSTER_SLOTS_OWNED = Gauge "tern_cluster_slots_owned" []
        "Slots of conversations and users that this node takes for its own, of 4,096.";
    CLUSTER_CUT_OFF = Gauge "tern_cluster_cut_off" []
        "1 while the node cannot reach the store for so long that it serves nobody, else 0.";
    CLUSTER_STORE_SILENT = Gauge "tern_cluster_store_silent" []
        "1 while the store answers neither this node nor any to which it has a link: clients stay, and are told to try \
         later; else 0.";
    CLUSTER_BEAT_AGE = Gauge "tern_cluster_beat_age_seconds" []
        "Since the node began the last beat that it has written to the store, one a second; 0 without a cluster.";
    CLUSTER_NODE_INFO = Gauge "tern_cluster_node_info" ["node", "name", "address", "versions", "this"]
        "1 for each node that this one sees, itself among them: its id, its name, where others reach it, the versions of \
         links that it speaks, and whether it is this one.";
    CLUSTER_NODE_STARTED = Gauge "tern_cluster_node_start_time_seconds" ["node"]
        "When a node started, seconds since 1970, by its own clock.";
    CLUSTER_NODE_DRAINING = Gauge "tern_cluster_node_draining" ["node"]
        "1 while a node is about to leave and owns nothing, else 0.";
    CLUSTER_NODE_BEAT_AGE = Gauge "tern_cluster_node_beat_age_seconds" ["node"]
        "Since this node has last seen the beat of a node move.";
    CLUSTER_NODE_SLOTS = Gauge "tern_cluster_node_slots" ["node"]
        "Slots that a node owns, as this one sees it, of 4,096.";
    CLUSTER_LINK_VERSION = Gauge "tern_cluster_link_version" ["peer"]
        "The version that the link to another node speaks; 0: there is no link.";
    CLUSTER_LINK_AGE = Gauge "tern_cluster_link_age_seconds" ["peer"]
        "Since there is a link to another node, or since there is none.";
    CLUSTER_LINK_ROUND_TRIP = Gauge "tern_cluster_link_round_trip_seconds" ["peer"]
        "There and back on a link, with what both programs add, measured once a second; NaN while it is not known.";
    CLUSTER_CALLS_FAILED = Counter "tern_cluster_calls_failed_total" ["peer"]
        "Calls of this node to another one that made no link; the log says why.";
    CLUSTER_REQUESTS = Gauge "tern_cluster_requests" ["peer"]
        "Requests for owners on another node that are not answered yet.";
    CLUSTER_NEWS = Gauge "tern_cluster_news" ["peer"]
        "News that another node has not taken over yet.";
    CLUSTER_NEWS_BYTES = Gauge "tern_cluster_news_bytes" ["peer"]
        "What they hold, 16 MiB at most; more become heads.";
    CLUSTER_NEWS_AGE = Gauge "tern_cluster_news_age_seconds" ["peer"]
        "How long the oldest of them waits; 0 when there are none.";
    CLUSTER_HEADS_BEHIND = Gauge "tern_cluster_heads_behind" ["peer"]
        "Heads that are to be told to another node for news for which there was no room or no link.";
    CLUSTER_NEWS_UNSENT = Counter "tern_cluster_news_unsent_total" ["shard"]
        "Entries for a node to which there was no link; it is told the heads when there is one.";
    CLUSTER_MARKS_KEPT = Gauge "tern_cluster_marks_kept" ["shard"]
        "Watermarks for which no client waits that another node has not persisted yet.";
    CLUSTER_RECHECKS = Gauge "tern_cluster_rechecks" ["shard"]
        "Users who may have missed something and for whom the store is to be asked.";

    STORE_COMMITS = Counter "tern_store_commits_total" ["result"]
        "Transactions with writes.";
    STORE_GROUP_COMMITS = Histogram "tern_store_group_commits" []
        "Transactions that share a sync.";
    STORE_WRITE_SECONDS = Histogram "tern_store_write_seconds" []
        "From beginning to write a group of transactions to its sync's end.";
    STORE_STALL = Gauge "tern_store_stall_seconds" []
        "For how long the group has been written that is being written now; 0 when none is.";
    STORE_WRITTEN_BYTES = Counter "tern_store_written_bytes_total" []
        "Keys and values written.";
    STORE_QUEUED = Gauge "tern_store_queued_commits" []
        "Transactions that wait for their group.";
    STORE_QUEUED_BYTES = Gauge "tern_store_queued_bytes" []
        "What they write.";
    STORE_DISK_BYTES = Gauge "tern_store_disk_bytes" []
        "Bytes of the store's files.";
    STORE_FREE_BYTES = Gauge "tern_store_free_bytes" []
        "Bytes free on their file system.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_prometheus_wants_them() {
        for (i, family) in ALL.iter().enumerate() {
            let name = family.name;
            assert!(ALL[..i].iter().all(|before| before.name != name), "{name} twice");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), family.kind == Kind::Counter, "{name}");
            assert!(family.help.ends_with('.') && !family.help.contains("  "), "{name}: {}", family.help);
        }
    }
}
