//! The golden bytes in `spec/vectors/`: each file is what this code makes today, and each of its vectors holds in both
//! directions. The format is described in `spec/vectors/README.md`.
//!
//! After an intended change: `TERN_REGENERATE=1 cargo test -p tern-protocol --test vectors`, and read the difference.
//! Once version 1 is in use, the only legal difference is a new vector.

mod build;
mod frames;
mod ids;
mod json;
mod requests;
mod server;

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tern_protocol::convert::{
    decode_entry, encode_entry, encode_request, encode_server, parse_request, parse_server,
};
use tern_protocol::frame::{self, Frame};
use tern_protocol::ids::{ConversationId, UserId};
use tern_protocol::limits::{FRAME_BEFORE_LOGIN_BYTES_MAX, FRAME_BYTES_MAX};

use json::{hex, unhex};

fn spec() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec")
}

/// The committed vectors of one file, after a check that they are those of this code.
fn vectors(file: &str, fresh: Vec<Value>) -> Vec<Value> {
    let path = spec().join("vectors").join(file);
    // One vector a line, so that a difference shows which one changed.
    let lines: Vec<String> = fresh.iter().map(|v| format!("  {v}")).collect();
    let fresh = format!("[\n{}\n]\n", lines.join(",\n"));
    if std::env::var_os("TERN_REGENERATE").is_some() {
        std::fs::write(&path, &fresh).expect("spec/vectors is writable");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == fresh,
        "spec/vectors/{file} is not what this code makes: if the change is meant, run \
         TERN_REGENERATE=1 cargo test -p tern-protocol --test vectors"
    );
    let Value::Array(vectors) = serde_json::from_str(&committed).expect("a vector file is JSON") else {
        panic!("spec/vectors/{file} is not a list");
    };
    let mut names: Vec<&str> = vectors.iter().map(|v| text(v, "name")).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a name is used twice in {file}");
    vectors
}

fn text<'a>(vector: &'a Value, field: &str) -> &'a str {
    vector[field].as_str().unwrap_or_else(|| panic!("{vector}: no text in {field}"))
}

fn bytes(vector: &Value) -> Bytes {
    unhex(text(vector, "hex"))
}

/// The message of a vector that is exactly one frame.
fn message(vector: &Value) -> Bytes {
    let mut buf = BytesMut::from(&*bytes(vector));
    match frame::decode(&mut buf, FRAME_BYTES_MAX) {
        Ok(Some(Frame::Message(message))) if buf.is_empty() => message,
        other => panic!("{vector}: not one frame: {other:?}"),
    }
}

#[test]
fn ids_hold() {
    for v in vectors("ids.json", ids::cases()) {
        let id = text(&v, "id");
        match text(&v, "kind") {
            "user" => assert_eq!(UserId::from_sub(text(&v, "sub")).to_string(), id, "{v}"),
            "direct" => {
                let user = |field| text(&v, field).parse::<UserId>().expect("a user id");
                let (a, b) = (user("a"), user("b"));
                assert_eq!(ConversationId::direct(a, b).to_string(), id, "{v}");
                assert_eq!(ConversationId::direct(b, a).to_string(), id, "{v}");
            }
            "group" => {
                let random = <[u8; 16]>::try_from(&*unhex(text(&v, "random"))).expect("16 bytes");
                assert_eq!(ConversationId::group_from_random(random).to_string(), id, "{v}");
            }
            "is_group" => {
                let id: ConversationId = id.parse().expect("a conversation id");
                assert_eq!(v["is_group"], id.is_group(), "{v}");
            }
            other => panic!("unknown kind {other}"),
        }
    }
}

#[test]
fn frames_hold() {
    for v in vectors("frames.json", frames::cases()) {
        let max = match text(&v, "limit") {
            "before_login" => FRAME_BEFORE_LOGIN_BYTES_MAX,
            "after_login" => FRAME_BYTES_MAX,
            other => panic!("unknown limit {other}"),
        };
        for step in [1, 3, usize::MAX] {
            assert_eq!(frames::cut(&bytes(&v), max, step), v["expect"], "in steps of {step}: {v}");
        }
    }
}

#[test]
fn requests_hold() {
    for v in vectors("requests.json", requests::cases()) {
        match parse_request(message(&v)) {
            Ok(request) => {
                assert_eq!(json::request(&request), v["request"], "{v}");
                let again = encode_request(&request);
                assert_eq!(hex(&again) == text(&v, "hex"), v["canonical"] == true, "{v}");
                assert_eq!(parse_request(again.slice(prefix(&again)..)), Ok(request), "{v}");
            }
            Err(e) => assert_eq!(json::request_error(&e), v["error"], "{v}"),
        }
    }
}

