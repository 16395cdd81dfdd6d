//! RSA keys of an app's backend, from its key set to a login; and tokens that only look like its own.

use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use tern_protocol::error::ErrorCode;
use tern_server::clock;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;

use crate::jwt::{base64, signed, unsigned};
use crate::served::{Files, read};
use crate::support::{Session, TRANSPORTS, user};

const KID: &str = "2026-11";

struct Rsa {
    pair: KeyPair,
    signing: EncodingKey,
}

impl Rsa {
    fn new() -> Self {
        let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
        let signing = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).expect("an RSA key");
        Self { pair, signing }
    }

    fn jwk(&self) -> Value {
        let (_, public) = RSAPublicKey::from_der(self.pair.public_key_raw()).expect("an RSA key");
        let modulus = public.modulus.strip_prefix(&[0]).unwrap_or(public.modulus);
        json!({"kty": "RSA", "use": "sig", "kid": KID, "n": base64(modulus), "e": base64(public.exponent)})
    }

    /// Under this key's name.
    fn token(&self, claims: &Value) -> String {
        signed(&json!({"alg": "RS256", "kid": KID}), claims, Algorithm::RS256, &self.signing)
    }
}

/// Good until the next hour, with some claims changed; null takes one out.
fn claims(changes: Value) -> Value {
    let exp = clock::wall().0 / 1_000 + 3_600;
    let mut claims =
        json!({"sub": "alice", "exp": exp, "iss": "https://id.example.com", "aud": ["tern", "mail"]});
    for (name, value) in changes.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    claims
}

/// Name, token, what is said to it and a part of the text.
fn cases(rsa: &Rsa) -> Vec<(&'static str, String, ErrorCode, &'static str)> {
    use ErrorCode::{TokenExpired, TokenInvalid};
    let now = clock::wall().0 / 1_000;
    let with = |changes| rsa.token(&claims(changes));
    let good = claims(json!({}));
    let other = Rsa::new();
    let as_secret = |header: &str, secret: &[u8]| {
        let key = EncodingKey::from_secret(secret);
        signed(&json!({"alg": header, "kid": KID}), &good, Algorithm::HS256, &key)
    };
    let by =
        |header: &str, algorithm| signed(&json!({"alg": header, "kid": KID}), &good, algorithm, &rsa.signing);
    let brings_its_key = json!({"alg": "RS256", "jwk": other.jwk(), "jku": "https://localhost/jwks.json"});
    let (pem, raw) = (rsa.pair.public_key_pem(), rsa.pair.public_key_raw());
    let (algorithm, signature) = ("an algorithm that this server has no key for", "signature is wrong");
    vec![
        ("another audience", with(json!({"aud": "mail"})), TokenInvalid, "another audience"),
        ("no audience", with(json!({"aud": null})), TokenInvalid, "another audience"),
        ("another issuer", with(json!({"iss": "https://evil.example"})), TokenInvalid, "another issuer"),
        ("no issuer", with(json!({"iss": null})), TokenInvalid, "another issuer"),
        ("expired", with(json!({"exp": now - 31})), TokenExpired, "expired"),
        ("no end", with(json!({"exp": null})), TokenInvalid, "no expiry"),
        ("not valid yet", with(json!({"nbf": now + 600})), TokenInvalid, "not valid yet"),
        ("the public key as a secret", as_secret("HS256", pem.as_bytes()), TokenInvalid, algorithm),
        ("the same in DER", as_secret("HS256", raw), TokenInvalid, algorithm),
        ("the same, with a header that lies", as_secret("RS256", pem.as_bytes()), TokenInvalid, signature),
        ("none", unsigned(&json!({"alg": "none"}), &good) + ".", TokenInvalid, algorithm),
        ("RS512 by the same key", by("RS512", Algorithm::RS512), TokenInvalid, algorithm),
        ("RS512 that calls itself RS256", by("RS256", Algorithm::RS512), TokenInvalid, signature),
        ("PS256 by the same key", by("PS256", Algorithm::PS256), TokenInvalid, algorithm),
        ("another key under this one's name", other.token(&good), TokenInvalid, signature),
        (
            "a token that brings its key",
            signed(&brings_its_key, &good, Algorithm::RS256, &other.signing),
            TokenInvalid,
            signature,
        ),
        (
            "an unknown key's name",
            signed(&json!({"alg": "RS256", "kid": "x"}), &good, Algorithm::RS256, &rsa.signing),
            TokenInvalid,
            "a key that this server does not have",
        ),
    ]
}

#[tokio::test]
async fn rs256_from_a_key_set_or_a_file() {
    let rsa = Rsa::new();
    for keys in [
        "[tokens.jwks]\nfile = \"jwks.json\"\n".to_owned(),
        format!("[[tokens.keys]]\nalgorithm = \"RS256\"\nfile = \"rsa.pub\"\nid = \"{KID}\"\n"),
    ] {
        let mut files = Files::new();
        files.config.truncate(files.config.find("[[tokens.keys]]").expect("it has keys"));
        files.config += &format!("issuer = \"https://id.example.com\"\naudience = \"tern\"\n\n{keys}");
        files.put("jwks.json", json!({"keys": [rsa.jwk()]}).to_string());
        files.put("rsa.pub", rsa.pair.public_key_pem());
        let served = files.serve();
        let connector = served.connector(&read(&files.path("first/ca.pem")));
        let now = clock::wall().0 / 1_000;
        for transport in TRANSPORTS {
            // The last two are within the leeway.
            for changes in
                [json!({}), json!({"aud": "tern"}), json!({"exp": now - 1}), json!({"nbf": now + 20})]
            {
                let token = rsa.token(&claims(changes));
                let mut alice = served.login(&connector, transport, &token, 1).await;
                assert_eq!(alice.user(), user("alice"));
                alice.is_served().await;
            }
            for (what, token, code, text) in cases(&rsa) {
                let connection = connector.connect(transport).await.expect("ternd accepts connections");
                let error = Session::login(connection, &token, 1).await.err();
                let error = error.unwrap_or_else(|| panic!("let in: {what}"));
                assert!(error.code == code && error.text.contains(text), "{what}: {error:?}");
            }
        }
    }
}
