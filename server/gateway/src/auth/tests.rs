use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
};
use serde_json::{Value, json};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;

use super::*;

const NOW: u64 = 1_800_000_000;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn now() -> WallMillis {
    WallMillis(NOW * 1000)
}

/// What an app's backend has. Signs by hand, so that it can also sign what no library would.
enum Backend {
    Ed25519(KeyPair),
    Es256(KeyPair),
    Rs256(KeyPair),
    Hs256(Vec<u8>),
}

impl Backend {
    fn all() -> Vec<Self> {
        vec![Self::ed25519(), Self::es256(), Self::rs256(), Self::Hs256(SECRET.to_vec())]
    }

    fn ed25519() -> Self {
        Self::Ed25519(KeyPair::generate_for(&PKCS_ED25519).unwrap())
    }

    fn es256() -> Self {
        Self::Es256(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap())
    }

    fn rs256() -> Self {
        Self::Rs256(KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap())
    }

    fn alg(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "EdDSA",
            Self::Es256(_) => "ES256",
            Self::Rs256(_) => "RS256",
            Self::Hs256(_) => "HS256",
        }
    }

    fn public_pem(&self) -> String {
        match self {
            Self::Ed25519(pair) | Self::Es256(pair) | Self::Rs256(pair) => pair.public_key_pem(),
            Self::Hs256(_) => panic!("a secret has no public part"),
        }
    }

    fn key(&self) -> TokenKey {
        match self {
            Self::Ed25519(_) => TokenKey::ed25519_pem(&self.public_pem()).unwrap(),
            Self::Es256(_) => TokenKey::es256_pem(&self.public_pem()).unwrap(),
            Self::Rs256(_) => TokenKey::rs256_pem(&self.public_pem()).unwrap(),
            Self::Hs256(secret) => TokenKey::hs256(secret).unwrap(),
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Ed25519(pair) => {
                Ed25519KeyPair::from_pkcs8(pair.serialized_der()).unwrap().sign(message).as_ref().to_vec()
            }
            Self::Es256(pair) => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pair.serialized_der())
                    .unwrap();
                pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
            }
            Self::Rs256(pair) => {
                let pair = rsa::KeyPair::from_pkcs8(pair.serialized_der()).unwrap();
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
            Self::Hs256(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
            }
        }
    }

    fn token(&self, header: Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(&header), encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn usual(&self, claims: Value) -> String {
        self.token(json!({"alg": self.alg(), "typ": "JWT"}), &claims)
    }

    fn verifier(&self) -> Verifier {
        Verifier::new(vec![self.key()], Duration::from_secs(30))
    }
}

/// Too short to be used.
const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDIuk9VLEivhkQmTvXmq//3nj+i
MZJOx32vtUoq/uAyeS/S1+Bp8QQ0RU5n7ei4gXrW68Xxeqlbt2kMJFWeFG7SrSBp
sblVIwSac0yiDjy5KCiHaYNVair6oxram6MdfbQtQMhvRP//+JK56Iu+omulgF7H
4LNjWdTCrIZIWOjrUQIDAQAB
-----END PUBLIC KEY-----
";