#[test]
fn server_messages_hold() {
    for v in vectors("server.json", server::cases()) {
        match parse_server(message(&v)) {
            Ok(Some(parsed)) => {
                assert_eq!(json::server(&parsed), v["message"], "{v}");
                let again = encode_server(&parsed);
                assert_eq!(hex(&again) == text(&v, "hex"), v["canonical"] == true, "{v}");
                assert_eq!(parse_server(again.slice(prefix(&again)..)), Ok(Some(parsed)), "{v}");
            }
            Ok(None) => assert_eq!(v["skip"], true, "{v}"),
            Err(e) => assert_eq!(v["malformed"], e.what, "{v}"),
        }
    }
}

#[test]
fn entries_hold() {
    for v in vectors("entries.json", server::entry_cases()) {
        match decode_entry(bytes(&v)) {
            Ok(entry) => {
                assert_eq!(json::entry(&entry), v["entry"], "{v}");
                assert_eq!(hex(&encode_entry(&entry)) == text(&v, "hex"), v["canonical"] == true, "{v}");
            }
            Err(e) => assert_eq!(v["malformed"], e.what, "{v}"),
        }
    }
}

/// Every fenced block of `wire.md` that is marked "hex FILE NAME" holds the bytes of that vector; what follows a `#`
/// is a remark.
#[test]
fn examples_in_the_text_are_vectors() {
    let wire = std::fs::read_to_string(spec().join("wire.md")).expect("spec/wire.md");
    let mut found = 0;
    let mut lines = wire.lines();
    while let Some(line) = lines.next() {
        let Some(which) = line.strip_prefix("```hex ") else { continue };
        let (file, name) = which.split_once(' ').expect("```hex FILE NAME");
        let block: String = lines
            .by_ref()
            .take_while(|l| !l.starts_with("```"))
            .flat_map(|l| l.split('#').next().unwrap_or_default().split_whitespace())
            .collect();
        let vectors = std::fs::read_to_string(spec().join("vectors").join(file)).expect("the vector file");
        let vectors: Vec<Value> = serde_json::from_str(&vectors).expect("a vector file is JSON");
        let vector = vectors.iter().find(|v| v["name"] == name).unwrap_or_else(|| panic!("no vector {name}"));
        assert_eq!(block, text(vector, "hex"), "spec/wire.md, {name}");
        found += 1;
    }
    assert!(found >= 4, "only {found} examples found");
}

/// `wire.md` mentions every message, field and value of the schema.
#[test]
fn the_text_is_complete() {
    let wire = std::fs::read_to_string(spec().join("wire.md")).expect("spec/wire.md");
    let known: std::collections::BTreeSet<&str> =
        wire.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("tern.proto");
    let schema = std::fs::read_to_string(schema).expect("tern.proto");
    for line in schema.lines().map(|line| line.split("//").next().unwrap_or_default()) {
        let words: Vec<&str> = line.split([' ', '{', ';']).filter(|word| !word.is_empty()).collect();
        let name = match words[..] {
            ["message" | "enum", name] => name,
            [.., name, "=", number] if number.parse::<u32>().is_ok() => name,
            _ => continue,
        };
        assert!(known.contains(name), "spec/wire.md does not mention {name}: {line}");
    }
}

/// Every line `sub "X" -> ID`, `direct A B -> ID` and `group RANDOM -> ID` of `wire.md` is true.
#[test]
fn ids_in_the_text_are_true() {
    let wire = std::fs::read_to_string(spec().join("wire.md")).expect("spec/wire.md");
    let mut found = 0;
    for (left, right) in wire.lines().filter_map(|l| l.split_once(" -> ")) {
        let words: Vec<&str> = left.split_whitespace().collect();
        let id = match words[..] {
            ["sub", sub] => UserId::from_sub(sub.trim_matches('"')).to_string(),
            ["direct", a, b] => {
                ConversationId::direct(a.parse().expect("a user id"), b.parse().expect("a user id"))
                    .to_string()
            }
            ["group", random] => {
                let random = <[u8; 16]>::try_from(&*unhex(random)).expect("16 bytes");
                ConversationId::group_from_random(random).to_string()
            }
            _ => continue,
        };
        assert_eq!(right.trim(), id, "{left}");
        found += 1;
    }
    assert!(found >= 4, "only {found} examples found");
}

/// How many bytes of a frame are its length.
fn prefix(frame: &[u8]) -> usize {
    frame.iter().position(|b| b & 0x80 == 0).expect("a frame starts with a varint") + 1
}
