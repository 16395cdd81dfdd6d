//! Ids: how they are computed.

use serde_json::{Value, json};
use tern_protocol::ids::{ConversationId, UserId};

use crate::build::{direct, group, user};
use crate::json::hex;

pub(crate) fn cases() -> Vec<Value> {
    let mut cases = Vec::new();
    let subs = [
        ("ascii", "alice"),
        ("ascii-2", "bob"),
        ("one-byte", "a"),
        ("case-matters", "Alice"),
        ("space-matters", "alice "),
        ("empty", ""),
        ("number", "42"),
        ("mail", "alice@example.com"),
        ("utf-8", "Žofie 🐦"),
        ("not-normalised", "e\u{301}"),
        ("normalised", "\u{e9}"),
        ("issuer-and-number", "auth0|5f7c8ec7c33c6c004bbafe82"),
    ];
    for (name, sub) in subs {
        cases.push(
            json!({"name": format!("user-{name}"), "kind": "user", "sub": sub, "id": user(sub).to_string()}),
        );
    }
    let long = "x".repeat(256);
    cases.push(json!({"name": "user-256-bytes", "kind": "user", "sub": long, "id": user(&long).to_string()}));

    let raw = |n| UserId::from_bytes([n; 16]);
    let pairs = [
        ("alice-bob", user("alice"), user("bob")),
        ("bob-alice", user("bob"), user("alice")),
        ("with-oneself", user("alice"), user("alice")),
        ("lowest-highest", raw(0), raw(0xff)),
        ("signed-bytes", raw(0x7f), raw(0x80)),
    ];
    for (name, a, b) in pairs {
        cases.push(json!({
            "name": format!("direct-{name}"), "kind": "direct", "a": a.to_string(), "b": b.to_string(),
            "id": ConversationId::direct(a, b).to_string(),
        }));
    }
    let counting: [u8; 16] = core::array::from_fn(|i| i as u8);
    for (name, random) in [("zeros", [0; 16]), ("ones", [0xff; 16]), ("counting", counting)] {
        cases.push(json!({
            "name": format!("group-{name}"), "kind": "group", "random": hex(&random),
            "id": ConversationId::group_from_random(random).to_string(),
        }));
    }
    let text = |t: &str| t.parse::<ConversationId>().expect("a UUID");
    let kinds = [
        ("group", group(7)),
        ("direct", direct()),
        ("nil", ConversationId::from_bytes([0; 16])),
        ("all-ones", ConversationId::from_bytes([0xff; 16])),
        ("version-1", text("00000000-0000-1000-8000-000000000000")),
        ("version-4-lowest", text("00000000-0000-4000-8000-000000000000")),
        ("version-4-highest", text("ffffffff-ffff-4fff-bfff-ffffffffffff")),
        ("version-4-ncs-variant", text("00000000-0000-4000-7fff-000000000000")),
        ("version-4-microsoft-variant", text("00000000-0000-4000-c000-000000000000")),
        ("version-5", ConversationId::from_bytes(*user("alice").as_bytes())),
        ("version-8", text("00000000-0000-8000-8000-000000000000")),
    ];
    for (name, id) in kinds {
        cases.push(json!({
            "name": format!("is-group-{name}"), "kind": "is_group", "id": id.to_string(), "is_group": id.is_group(),
        }));
    }
    cases
}
