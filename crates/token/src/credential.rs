//! Static credentials: our own 256 random bits behind a prefix that scanners find and a checksum that tells a typing
//! mistake from a wrong secret without asking anybody.
//!
//! Form: `postern_<kind>_<43 base62 characters><6 base62 characters of CRC-32>`.

use std::fmt;

/// What a credential belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    /// A personal access token of a user.
    Personal,
    /// A client secret of a service account.
    Client,
    /// A gateway's or an adapter's.
    Fleet,
}

impl CredentialKind {
    const ALL: [Self; 3] = [Self::Personal, Self::Client, Self::Fleet];

    /// What the credential begins with.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Personal => "postern_pat_",
            Self::Client => "postern_csk_",
            Self::Fleet => "postern_flt_",
        }
    }
}

/// A credential's secret text. Debug does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    kind: CredentialKind,
    text: String,
}

/// Not a credential of Postern, or one with a typing mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a well-formed Postern credential")]
pub struct MalformedCredential;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const SECRET_DIGITS: usize = 43;
const CHECK_DIGITS: usize = 6;

impl Secret {
    /// A credential of these random bits.
    #[must_use]
    pub fn from_random(kind: CredentialKind, random: [u8; 32]) -> Self {
        let body = format!("{}{}", kind.prefix(), base62(&random, SECRET_DIGITS));
        let check = base62(&crc32fast::hash(body.as_bytes()).to_be_bytes(), CHECK_DIGITS);
        Self { kind, text: body + &check }
    }

    /// Reads a credential: prefix, length, alphabet and checksum.
    ///
    /// # Errors
    /// [`MalformedCredential`]; it does not say which.
    pub fn parse(text: &str) -> Result<Self, MalformedCredential> {
        let kind =
            CredentialKind::ALL.into_iter().find(|kind| text.starts_with(kind.prefix())).ok_or(MalformedCredential)?;
        let digits = &text[kind.prefix().len()..];
        if digits.len() != SECRET_DIGITS + CHECK_DIGITS || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(MalformedCredential);
        }
        let (body, check) = text.split_at(text.len() - CHECK_DIGITS);
        if base62(&crc32fast::hash(body.as_bytes()).to_be_bytes(), CHECK_DIGITS) != check {
            return Err(MalformedCredential);
        }
        Ok(Self { kind, text: text.to_owned() })
    }

    /// Whether a text claims to be a credential, by its prefix.
    #[must_use]
    pub fn looks_like_one(text: &str) -> bool {
        CredentialKind::ALL.into_iter().any(|kind| text.starts_with(kind.prefix()))
    }

    /// What it belongs to.
    #[must_use]
    pub const fn kind(&self) -> CredentialKind {
        self.kind
    }

    /// The secret text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}[redacted])", self.kind.prefix())
    }
}

/// The number in base 62, most significant digit first, padded with zeros to `width` digits.
fn base62(bytes: &[u8], width: usize) -> String {
    let mut number = bytes.to_vec();
    let mut digits = vec![DIGITS[0]; width];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0_u32;
        for byte in &mut number {
            let value = remainder << 8 | u32::from(*byte);
            *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
            remainder = value % 62;
        }
        *digit = DIGITS[remainder as usize];
    }
    digits.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn base62_is_positional_and_padded() {
        assert_eq!(base62(&[0, 0], 3), "000");
        assert_eq!(base62(&[61], 2), "0z");
        assert_eq!(base62(&[62], 2), "10");
        assert_eq!(base62(&[0xFF; 32], SECRET_DIGITS).len(), SECRET_DIGITS);
        // 2^256 - 1 needs all 43 digits, so no secret is cut short.
        assert_ne!(base62(&[0xFF; 32], SECRET_DIGITS).as_bytes()[0], b'0');
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let secret = Secret::from_random(CredentialKind::Personal, [7; 32]);
        assert_eq!(format!("{secret:?}"), "Secret(postern_pat_[redacted])");
    }

    proptest! {
        #[test]
        fn a_credential_reads_back(random: [u8; 32]) {
            for kind in CredentialKind::ALL {
                let secret = Secret::from_random(kind, random);
                prop_assert_eq!(Secret::parse(secret.expose()), Ok(secret.clone()));
                prop_assert_eq!(Secret::parse(secret.expose()).map(|s| s.kind()), Ok(kind));
            }
        }

        #[test]
        fn one_wrong_character_is_noticed(random: [u8; 32], at in 0_usize..61, with in 0_usize..62) {
            let good = Secret::from_random(CredentialKind::Fleet, random).expose().to_owned();
            let mut bad = good.clone().into_bytes();
            bad[at] = DIGITS[with];
            let bad = String::from_utf8(bad)?;
            prop_assume!(bad != good);
            prop_assert_eq!(Secret::parse(&bad), Err(MalformedCredential));
        }

        #[test]
        fn no_text_panics(text in ".{0,120}") {
            let _ = Secret::parse(&text);
        }
    }
}
