//! `spec/errors.md` is the table of `error.rs`, row by row.

use std::path::Path;

use tern_protocol::error::{Effect, ErrorCode, Retry};

#[test]
fn the_specification_has_the_same_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/errors.md");
    let text = std::fs::read_to_string(path).expect("spec/errors.md");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'))
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>())
        .filter(|cells| cells[0].parse::<u32>().is_ok())
        .collect();
    let ours = ErrorCode::ALL.iter().map(|&code| {
        let retry = match code.retry() {
            Retry::Never => "never",
            Retry::Later => "later",
            Retry::Reconnect => "reconnect",
        };
        let effect = match code.effect() {
            Effect::None => "none",
            Effect::Done => "done",
            Effect::Unknown => "unknown",
        };
        let closes = if code.closes() { "closes" } else { "stays" };
        [code.code().to_string(), format!("`{}`", code.label()), retry.into(), effect.into(), closes.into()]
    });
    let ours: Vec<_> = ours.collect();
    for (row, ours) in rows.iter().zip(&ours) {
        assert_eq!(&row[..5.min(row.len())], &ours[..], "number, label, retry, effect, connection");
        assert_eq!(row.len(), 7, "{row:?}");
        assert!(
            row[5..].iter().all(|cell| !cell.is_empty()),
            "{row:?}: when it comes, and what the client does"
        );
    }
    assert_eq!(rows.len(), ours.len(), "rows in spec/errors.md, codes in error.rs");
}

#[test]
fn the_table_is_sound() {
    let mut last = 0;
    for &code in ErrorCode::ALL {
        assert!(code.code() > last, "{code}: codes rise and 0 is none");
        last = code.code();
        assert_eq!(ErrorCode::from_code(code.code()), Some(code));
        assert!(code.label().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code}");
        // Only a new connection helps after one that is closed, and a connection that stays needs no new one.
        assert_eq!(code.retry() == Retry::Reconnect, code.closes() && code.retry() != Retry::Never, "{code}");
        // What may be tried again had no known effect, what had an effect is not to be tried again.
        assert!(code.effect() != Effect::Done || code.retry() == Retry::Never, "{code}");
        // What is unknown is found out by trying again, unless what would tell is gone.
        let gone = code == ErrorCode::DuplicateTrimmed;
        assert!(gone || code.effect() != Effect::Unknown || code.retry() == Retry::Later, "{code}");
    }
    assert_eq!(ErrorCode::from_code(0), None);
    assert_eq!(ErrorCode::from_code(last + 1), None);
    let mut labels: Vec<_> = ErrorCode::ALL.iter().map(|code| code.label()).collect();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), ErrorCode::ALL.len());
}
