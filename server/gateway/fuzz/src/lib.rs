//! Fuzz targets of the gateway: tokens, key sets, PROXY headers. How to run them: see `tern-fuzz`, with
//! `--fuzz-dir server/gateway/fuzz`.
#![forbid(unsafe_code)]

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tern_protocol::limits::SUB_BYTES_MAX;
use tern_protocol::model::WallMillis;
use tern_server::auth::{TokenKey, Verifier, jwks};
use tern_server::transport::proxy;

/// A target's name and the target.
pub type Target = (&'static str, fn(&[u8]));

/// All targets by name; each has a directory of that name in `corpus/`.
pub const TARGETS: [Target; 3] = [("token", token), ("key_set", key_set), ("proxy_header", proxy_header)];

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: WallMillis = WallMillis(1_800_000_000_000);

/// The public half is all there is of this key.
const ED25519: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";

thread_local! {
    static VERIFIER: Verifier = {
        let keys = [TokenKey::hs256(SECRET), TokenKey::ed25519_pem(ED25519)].map(|key| key.expect("a good key"));
        Verifier::new(keys.into(), Duration::from_secs(30)).with_issuer("app").with_audience("tern")
    };
}

/// Whatever is no signed token is refused; and of tokens with a good signature, whatever their header and claims are, only
/// those are taken that say the right algorithm, issuer, audience, time and a subject.
///
/// The input: a header and the claims, with a zero byte between them. It is tried as it is, too.
pub fn token(input: &[u8]) {
    let verify = |token: &str| VERIFIER.with(|verifier| verifier.verify(token, NOW));
    if let Ok(text) = std::str::from_utf8(input) {
        assert!(verify(text).is_err(), "nobody has signed this");
    }
    let mut parts = input.splitn(2, |byte| *byte == 0);
    let [header, claims] = [parts.next(), parts.next()].map(Option::unwrap_or_default);
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    for unsigned in [format!("{message}."), message.clone(), format!("{message}.AAAA")] {
        assert!(verify(&unsigned).is_err(), "nobody has signed this");
    }
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
    let signed = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
    let identity = match verify(&signed) {
        Ok(identity) => identity,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let header: Header = read(header);
    assert!(header.alg == "HS256" && header.crit.is_none());
    let claims: Claims = read(claims);
    assert_eq!(claims.iss, "app");
    let audience = &claims.aud;
    assert!(audience == "tern" || audience.as_array().is_some_and(|all| all.iter().any(|one| one == "tern")));
    assert_eq!(claims.sub, identity.sub.as_str());
    assert!((1..=SUB_BYTES_MAX).contains(&identity.sub.len()));
    assert!(identity.expires > NOW);
}

/// A set of keys is used or refused; nothing that it holds makes a token good that nobody has signed.
pub fn key_set(input: &[u8]) {
    let Ok(keys) = jwks::parse(input) else { return };
    assert!((1..=jwks::JWKS_KEYS_MAX).contains(&keys.len()));
    let verifier = Verifier::new(keys, Duration::ZERO);
    let mut published = vec![input.to_vec()];
    // What nobody asks for may be no value that there is, such as a number that is too large.
    if let Ok(json) = serde_json::from_slice(input) {
        strings(&json, &mut published);
    }
    for alg in ["none", "HS256", "EdDSA", "ES256", "RS256"] {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}"}}"#));
        let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"alice","exp":1900000000}"#);
        let message = format!("{header}.{claims}");
        assert!(verifier.verify(&format!("{message}."), NOW).is_err());
        // Published keys are no secrets: what is signed with one as if it were, is not signed.
        for key in &published {
            let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes());
            let signature = URL_SAFE_NO_PAD.encode(signature);
            assert!(verifier.verify(&format!("{message}.{signature}"), NOW).is_err());
        }
    }
}

/// What a token has to say. In fields that nobody asks for there may be strings that are no text, and numbers that are none.
#[derive(Deserialize)]
struct Header {
    alg: String,
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: serde_json::Value,
    sub: String,
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> T {
    serde_json::from_str(&String::from_utf8_lossy(bytes)).expect("JSON, since it was understood")
}

/// All strings in this, and the bytes that they stand for.
fn strings(json: &serde_json::Value, found: &mut Vec<Vec<u8>>) {
    match json {
        serde_json::Value::String(text) => {
            found.push(text.as_bytes().to_vec());
            found.extend(URL_SAFE_NO_PAD.decode(text));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
        serde_json::Value::Object(items) => items.values().for_each(|item| strings(item, found)),
        _ => {}
    }
}

/// Either the header is refused, or exactly its bytes are taken, and not many.
pub fn proxy_header(input: &[u8]) {
    let mut rest = input;
    let read = proxy::read_header(&mut rest).now_or_never().expect("a slice never waits");
    let taken = input.len() - rest.len();
    assert!(taken <= proxy::HEADER_BYTES_MAX);
    if read.is_ok() {
        let length = usize::from(u16::from_be_bytes([input[14], input[15]]));
        assert_eq!(taken, 16 + length);
    }
}
