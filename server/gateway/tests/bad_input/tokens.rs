//! Tokens that are not good, built by hand.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use tern_protocol::error::ErrorCode;
use tern_server::auth::Minter;
use tern_server::clock;

use crate::jwt::{base64, signed, unsigned};
use crate::support::{PATIENCE, Session, Ternd, over_each, user};
use crate::{connect, is_well};

/// Name, token, what is said to it.
fn cases(ternd: &Ternd) -> Vec<(&'static str, String, ErrorCode)> {
    use ErrorCode::{TokenExpired, TokenInvalid};
    let now = clock::wall().0 / 1_000;
    let good = ternd.token("alice");
    let parts: Vec<&str> = good.split('.').collect();
    let header: Value = {
        let bytes = URL_SAFE_NO_PAD.decode(parts[0]).expect("base64");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    let kid = header["kid"].clone();
    let claims = json!({ "sub": "alice", "exp": now + 3_600 });
    let pem = |file: &str| std::fs::read(ternd.data.join(file)).expect("ternd dev has made a key");
    let own = EncodingKey::from_ed_pem(&pem("token.key")).expect("an Ed25519 key");
    let eddsa = |claims: Value| signed(&header, &claims, Algorithm::EdDSA, &own);
    let with = |change: Value| {
        let mut claims = claims.clone();
        for (key, value) in change.as_object().expect("an object") {
            claims[key] = value.clone();
        }
        eddsa(claims)
    };
    let without = |key: &str| {
        let mut claims = claims.clone();
        claims.as_object_mut().expect("an object").remove(key);
        eddsa(claims)
    };
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let other = Minter::load_or_create(elsewhere.path()).expect("a new key");
    let other_key = std::fs::read(elsewhere.path().join("token.key")).expect("a new key");
    let other_key = EncodingKey::from_ed_pem(&other_key).expect("an Ed25519 key");
    let public = EncodingKey::from_secret(&pem("token.pub"));
    let hs256 = json!({ "alg": "HS256", "typ": "JWT", "kid": kid });
    let none = |alg: &str| unsigned(&json!({ "alg": alg, "kid": kid }), &claims) + ".";
    let other_claims = base64(json!({ "sub": "bob", "exp": now + 3_600 }).to_string());
    let mut bent = parts[2].to_owned();
    bent.replace_range(10..11, if &bent[10..11] == "A" { "B" } else { "A" });
    vec![
        ("no token at all", "x".into(), TokenInvalid),
        ("three empty parts", "..".into(), TokenInvalid),
        ("two parts", parts[..2].join("."), TokenInvalid),
        ("four parts", format!("{good}.AAAA"), TokenInvalid),
        ("no base64", format!("{}.{}.!!!", parts[0], parts[1]), TokenInvalid),
        ("the claims of another", format!("{}.{other_claims}.{}", parts[0], parts[2]), TokenInvalid),
        ("a bent signature", format!("{}.{}.{bent}", parts[0], parts[1]), TokenInvalid),
        ("no signature", format!("{}.{}.", parts[0], parts[1]), TokenInvalid),
        ("alg none", none("none"), TokenInvalid),
        ("alg None", none("None"), TokenInvalid),
        ("no alg", unsigned(&json!({ "kid": kid }), &claims) + "." + parts[2], TokenInvalid),
        ("another key", other.mint("alice", PATIENCE, clock::wall()).expect("minted"), TokenInvalid),
        (
            "another key under this one's name",
            signed(&header, &claims, Algorithm::EdDSA, &other_key),
            TokenInvalid,
        ),
        ("the public key as a secret", signed(&hs256, &claims, Algorithm::HS256, &public), TokenInvalid),
        (
            "a header that lies about the algorithm",
            signed(&header, &claims, Algorithm::HS256, &public),
            TokenInvalid,
        ),
        (
            "ES256 where there is no such key",
            format!("{}.{}", unsigned(&json!({ "alg": "ES256", "kid": kid }), &claims), base64([7; 64])),
            TokenInvalid,
        ),
        (
            "a critical header",
            signed(&json!({ "alg": "EdDSA", "kid": kid, "crit": ["b64"] }), &claims, Algorithm::EdDSA, &own),
            TokenInvalid,
        ),
        (
            "an unknown key's name",
            signed(&json!({ "alg": "EdDSA", "kid": "unknown" }), &claims, Algorithm::EdDSA, &own),
            TokenInvalid,
        ),
        ("no exp", without("exp"), TokenInvalid),
        ("an exp that is text", with(json!({ "exp": "tomorrow" })), TokenInvalid),
        ("not valid yet", with(json!({ "nbf": now + 1_000 })), TokenInvalid),
        ("no sub", without("sub"), TokenInvalid),
        ("an empty sub", with(json!({ "sub": "" })), TokenInvalid),
        ("a sub that is a number", with(json!({ "sub": 7 })), TokenInvalid),
        ("a sub of 257 bytes", with(json!({ "sub": "x".repeat(257) })), TokenInvalid),
        ("for an audience", with(json!({ "aud": "another service" })), TokenInvalid),
        ("claims that are a list", signed(&header, &json!([1, 2]), Algorithm::EdDSA, &own), TokenInvalid),
        ("expired", with(json!({ "exp": now - 31 })), TokenExpired),
        ("expired long ago", with(json!({ "exp": 0 })), TokenExpired),
    ]
}

#[tokio::test]
async fn only_good_tokens_get_in() {
    over_each(async |ternd, transport| {
        for (what, token, code) in cases(ternd) {
            let mut connection = connect(ternd, transport).await;
            let login = crate::support::login_request(&token, 1);
            let body = tern_protocol::request::RequestBody::Login(login);
            let request = tern_protocol::request::Request { id: tern_protocol::ids::RequestId(1), body };
            connection.send_request(&request).await.expect("sent");
            eprintln!("{what}");
            let (id, error) = crate::error(&mut connection).await;
            assert_eq!((id.get(), error.code), (1, code), "{}", error.text);
            let told = token.split('.').any(|part| part.len() > 3 && error.text.contains(part));
            assert!(!told, "the answer holds a part of the token: {}", error.text);
            assert_eq!(crate::support::next(&mut connection).await, None, "it closes");
        }
        // The same hand makes good ones, too.
        let header = json!({ "alg": "EdDSA" });
        let exp = clock::wall().0 / 1_000 + 60;
        let key = std::fs::read(ternd.data.join("token.key")).expect("ternd dev has made a key");
        let key = EncodingKey::from_ed_pem(&key).expect("an Ed25519 key");
        for sub in ["alice", "x", &"y".repeat(256), "größer/😀"] {
            let claims = json!({ "sub": sub, "exp": exp, "nbf": exp - 60, "extra": [1, 2] });
            let token = signed(&header, &claims, Algorithm::EdDSA, &key);
            let connection = connect(ternd, transport).await;
            let session = Session::login(connection, &token, 1).await.expect("a good token");
            assert_eq!(session.user(), user(sub));
        }
        is_well(ternd).await;
    })
    .await;
}
