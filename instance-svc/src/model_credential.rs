//! What an adapter proves itself with at a model's server: checked here, sealed at rest, opened for the adapter alone.

use postern_egress::ClientTls;
use postern_proto::Failure;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::model_credential::Credential;
use prost::Message as _;

/// A credential that has been checked.
#[derive(Clone)]
pub struct ModelCredential(pb::ModelCredential);

const MAX_PEM: usize = 64 * 1024;
/// The kind of an API key that is sealed as it is; everything else is sealed as a message.
const PLAIN_KEY: &str = "api_key";
const CERTIFICATE: &str = "+certificate";

impl ModelCredential {
    /// None at all.
    #[must_use]
    pub fn none() -> Self {
        let credential = Some(Credential::None(pb::NoCredential {}));
        Self(pb::ModelCredential { credential, client_certificate: None })
    }

    /// Checks what an administrator gave.
    ///
    /// # Errors
    /// REQUEST_INVALID names the field.
    pub fn check(given: pb::ModelCredential) -> Result<Self, Failure> {
        match &given.credential {
            None => return Err(Failure::field("credential", "is empty")),
            Some(Credential::None(pb::NoCredential {})) => {}
            Some(Credential::ApiKey(pb::ApiKey { value })) => {
                graphic("credential.api_key.value", value, 1..=4096)?;
            }
            Some(Credential::Aws(key)) => {
                graphic("credential.aws.access_key_id", &key.access_key_id, 1..=128)?;
                graphic("credential.aws.secret_access_key", &key.secret_access_key, 1..=256)?;
                graphic("credential.aws.session_token", &key.session_token, 0..=4096)?;
                graphic("credential.aws.region", &key.region, 1..=64)?;
            }
            Some(Credential::AwsIdentity(identity)) => {
                use pb::aws_identity::Source;
                graphic("credential.aws_identity.region", &identity.region, 1..=64)?;
                graphic("credential.aws_identity.role_arn", &identity.role_arn, 0..=2048)?;
                graphic("credential.aws_identity.external_id", &identity.external_id, 0..=1224)?;
                match &identity.source {
                    None => return Err(Failure::field("credential.aws_identity.source", "is missing")),
                    Some(Source::Profile(name)) => graphic("credential.aws_identity.profile", name, 1..=128)?,
                    Some(Source::Key(key)) => {
                        graphic("credential.aws_identity.key.access_key_id", &key.access_key_id, 1..=128)?;
                        graphic("credential.aws_identity.key.secret_access_key", &key.secret_access_key, 1..=256)?;
                        graphic("credential.aws_identity.key.session_token", &key.session_token, 0..=4096)?;
                    }
                    Some(Source::WebIdentity(_) | Source::Machine(_)) => {}
                }
            }
            Some(Credential::Google(pb::GoogleServiceAccount { key_json })) => {
                let is_object = || serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(key_json).is_ok();
                if key_json.len() > MAX_PEM || !(key_json.is_empty() || is_object()) {
                    return Err(Failure::field("credential.google.key_json", "is not a service account's key file"));
                }
            }
        }
        if let Some(shown) = &given.client_certificate {
            let pb::ClientCertificate { certificate_pem, private_key_pem } = shown;
            let field = "credential.client_certificate";
            if certificate_pem.len() > MAX_PEM || private_key_pem.len() > MAX_PEM {
                return Err(Failure::field(field, format!("is larger than {} KiB", MAX_PEM >> 10)));
            }
            let certificate = Some((certificate_pem.clone(), private_key_pem.clone()));
            let tls = ClientTls { certificate, ..ClientTls::default() };
            tls.check().map_err(|problem| Failure::field(field, problem.to_string()))?;
        }
        Ok(Self(given))
    }

    /// The name of its kind, as it is stored.
    #[must_use]
    pub fn kind(&self) -> String {
        let kind = match &self.0.credential {
            Some(Credential::ApiKey(_)) => PLAIN_KEY,
            Some(Credential::Aws(_)) => "aws",
            Some(Credential::AwsIdentity(_)) => "aws_identity",
            Some(Credential::Google(_)) => "google",
            Some(Credential::None(_)) | None => "none",
        };
        format!("{kind}{}", if self.0.client_certificate.is_some() { CERTIFICATE } else { "" })
    }

    /// The kind that a stored name stands for.
    #[must_use]
    pub fn kind_of(stored: &str) -> pb::CredentialKind {
        match stored.strip_suffix(CERTIFICATE).unwrap_or(stored) {
            "none" => pb::CredentialKind::None,
            PLAIN_KEY => pb::CredentialKind::ApiKey,
            "aws" => pb::CredentialKind::Aws,
            "aws_identity" => pb::CredentialKind::AwsIdentity,
            "google" => pb::CredentialKind::Google,
            _ => pb::CredentialKind::Unspecified,
        }
    }

