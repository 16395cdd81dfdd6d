//! What was being written when the application ended, kept in a file of its own.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::model::Model;
use crate::file;

/// Kept: those of the conversations in which something happened last.
const DRAFTS_MAX: usize = 100;
/// All of them together.
const BYTES_MAX: usize = 1 << 20;
/// Line breaks and quotes take two bytes in the file, an id 40.
const FILE_BYTES_MAX: u64 = (2 * BYTES_MAX + DRAFTS_MAX * 100) as u64;

/// Puts what was being written into the edit lines. A file that makes no sense is as good as none.
pub(super) fn load(path: &Path, model: &mut Model) {
    let text = file::read(path, FILE_BYTES_MAX).ok().flatten().unwrap_or_default();
    let drafts: BTreeMap<String, String> = serde_json::from_str(&text).unwrap_or_default();
    for (id, text) in drafts.into_iter().take(DRAFTS_MAX) {
        let Ok(id) = id.parse() else { continue };
        let peer = model.peer(id);
        // To whom could it be sent?
        if !model.conversations.contains_key(&id) && peer.is_none() {
            continue;
        }
        if let Some(c) = model.conversation(id) {
            c.peer = c.peer.or(peer);
            // One that is too long is not of this application.
            let _ = c.input.insert(&text);
        }
    }
    model.sort();
}

/// Keeps what is in the edit lines.
///
/// # Errors
/// When it cannot be written.
pub(super) fn save(path: &Path, model: &Model) -> io::Result<()> {
    let mut room = BYTES_MAX;
    let open = model.order.iter().filter_map(|id| Some((id, model.conversations.get(id)?.input.text())));
    let drafts: BTreeMap<_, _> = open
        .filter(|(_, text)| !text.trim().is_empty())
        .filter(|(_, text)| {
            let left = room.checked_sub(text.len());
            room = left.unwrap_or(room);
            left.is_some()
        })
        .take(DRAFTS_MAX)
        .map(|(id, text)| (id.to_string(), text))
        .collect();
    if drafts.is_empty() && !path.exists() {
        return Ok(());
    }
    file::replace(path, &serde_json::to_string(&drafts)?)
}
