//! What figures are that say less than their names.

/// In words; `None`: the name says it.
pub(crate) fn meaning(name: &str) -> Option<&'static str> {
    Some(match name {
        "unsent" => "messages that were due and not sent: as many were unanswered as a session allows",
        "sent_late_p50_ms" | "sent_late_p99_ms" | "sent_late_max_ms" => {
            "from when a message was due until it was sent"
        }
        "acked_without_receipt" => "messages whose delivered receipt had not come when the run ended",
        "heads_moved" => "how often a slow client was told of a new head instead of being pushed the entry",
        "pulls" => "pages that clients asked for to fill gaps",
        "marks" => "how often recipients said \"delivered\" or \"read\"",
        "receipts" => "how often senders were told of that",
        "sends_forwarded" => "share of those whose sender is on another node than the conversation's owner",
        "deliveries_crossed" => "share of those to somebody on another node than the conversation's owner",
        "links_per_message" => "links between nodes that a message crosses: as a send, an answer and news",
        "more_us_per_message" => "server CPU above that of the first cluster, median of the rounds",
        _ => return None,
    })
}