    /// What is to be sealed; `None` when nothing is secret.
    #[must_use]
    pub fn secret(&self) -> Option<Vec<u8>> {
        match (&self.0.credential, &self.0.client_certificate) {
            (Some(Credential::ApiKey(pb::ApiKey { value })), None) => Some(value.clone().into_bytes()),
            (Some(Credential::None(_)) | None, None) => None,
            _ => Some(self.0.encode_to_vec()),
        }
    }

    /// The credential of a stored kind, opened.
    ///
    /// # Errors
    /// INTERNAL when it is not what was sealed.
    pub fn opened(kind: &str, secret: &[u8]) -> Result<Self, Failure> {
        if kind != PLAIN_KEY {
            return pb::ModelCredential::decode(secret).map(Self).map_err(Failure::internal);
        }
        let value = std::str::from_utf8(secret).map_err(Failure::internal)?.to_owned();
        let credential = Some(Credential::ApiKey(pb::ApiKey { value }));
        Ok(Self(pb::ModelCredential { credential, client_certificate: None }))
    }

    /// For the adapter.
    #[must_use]
    pub fn into_message(self) -> pb::ModelCredential {
        self.0
    }

    /// The one provider that it is for; `None` for any, and the field that says what it is.
    #[must_use]
    pub const fn only_for(&self) -> Option<(&'static str, &'static str)> {
        match &self.0.credential {
            Some(Credential::Aws(_)) => Some(("bedrock", "credential.aws")),
            Some(Credential::AwsIdentity(_)) => Some(("bedrock", "credential.aws_identity")),
            Some(Credential::Google(_)) => Some(("vertex", "credential.google")),
            _ => None,
        }
    }
}

fn graphic(field: &str, value: &str, length: std::ops::RangeInclusive<usize>) -> Result<(), Failure> {
    if length.contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    let (least, most) = (length.start(), length.end());
    Err(Failure::field(field, format!("must be {least} to {most} visible ASCII characters")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pb::aws_identity::Source;

    fn key(value: &str) -> pb::ModelCredential {
        let credential = Some(Credential::ApiKey(pb::ApiKey { value: value.to_owned() }));
        pb::ModelCredential { credential, client_certificate: None }
    }

    fn aws() -> pb::ModelCredential {
        let key = pb::AwsAccessKey {
            access_key_id: "AKID".to_owned(),
            secret_access_key: "secret".to_owned(),
            session_token: String::new(),
            region: "eu-central-1".to_owned(),
        };
        pb::ModelCredential { credential: Some(Credential::Aws(key)), client_certificate: None }
    }

    fn identity(source: Option<Source>) -> pb::ModelCredential {
        let identity = pb::AwsIdentity { region: "eu-central-1".to_owned(), source, ..pb::AwsIdentity::default() };
        pb::ModelCredential { credential: Some(Credential::AwsIdentity(identity)), client_certificate: None }
    }

    #[test]
    fn what_is_sealed_opens_as_what_it_was() {
        for (given, kind) in [
            (key("k"), pb::CredentialKind::ApiKey),
            (aws(), pb::CredentialKind::Aws),
            (identity(Some(Source::Profile("p".to_owned()))), pb::CredentialKind::AwsIdentity),
        ] {
            let checked = ModelCredential::check(given.clone()).unwrap();
            assert_eq!(ModelCredential::kind_of(&checked.kind()), kind);
            let opened = ModelCredential::opened(&checked.kind(), &checked.secret().unwrap()).unwrap();
            assert_eq!(opened.into_message(), given);
        }
        // As every version sealed it.
        assert_eq!(ModelCredential::check(key("k")).unwrap().secret().unwrap(), b"k");
        assert_eq!(ModelCredential::none().secret(), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let field = |given| ModelCredential::check(given).err().unwrap().fields[0].0.clone();
        assert_eq!(field(key("a b")), "credential.api_key.value");
        assert_eq!(field(pb::ModelCredential::default()), "credential");
        assert_eq!(field(identity(None)), "credential.aws_identity.source");
        assert_eq!(field(identity(Some(Source::Profile("a b".to_owned())))), "credential.aws_identity.profile");
        let shown = pb::ClientCertificate { certificate_pem: "x".to_owned(), private_key_pem: "y".to_owned() };
        let given = pb::ModelCredential { client_certificate: Some(shown), ..key("k") };
        assert_eq!(field(given), "credential.client_certificate");
    }
}
