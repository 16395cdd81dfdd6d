//! JSON Web Tokens by hand, also such as no library would sign.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::Value;

pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Header and claims, as they are signed.
pub(crate) fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", base64(header.to_string()), base64(claims.to_string()))
}

/// Signed with this algorithm, whatever the header says.
pub(crate) fn signed(header: &Value, claims: &Value, algorithm: Algorithm, key: &EncodingKey) -> String {
    let text = unsigned(header, claims);
    let signature = jsonwebtoken::crypto::sign(text.as_bytes(), key, algorithm).expect("signed");
    format!("{text}.{signature}")
}
