//! What a server has confirmed and its restored store has no more.
//!
//! When logs are forgotten, this device's own messages in them are put aside; each that the new log turns out to have is
//! taken out again, and so is what was before the point from which the new log is got: of those nothing is known.

use rusqlite::params;
use tern_protocol::ids::ConversationId;
use tern_protocol::model::{Change, Entry};

use super::{Step, blob};

/// Messages kept; of more, those that were sent last.
const LOST_MAX: usize = 256;

impl Step<'_> {
    /// Forgets the entries of one log or of all; of all, also how they stand.
    pub(super) fn forget(&mut self, conversation: Option<&ConversationId>) -> rusqlite::Result<()> {
        self.put_aside(conversation)?;
        match conversation {
            Some(id) => {
                let sql = "SELECT sum(bytes) FROM entries WHERE conversation = ?";
                let bytes: Option<i64> =
                    self.transaction.prepare_cached(sql)?.query_row([id.as_bytes()], |row| row.get(0))?;
                self.history_bytes -= bytes.unwrap_or_default();
                self.run("DELETE FROM entries WHERE conversation = ?", [id.as_bytes()])?;
                self.run("UPDATE conversations SET last_seq = 0 WHERE id = ?", [id.as_bytes()])?;
            }
            None => {
                self.history_bytes = 0;
                self.run("DELETE FROM entries", [])?;
                // With whom a direct chat is, its id says for ever.
                let sql = "UPDATE conversations SET listed = 0, title = '', role = NULL, last_seq = 0,
                           last_time = 0";
                self.run(sql, [])?;
            }
        }
        Ok(())
    }

    fn put_aside(&mut self, conversation: Option<&ConversationId>) -> rusqlite::Result<()> {
        let (device, user) = (self.device, self.user);
        let sql = "SELECT conversation, seq, entry FROM entries WHERE ?1 IS NULL OR conversation = ?1
                   ORDER BY rowid DESC";
        let mut statement = self.transaction.prepare_cached(sql)?;
        let mut rows = statement.query([conversation.map(ConversationId::as_bytes)])?;
        let mut own = Vec::new();
        while let Some(row) = rows.next()?
            && own.len() < LOST_MAX
        {
            let Some(entry) = blob::to_entry(row.get_ref(2)?.as_blob()?) else { continue };
            let is_own = Some(entry.sender.user) == user && Some(entry.sender.device) == device;
            if is_own && matches!(entry.change, Change::Message(_)) {
                own.push((row.get::<_, [u8; 16]>(0)?, entry));
            }
        }
        for (id, entry) in own.into_iter().rev() {
            let id = ConversationId::from_bytes(id);
            let (number, seq) = (entry.client_seq.get() as i64, entry.seq.get() as i64);
            let sql =
                "INSERT OR REPLACE INTO lost (conversation, client_seq, seq, entry) VALUES (?, ?, ?, ?)";
            self.run(sql, params![id.as_bytes(), number, seq, blob::of_entry(id, entry)])?;
        }
        let sql =
            "DELETE FROM lost WHERE rowid <= (SELECT rowid FROM lost ORDER BY rowid DESC LIMIT 1 OFFSET ?)";
        self.run(sql, [LOST_MAX as i64]).map(drop)
    }

    /// The log has this entry.
    pub(super) fn found(&self, id: &ConversationId, entry: &Entry) -> rusqlite::Result<()> {
        // A log is got from its end on, or from where it begins: what is before its first entry is not known.
        let sql = "DELETE FROM lost WHERE conversation = ?1 AND (?4 AND client_seq = ?3
                   OR seq < ?2 AND (SELECT last_seq FROM conversations WHERE id = ?1) = 0)";
        let is_own = Some(entry.sender.user) == self.user && Some(entry.sender.device) == self.device;
        let (seq, number) = (entry.seq.get() as i64, entry.client_seq.get() as i64);
        self.run(sql, params![id.as_bytes(), seq, number, is_own]).map(drop)
    }
}