pub(super) fn encode(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

fn good() -> Value {
    json!({"sub": "alice", "exp": NOW + 60})
}

/// The usual claims with some changed; null takes one out.
fn with(changes: Value) -> Value {
    let mut claims = good();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

#[test]
fn good_tokens_say_who_it_is() {
    for backend in Backend::all() {
        let identity = backend.verifier().verify(&backend.usual(good()), now()).unwrap();
        let expires = WallMillis((NOW + 60 + 30) * 1000);
        let user = UserId::from_sub("alice");
        assert_eq!(identity, Identity { user, sub: "alice".into(), expires, issued: None });
    }
}

#[test]
fn claims_decide() {
    use TokenError::*;
    let longest = "x".repeat(SUB_BYTES_MAX);
    let too_long = "x".repeat(SUB_BYTES_MAX + 1);
    let cases = [
        (json!({}), None),
        (json!({"exp": NOW - 29}), None),
        (json!({"exp": NOW - 30}), Some(Expired)),
        (json!({"exp": 0}), Some(Expired)),
        (json!({"exp": -5}), Some(Expired)),
        (json!({"exp": NOW as f64 + 0.5}), None),
        (json!({"exp": u64::MAX}), None),
        (json!({"exp": 1e300}), None),
        (json!({"exp": null}), Some(NoExpiry)),
        (json!({"exp": "1900000000"}), Some(Malformed)),
        (json!({"nbf": NOW + 30}), None),
        (json!({"nbf": NOW + 31}), Some(NotYetValid)),
        (json!({"nbf": "soon"}), Some(Malformed)),
        (json!({"sub": null}), Some(NoSubject)),
        (json!({"sub": ""}), Some(NoSubject)),
        (json!({"sub": 7}), Some(Malformed)),
        (json!({"sub": longest}), None),
        (json!({"sub": too_long}), Some(SubjectTooLong)),
        (json!({"aud": "tern"}), Some(UnexpectedAudience)),
        (json!({"iss": "anybody", "more": [1, {"a": 2}]}), None),
    ];
    for backend in Backend::all() {
        let verifier = backend.verifier();
        for (changes, refusal) in &cases {
            let outcome = verifier.verify(&backend.usual(with(changes.clone())), now());
            assert_eq!(outcome.err(), *refusal, "{} {changes}", backend.alg());
        }
    }
}

#[test]
fn issuer_and_audience_are_demanded_once_configured() {
    use TokenError::*;
    let cases = [
        (json!({"iss": "app", "aud": "tern"}), None),
        (json!({"iss": "app", "aud": ["other", "tern"]}), None),
        (json!({"aud": "tern"}), Some(WrongIssuer)),
        (json!({"iss": "App", "aud": "tern"}), Some(WrongIssuer)),
        (json!({"iss": ["app"], "aud": "tern"}), Some(Malformed)),
        (json!({"iss": "app"}), Some(WrongAudience)),
        (json!({"iss": "app", "aud": "other"}), Some(WrongAudience)),
        (json!({"iss": "app", "aud": []}), Some(WrongAudience)),
    ];
    for backend in Backend::all() {
        let verifier = backend.verifier().with_issuer("app").with_audience("tern");
        for (changes, refusal) in &cases {
            let outcome = verifier.verify(&backend.usual(with(changes.clone())), now());
            assert_eq!(outcome.err(), *refusal, "{} {changes}", backend.alg());
        }
    }
}

#[test]
fn the_key_decides_the_algorithm() {
    use TokenError::*;
    for signer in Backend::all() {
        for keeper in Backend::all() {
            let outcome = keeper.verifier().verify(&signer.usual(good()), now());
            let refusal = match (&signer, &keeper) {
                (Backend::Hs256(_), Backend::Hs256(_)) => None,
                _ if signer.alg() == keeper.alg() => Some(WrongSignature),
                _ => Some(WrongAlgorithm),
            };
            assert_eq!(outcome.err(), refusal, "{} for {}", signer.alg(), keeper.alg());
        }
    }
}

#[test]
fn a_public_key_is_no_secret() {
    for backend in [Backend::ed25519(), Backend::es256(), Backend::rs256()] {
        let der = backend.key().decoding().try_get_as_bytes().unwrap().to_vec();
        for secret in [backend.public_pem().into_bytes(), backend.public_pem().trim().into(), der] {
            let forged = Backend::Hs256(secret).usual(good());
            assert_eq!(backend.verifier().verify(&forged, now()), Err(TokenError::WrongAlgorithm));
            // The same with a header that lies about the algorithm.
            let (_, rest) = forged.split_once('.').unwrap();
            let lying = format!("{}.{rest}", encode(&json!({"alg": backend.alg()})));
            assert_eq!(backend.verifier().verify(&lying, now()), Err(TokenError::WrongSignature));
        }
        let as_secret = TokenKey::hs256(backend.public_pem().as_bytes());
        assert!(matches!(as_secret, Err(TokenKeyError::SecretIsPem)));
    }
}

#[test]
fn published_keys_check_signatures() {
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    for backend in [Backend::ed25519(), Backend::es256(), Backend::rs256()] {
        let jwk = match &backend {
            Backend::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": part(pair.public_key_raw())})
            }
            Backend::Es256(pair) => {
                let (x, y) = pair.public_key_raw()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": part(x), "y": part(y)})
            }
            Backend::Rs256(pair) => {
                let (_, key) = RSAPublicKey::from_der(pair.public_key_raw()).unwrap();
                json!({"kty": "RSA", "n": part(&key.modulus[1..]), "e": part(key.exponent)})
            }
            Backend::Hs256(_) => unreachable!("not in the list"),
        };
        let verifier = Verifier::new(Vec::new(), Duration::ZERO);
        assert_eq!(verifier.verify(&backend.usual(good()), now()), Err(TokenError::UnknownKey));
        verifier.keys().set_published(jwks::parse(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap());
        assert!(verifier.verify(&backend.usual(good()), now()).is_ok(), "{}", backend.alg());
        for other in Backend::all() {
            let refused = verifier.verify(&other.usual(good()), now()).unwrap_err();
            assert!(matches!(refused, TokenError::WrongSignature | TokenError::WrongAlgorithm), "{refused}");
        }
    }
}

#[test]
fn unsigned_and_damaged_tokens_are_refused() {
    use TokenError::*;
    for backend in Backend::all() {
        let verifier = backend.verifier();
        let token = backend.usual(good());
        let [header, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!() };
        let alg = |alg: &str| encode(&json!({"alg": alg}));
        let cases = [
            (format!("{}.{claims}.", alg("none")), WrongAlgorithm),
            (format!("{}.{claims}.{signature}", alg("none")), WrongAlgorithm),
            (format!("{}.{claims}.{signature}", alg("None")), WrongAlgorithm),
            (format!("{}.{claims}.{signature}", alg("HS512")), WrongAlgorithm),
            (format!("{}.{claims}.{signature}", alg("PS256")), WrongAlgorithm),
            (format!("{header}.{claims}."), WrongSignature),
            (format!("{header}.{}.{signature}", encode(&with(json!({"sub": "bob"})))), WrongSignature),
            (format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode([7; 64])), WrongSignature),
            (format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode([7; 9])), WrongSignature),
            (format!("{header}.{claims}.!!!"), Malformed),
            (format!("{header}.{claims}"), Malformed),
            (format!("{header}.{claims}.{signature}.x"), Malformed),
            (format!(".{claims}.{signature}"), Malformed),
            (String::new(), Malformed),
            ("a.b.c".into(), Malformed),
            ("\u{1f426}.\u{1f426}.\u{1f426}".into(), Malformed),
            (backend.usual(json!([1, 2])), Malformed),
            (backend.usual(json!("text")), Malformed),
            (backend.token(json!({"alg": backend.alg(), "crit": ["exp"]}), &good()), CriticalHeader),
            ("x".repeat(limits::TOKEN_BYTES_MAX + 1), TooLong),
        ];
        for (token, refusal) in cases {
            let outcome = verifier.verify(&token, now());
            assert_eq!(outcome, Err(refusal), "{} {token}", backend.alg());
        }
    }
}

