//! What a token says, as far as it matters here.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    pub(super) sub: Option<String>,
    pub(super) iss: Option<String>,
    pub(super) aud: Option<Audience>,
    pub(super) exp: Option<NumericDate>,
    pub(super) nbf: Option<NumericDate>,
    pub(super) iat: Option<NumericDate>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    pub(super) fn contains(&self, wanted: &str) -> bool {
        match self {
            Self::One(one) => one == wanted,
            Self::Several(several) => several.iter().any(|one| one == wanted),
        }
    }
}

/// Seconds since 1970; some backends write fractions.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
pub(super) enum NumericDate {
    Whole(u64),
    Fraction(f64),
}

impl NumericDate {
    /// Times before 1970 count as 1970.
    pub(super) fn millis(self) -> u64 {
        match self {
            Self::Whole(seconds) => seconds.saturating_mul(1000),
            // The cast clamps.
            Self::Fraction(seconds) => (seconds * 1000.0) as u64,
        }
    }
}

/// Whether a token is refused because of its `alg`, be it "none" or one that the library does not know. For the text
/// of the refusal only.
pub(super) fn names_unknown_algorithm(token: &str) -> bool {
    #[derive(Deserialize)]
    struct Header {
        #[serde(rename = "alg")]
        _alg: String,
    }
    let mut parts = token.split('.');
    let (Some(header), 2) = (parts.next(), parts.count()) else { return false };
    let Ok(json) = URL_SAFE_NO_PAD.decode(header) else { return false };
    serde_json::from_slice::<Header>(&json).is_ok()
}
