//! Sealing at rest: a fresh data key per record, AES-256-GCM (NIST SP 800-38D) with the record's identity as associated data,
//! the data key wrapped by the key-encryption key. A sealed text that is moved to another record does not open.
//!
//! Layout, base64url: version (1 byte) ‖ nonce (12) ‖ wrapped data key (32 + 16) ‖ nonce (12) ‖ ciphertext and tag.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const WRAPPED_BYTES: usize = KEY_BYTES + TAG_BYTES;
const HEAD_BYTES: usize = 1 + NONCE_LEN + WRAPPED_BYTES + NONCE_LEN;

/// Why something could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key file cannot be read or written.
    #[error("the key-encryption key {path}: {problem}")]
    KeyFile {
        /// Which file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The sealed text was made under another key, for another record, or is damaged.
    #[error("a sealed record does not open: another key-encryption key, another record, or damage")]
    DoesNotOpen,
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoRandom,
}

/// Seals and opens.
pub struct Sealer {
    key_encryption_key: LessSafeKey,
    /// Those that were before it: they open, and seal nothing.
    former: Vec<LessSafeKey>,
}

/// Random bytes.
///
/// # Errors
/// [`SealError::NoRandom`].
pub fn random<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| SealError::NoRandom)?;
    Ok(bytes)
}

impl Sealer {
    /// Reads the key-encryption key (32 bytes as base64url text), or makes one when there is no file and `may_create`.
    ///
    /// # Errors
    /// [`SealError::KeyFile`].
    pub fn from_file(path: &Path, may_create: bool) -> Result<Self, SealError> {
        let failed = |problem: String| SealError::KeyFile { path: path.display().to_string(), problem };
        if !path.exists() {
            if !may_create {
                return Err(failed("is missing, and the database holds records that were sealed under it".to_owned()));
            }
            let key = Zeroizing::new(random::<KEY_BYTES>()?);
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map_err(|error| failed(error.to_string()))?;
            writeln!(file, "{}", URL_SAFE_NO_PAD.encode(*key)).map_err(|error| failed(error.to_string()))?;
            file.sync_all().map_err(|error| failed(error.to_string()))?;
        }
        Ok(Self { key_encryption_key: read(path)?, former: Vec::new() })
    }

    /// Opens also what was sealed under the keys in these files.
    ///
    /// # Errors
    /// [`SealError::KeyFile`].
    pub fn with_former(self, paths: &[PathBuf]) -> Result<Self, SealError> {
        let former = paths.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
        Ok(Self { former, ..self })
    }

    /// Whether a sealed text of this record is under the current key.
    #[must_use]
    pub fn is_current(&self, record: &str, sealed: &str) -> bool {
        open_under(&self.key_encryption_key, record, sealed).is_ok()
    }

    /// Seals a secret for one record.
    ///
    /// # Errors
    /// [`SealError::NoRandom`].
    pub fn seal(&self, record: &str, secret: &[u8]) -> Result<String, SealError> {
        let data_key = Zeroizing::new(random::<KEY_BYTES>()?);
        let (wrap_nonce, nonce) = (random::<NONCE_LEN>()?, random::<NONCE_LEN>()?);
        let mut wrapped = data_key.to_vec();
        encrypt(&self.key_encryption_key, wrap_nonce, record, &mut wrapped)?;
        let mut sealed = secret.to_vec();
        encrypt(&aes(data_key.as_slice()).ok_or(SealError::NoRandom)?, nonce, record, &mut sealed)?;
        let bytes = [&[VERSION][..], &wrap_nonce, &wrapped, &nonce, &sealed].concat();
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Opens what was sealed for this record.
    ///
    /// # Errors
    /// [`SealError::DoesNotOpen`].
    pub fn open(&self, record: &str, sealed: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let mut keys = std::iter::once(&self.key_encryption_key).chain(&self.former);
        keys.find_map(|key| open_under(key, record, sealed).ok()).ok_or(SealError::DoesNotOpen)
    }
}

fn open_under(key: &LessSafeKey, record: &str, sealed: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let bytes = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| SealError::DoesNotOpen)?;
    if bytes.len() < HEAD_BYTES || bytes[0] != VERSION {
        return Err(SealError::DoesNotOpen);
    }
    let (wrap_nonce, rest) = bytes[1..].split_at(NONCE_LEN);
    let (wrapped, rest) = rest.split_at(WRAPPED_BYTES);
    let (nonce, ciphertext) = rest.split_at(NONCE_LEN);
    let data_key = decrypt(key, wrap_nonce, record, wrapped)?;
    decrypt(&aes(&data_key).ok_or(SealError::DoesNotOpen)?, nonce, record, ciphertext)
}