#[test]
fn the_kid_picks_the_key() {
    use TokenError::*;
    let [old, new] = [Backend::es256(), Backend::es256()];
    let sign = |backend: &Backend, kid: Value| {
        let mut header = json!({"alg": backend.alg()});
        if !kid.is_null() {
            header["kid"] = kid;
        }
        backend.token(header, &good())
    };
    let named = vec![old.key().with_kid("old"), new.key().with_kid("new")];
    let unnamed = vec![old.key(), new.key()];
    let cases = [
        (&named, sign(&old, json!("old")), None),
        (&named, sign(&new, json!("new")), None),
        (&named, sign(&new, json!(null)), None),
        (&named, sign(&new, json!("old")), Some(WrongSignature)),
        (&named, sign(&new, json!("other")), Some(UnknownKey)),
        (&named, sign(&new, json!("")), Some(UnknownKey)),
        (&named, sign(&Backend::es256(), json!(null)), Some(WrongSignature)),
        (&unnamed, sign(&new, json!("anything")), None),
        (&unnamed, sign(&Backend::ed25519(), json!("anything")), Some(WrongAlgorithm)),
    ];
    for (n, (keys, token, refusal)) in cases.into_iter().enumerate() {
        let verifier = Verifier::new(keys.clone(), Duration::ZERO);
        assert_eq!(verifier.verify(&token, now()).err(), refusal, "case {n}");
    }
    let empty = Verifier::new(Vec::new(), Duration::ZERO);
    assert_eq!(empty.verify(&sign(&new, json!(null)), now()), Err(UnknownKey));
}

