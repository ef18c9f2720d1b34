//! What a gateway keeps for a start while its instance is away: keys, revocations and routes, each sealed by the instance under the
//! trust root that was pinned when the gateway was added, and the gateway's own tokens for its adapters until they end.
//!
//! Notes are believed when the seal is the root's and they are not too old. Who can change the file can at most put an older
//! state of the same instance in its place, and that only within the age that is allowed.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_proto::instance::v1 as pb;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::config::ConfigError;
use crate::instance::Minted;

/// The kind of sealed trust states.
pub const TRUST: &str = "trust";
/// The kind of sealed routes.
pub const ROUTES: &str = "routes";

/// The `[notes]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotesConfig {
    /// The file, mode 0600.
    pub file: PathBuf,
    /// How old what it holds may be, in seconds.
    #[serde(default = "day")]
    pub max_age_seconds: u64,
}

const fn day() -> u64 {
    24 * 3600
}

/// What a seal is over: the kind, so that one kind cannot stand for another, and the message.
#[must_use]
pub fn signed_bytes(kind: &str, payload: &[u8]) -> Vec<u8> {
    [b"postern notes v1 ", kind.as_bytes(), b"\n", payload].concat()
}

/// The file's content.
#[derive(Default, Serialize, Deserialize)]
struct Content {
    /// By kind.
    sealed: BTreeMap<String, Note>,
    /// By audience.
    tokens: BTreeMap<String, Token>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    payload: String,
    signature: String,
}

#[derive(Serialize, Deserialize)]
struct Token {
    token: String,
    expires: u64,
}

/// The notes; their clones are one.
#[derive(Clone)]
pub struct Notes(Option<Arc<Inner>>);

struct Inner {
    path: PathBuf,
    max_age: u64,
    root: Vec<u8>,
    clock: Arc<dyn Clock>,
    content: Mutex<Content>,
}

impl Notes {
    /// Notes that keep nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Opens the notes. `root` is the public half of the trust root, base64url: the second line of the credential file.
    ///
    /// # Errors
    /// [`ConfigError`] when there is no root to believe them by. A file that cannot be read is a file that is not there.
    pub fn open(config: &NotesConfig, root: Option<&str>, clock: Arc<dyn Clock>) -> Result<Self, ConfigError> {
        let root = root.and_then(|root| URL_SAFE_NO_PAD.decode(root).ok()).filter(|root| root.len() == 32);
        let root = root.ok_or_else(|| {
            let problem = "the credential file names no trust root; add the gateway anew with `postern fleet add`";
            ConfigError::invalid("notes.file", problem)
        })?;
        let content = match std::fs::read(&config.file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(_) => Content::default(),
        };
        let (path, max_age) = (config.file.clone(), config.max_age_seconds);
        Ok(Self(Some(Arc::new(Inner { path, max_age, root, clock, content: Mutex::new(content) }))))
    }

    /// What was sealed of a kind, when the seal is the root's and `time_of` says that it is not too old.
    #[must_use]
    pub fn recall<M: Message + Default>(&self, kind: &str, time_of: impl FnOnce(&M) -> u64) -> Option<M> {
        let inner = self.0.as_ref()?;
        let note = inner.content.lock().unwrap_or_else(PoisonError::into_inner).sealed.get(kind)?.clone();
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let (payload, signature) = (decode(&note.payload)?, decode(&note.signature)?);
        let root = UnparsedPublicKey::new(&ED25519, &inner.root);
        if root.verify(&signed_bytes(kind, &payload), &signature).is_err() {
            tracing::error!(notes.kind = kind, "notes are not sealed by the instance; they are not used");
            return None;
        }
        let message = M::decode(payload.as_slice()).ok()?;
        let age = inner.clock.now().saturating_sub(time_of(&message));
        if age > inner.max_age {
            tracing::warn!(notes.kind = kind, notes.age_s = age, "notes are too old; they are not used");
            return None;
        }
        tracing::info!(notes.kind = kind, notes.age_s = age, "notes in use until the instance is heard of");
        Some(message)
    }

    /// Keeps what the instance sealed.
    pub fn keep(&self, kind: &str, sealed: &pb::Sealed) {
        let (payload, signature) = (URL_SAFE_NO_PAD.encode(&sealed.payload), URL_SAFE_NO_PAD.encode(&sealed.signature));
        self.change(|content| drop(content.sealed.insert(kind.to_owned(), Note { payload, signature })));
    }

    /// This process's token for an audience, while it has not ended.
    #[must_use]
    pub fn token(&self, audience: &str) -> Option<Minted> {
        let inner = self.0.as_ref()?;
        let content = inner.content.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = content.tokens.get(audience).filter(|kept| kept.expires > inner.clock.now())?;
        Some(Minted { token: kept.token.as_str().into(), expires: kept.expires })
    }

    /// Keeps this process's token for an audience.
    pub fn keep_token(&self, audience: &str, minted: &Minted) {
        let kept = Token { token: minted.token.to_string(), expires: minted.expires };
        self.change(|content| drop(content.tokens.insert(audience.to_owned(), kept)));
    }

    fn change(&self, change: impl FnOnce(&mut Content)) {
        let Some(inner) = &self.0 else { return };
        let mut content = inner.content.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut content);
        // Under the lock, so that an older state never replaces a newer one. A gateway that cannot write serves all the same.
        if let Err(error) = write(&inner.path, &content) {
            tracing::error!(error = %error, "notes cannot be written");
        }
    }
}

fn write(path: &Path, content: &Content) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(&serde_json::to_vec(content)?)?;
    file.sync_all()?;
    std::fs::rename(fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    fn sealed(pair: &Ed25519KeyPair, kind: &str, time: u64) -> pb::Sealed {
        let payload = pb::TrustState { time, sequence: 7, ..Default::default() }.encode_to_vec();
        let signature = pair.sign(&signed_bytes(kind, &payload)).as_ref().to_vec();
        pb::Sealed { payload, signature }
    }

    #[test]
    fn notes_are_believed_when_they_are_the_roots_and_not_too_old() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::starting_now());
        let config = NotesConfig { file: dir.path().join("notes"), max_age_seconds: 60 };
        let (pair, other) = (Ed25519KeyPair::generate().unwrap(), Ed25519KeyPair::generate().unwrap());
        let root = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let open = || Notes::open(&config, Some(&root), Arc::new(clock.clone())).unwrap();
        let recall = |notes: &Notes, kind: &str| {
            notes.recall::<pb::TrustState>(kind, |state| state.time).map(|state| state.sequence)
        };
        let notes = open();
        assert_eq!(recall(&notes, TRUST), None);
        notes.keep(TRUST, &sealed(&pair, TRUST, clock.now()));
        notes.keep_token("a", &Minted { token: "t".into(), expires: clock.now() + 10 });
        let again = open();
        assert_eq!(recall(&again, TRUST), Some(7));
        assert_eq!(&*again.token("a").unwrap().token, "t");
        again.keep(ROUTES, &sealed(&pair, TRUST, clock.now()));
        assert_eq!(recall(&again, ROUTES), None, "one kind does not stand for another");
        again.keep(ROUTES, &sealed(&other, ROUTES, clock.now()));
        assert_eq!(recall(&again, ROUTES), None, "another root");
        clock.advance(11);
        assert!(again.token("a").is_none(), "it has ended");
        clock.advance(50);
        assert_eq!(recall(&open(), TRUST), None, "too old");
        std::fs::write(&config.file, "damage").unwrap();
        assert_eq!(recall(&open(), TRUST), None);
        assert!(Notes::open(&config, None, Arc::new(clock.clone())).is_err());
    }
}