fn read(path: &Path) -> Result<LessSafeKey, SealError> {
    let failed = |problem: String| SealError::KeyFile { path: path.display().to_string(), problem };
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|error| failed(error.to_string()))?);
    let unfit = || failed("is not 32 bytes of base64url".to_owned());
    let key = Zeroizing::new(URL_SAFE_NO_PAD.decode(text.trim()).map_err(|_| unfit())?);
    aes(&key).ok_or_else(unfit)
}

fn aes(key: &[u8]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

fn encrypt(key: &LessSafeKey, nonce: [u8; NONCE_LEN], record: &str, bytes: &mut Vec<u8>) -> Result<(), SealError> {
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(record), bytes)
        .map_err(|_| SealError::NoRandom)
}

fn decrypt(key: &LessSafeKey, nonce: &[u8], record: &str, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::DoesNotOpen)?;
    let mut bytes = Zeroizing::new(bytes.to_vec());
    let length = key.open_in_place(nonce, Aad::from(record), &mut bytes).map_err(|_| SealError::DoesNotOpen)?.len();
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(dir: &Path) -> Sealer {
        Sealer::from_file(&dir.join("kek"), true).unwrap()
    }

    #[test]
    fn what_was_sealed_opens_only_as_the_same_record_under_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let ours = sealer(dir.path());
        let sealed = ours.seal("models/a", b"secret").unwrap();
        assert_eq!(*ours.open("models/a", &sealed).unwrap(), b"secret");
        assert_eq!(*sealer(dir.path()).open("models/a", &sealed).unwrap(), b"secret", "the key was kept");
        assert!(ours.open("models/b", &sealed).is_err());
        let theirs = tempfile::tempdir().unwrap();
        assert!(sealer(theirs.path()).open("models/a", &sealed).is_err());
        assert_ne!(ours.seal("models/a", b"secret").unwrap(), sealed);
    }

    #[test]
    fn a_former_key_opens_and_seals_nothing() {
        let (old_dir, new_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let old = sealer(old_dir.path());
        let sealed = old.seal("r", b"secret").unwrap();
        let both = sealer(new_dir.path()).with_former(&[old_dir.path().join("kek")]).unwrap();
        assert_eq!(*both.open("r", &sealed).unwrap(), b"secret");
        assert!(!both.is_current("r", &sealed));
        let fresh = both.seal("r", b"secret").unwrap();
        assert!(both.is_current("r", &fresh) && old.open("r", &fresh).is_err());
        assert!(sealer(new_dir.path()).with_former(&[old_dir.path().join("nowhere")]).is_err());
    }

    #[test]
    fn every_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let ours = sealer(dir.path());
        let sealed = URL_SAFE_NO_PAD.decode(ours.seal("r", b"secret").unwrap()).unwrap();
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(ours.open("r", &URL_SAFE_NO_PAD.encode(&damaged)).is_err(), "byte {at}");
            assert!(ours.open("r", &URL_SAFE_NO_PAD.encode(&sealed[..at])).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_lost_key_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let error = Sealer::from_file(&dir.path().join("kek"), false).err().unwrap();
        assert!(error.to_string().contains("is missing"), "{error}");
    }
}