#[test]
fn unfit_keys_are_refused_when_they_are_loaded() {
    use TokenKeyError::*;
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().public_key_pem();
    let (ed, es) = (Backend::ed25519().public_pem(), Backend::es256().public_pem());
    assert!(matches!(TokenKey::ed25519_pem(&es), Err(NotEd25519)));
    assert!(matches!(TokenKey::ed25519_pem("no key"), Err(NotEd25519)));
    assert!(matches!(TokenKey::es256_pem(&ed), Err(NotP256)));
    assert!(matches!(TokenKey::es256_pem(&p384), Err(NotP256)));
    assert!(matches!(TokenKey::rs256_pem(&es), Err(NotRsa)));
    assert!(matches!(TokenKey::rs256_pem(RSA_1024), Err(NotRsa)));
    assert!(matches!(TokenKey::hs256(&[7; 31]), Err(SecretTooShort(31))));
    assert!(matches!(TokenKey::hs256_base64("not base64!"), Err(NotBase64)));
    let secret = [0xfb; 32];
    for text in
        [STANDARD.encode(secret), URL_SAFE_NO_PAD.encode(secret), format!("{}\n", STANDARD.encode(secret))]
    {
        let verifier = Verifier::new(vec![TokenKey::hs256_base64(&text).unwrap()], Duration::ZERO);
        assert!(verifier.verify(&Backend::Hs256(secret.to_vec()).usual(good()), now()).is_ok());
    }
    assert!(!format!("{:?}", TokenKey::hs256(SECRET).unwrap()).contains("3031"));
}

#[test]
fn refusals_map_to_codes_and_hold_nothing_of_the_token() {
    let backend = Backend::ed25519();
    let token = backend.usual(with(json!({"exp": 1, "sub": "somebody"})));
    let error = backend.verifier().verify(&token, now()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TokenExpired);
    assert_eq!(TokenError::WrongSignature.code(), ErrorCode::TokenInvalid);
    assert_eq!(error.to_string(), "the token has expired");
}

#[test]
fn minted_tokens_are_taken_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let minter = Minter::load_or_create(dir.path()).unwrap();
    let token = minter.mint("alice", Duration::from_secs(60), now()).unwrap();
    let again = Minter::load_or_create(dir.path()).unwrap();
    let verifier = Verifier::new(vec![again.token_key().unwrap()], Duration::ZERO);
    assert_eq!(verifier.verify(&token, now()).unwrap().sub, "alice");
    let later = WallMillis((NOW + 60) * 1000);
    assert_eq!(verifier.verify(&token, later), Err(TokenError::Expired));

    // The public half on disk is what another server takes.
    let public = std::fs::read_to_string(dir.path().join("token.pub")).unwrap();
    let elsewhere = Verifier::new(vec![TokenKey::ed25519_pem(&public).unwrap()], Duration::ZERO);
    assert!(elsewhere.verify(&token, now()).is_ok());

    let claimed = again.with_issuer("ternd").with_audience("tern");
    let token = claimed.mint("bob", Duration::from_secs(60), now()).unwrap();
    let strict = verifier.with_issuer("ternd").with_audience("tern");
    assert_eq!(strict.verify(&token, now()).unwrap().sub, "bob");

    assert!(matches!(minter.mint("", Duration::from_secs(60), now()), Err(MintError::Subject(0))));
    let long = "x".repeat(SUB_BYTES_MAX + 1);
    assert!(matches!(minter.mint(&long, Duration::from_secs(60), now()), Err(MintError::Subject(257))));

    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(dir.path().join("token.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_damaged_key_file_is_an_error_that_says_what_helps() {
    let dir = tempfile::tempdir().unwrap();
    let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    for contents in ["", "-----BEGIN PRIVATE KEY-----", &p256] {
        std::fs::write(dir.path().join("token.key"), contents).unwrap();
        let error = Minter::load_or_create(dir.path()).err().unwrap().to_string();
        assert!(error.contains("token.key") && error.contains("restore it"), "{error}");
    }
}
