//! The trust root: an Ed25519 key (RFC 8032) of the instance's own. Its public half is pinned by each gateway when that is added; under
//! it the instance seals what it tells, so that a gateway that starts while the instance is away can believe its own notes.
//! It signs no token.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_proto::instance::v1 as pb;
use postern_runtime::notes::signed_bytes;
use prost::Message;

use crate::keys::KeyError;
use crate::seal::Sealer;
use crate::store::Store;

const RECORD: &str = "instance/trust_root";

/// The root.
#[derive(Clone)]
pub struct TrustRoot(Arc<Ed25519KeyPair>);

impl TrustRoot {
    /// Opens the root, or makes it when there is none.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn open_or_make(store: &dyn Store, sealer: &Sealer) -> Result<Self, KeyError> {
        let unfit = |error: &dyn std::fmt::Display| KeyError::Unfit(error.to_string());
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|error| unfit(&error))?;
        // Another replica's may be there already; then that is the one.
        let sealed = store.trust_root(sealer.seal(RECORD, made.as_ref())?).await?;
        let pair = Ed25519KeyPair::from_pkcs8(&sealer.open(RECORD, &sealed)?).map_err(|error| unfit(&error))?;
        Ok(Self(Arc::new(pair)))
    }

    /// The public half, base64url.
    #[must_use]
    pub fn public(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.public_key().as_ref())
    }

    /// Seals a message of a kind.
    #[must_use]
    pub fn seal(&self, kind: &str, message: &impl Message) -> pb::Sealed {
        let payload = message.encode_to_vec();
        let signature = self.0.sign(&signed_bytes(kind, &payload)).as_ref().to_vec();
        pb::Sealed { payload, signature }
    }
}
