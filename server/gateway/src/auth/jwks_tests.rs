use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;

use super::*;

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn ed25519() -> Value {
    let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    json!({"kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key_raw())})
}

fn p256() -> Value {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let point = pair.public_key_raw();
    json!({"kty": "EC", "crv": "P-256", "x": text(&point[1..33]), "y": text(&point[33..])})
}

fn rsa() -> Value {
    let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let (_, key) = RSAPublicKey::from_der(pair.public_key_raw()).unwrap();
    json!({"kty": "RSA", "n": text(&key.modulus[1..]), "e": text(key.exponent)})
}

fn with(mut key: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        key[name] = value.clone();
    }
    key
}

/// The algorithms of the keys in a set.
fn parsed(keys: &[Value]) -> Result<Vec<String>, JwksError> {
    let keys = parse(json!({ "keys": keys }).to_string().as_bytes())?;
    Ok(keys.iter().map(|key| format!("{:?}", key.algorithm())).collect())
}

#[test]
fn a_key_is_bound_to_the_algorithm_of_its_type() {
    assert_eq!(parsed(&[ed25519(), p256(), rsa()]).unwrap(), ["EdDSA", "ES256", "RS256"]);
    for (key, alg) in [(ed25519(), "EdDSA"), (p256(), "ES256"), (rsa(), "RS256")] {
        assert_eq!(parsed(&[with(key.clone(), json!({"alg": alg, "use": "sig"}))]).unwrap(), [alg]);
        for other in ["HS256", "RS512", "PS256", "ES384", "none", ""] {
            assert_eq!(
                parsed(&[with(key.clone(), json!({ "alg": other }))]),
                Err(JwksError::NoKey),
                "{other}"
            );
        }
    }
}

#[test]
fn keys_for_other_purposes_are_passed_over() {
    let secret = json!({"kty": "oct", "k": text(&[7; 32]), "alg": "HS256"});
    for key in [
        secret.clone(),
        with(rsa(), json!({"use": "enc"})),
        with(rsa(), json!({"key_ops": ["encrypt"]})),
        with(rsa(), json!({"n": text(&[0xff; 128])})),
        with(rsa(), json!({"n": text(&[0xff; 1025])})),
        with(rsa(), json!({"e": text(&[1])})),
        with(rsa(), json!({"e": text(&[4])})),
        with(p256(), json!({"crv": "P-384"})),
        with(p256(), json!({"x": text(&[1; 31])})),
        with(ed25519(), json!({"x": text(&[1; 33])})),
        with(ed25519(), json!({"x": "!"})),
        with(ed25519(), json!({"kid": 7})),
        json!({"kty": "unheard of"}),
        json!("no key"),
    ] {
        assert_eq!(parsed(std::slice::from_ref(&key)), Err(JwksError::NoKey), "{key}");
        assert_eq!(parsed(&[key.clone(), ed25519()]).unwrap(), ["EdDSA"], "{key}");
    }
}

#[test]
fn sets_are_bounded() {
    let key = ed25519();
    assert_eq!(parsed(&vec![key.clone(); JWKS_KEYS_MAX]).unwrap().len(), JWKS_KEYS_MAX);
    assert_eq!(parsed(&vec![key; JWKS_KEYS_MAX + 1]), Err(JwksError::TooManyKeys(JWKS_KEYS_MAX + 1)));
    assert_eq!(parse(&vec![b' '; JWKS_BYTES_MAX + 1]).err(), Some(JwksError::TooLarge));
    for text in ["", "[]", "{}", "{\"keys\": 1}"] {
        assert_eq!(parse(text.as_bytes()).err(), Some(JwksError::NotJwks), "{text}");
    }
}
