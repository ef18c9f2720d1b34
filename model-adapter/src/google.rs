//! Access tokens of Google's: for the key of a service account by the JWT bearer grant (RFC 7523,
//! <https://developers.google.com/identity/protocols/oauth2/service-account>), or from the metadata server of the machine that this runs
//! on (<https://cloud.google.com/compute/docs/access/authenticate-workloads>).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request};
use http_body_util::Full;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use postern_egress::{Client, Egress};
use postern_proto::{Blame, Failure, Reason};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::renewing::Renewing;
use crate::upstream;

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// The machine's own server, by address: nobody's name server is asked.
const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
const METADATA_URL: &str = "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token";
const CONNECT: Duration = Duration::from_secs(5);
/// How long an assertion is good, in seconds; the most that Google takes is an hour.
const ASSERTION_SECONDS: u64 = 600;

/// Where tokens come from, and the one of the moment.
pub struct GoogleTokens {
    source: Source,
    /// What it was made of.
    key_json: SecretString,
    client: Client,
    current: Renewing<SecretString>,
}

enum Source {
    ServiceAccount(Box<ServiceAccount>),
    Metadata,
}

struct ServiceAccount {
    email: String,
    key_id: String,
    key: EncodingKey,
    token_uri: String,
}

/// The file that Google gives for a service account.
#[derive(Deserialize)]
struct KeyFile {
    client_email: String,
    private_key: String,
    #[serde(default)]
    private_key_id: String,
    #[serde(default = "google_token_uri")]
    token_uri: String,
}

fn google_token_uri() -> String {
    "https://oauth2.googleapis.com/token".to_owned()
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: u64,
}

impl GoogleTokens {
    /// By the key file of a service account. Its token server is reached where a model's server would be: at a public address, or within
    /// the model's own networks.
    ///
    /// # Errors
    /// Says what is wrong with the file, without a word of it.
    pub fn of_service_account(
        key_json: &str,
        egress: &Egress,
        networks: impl IntoIterator<Item = ipnet::IpNet>,
    ) -> Result<Self, String> {
        let file: KeyFile = serde_json::from_str(key_json).map_err(|_| "the service account's key is no key file")?;
        let key = EncodingKey::from_rsa_pem(file.private_key.as_bytes())
            .map_err(|_| "the service account's private key cannot be read")?;
        let KeyFile { client_email: email, private_key_id: key_id, token_uri, .. } = file;
        let account = ServiceAccount { email, key_id, key, token_uri };
        let client = egress.client(networks, CONNECT);
        let (source, key_json) = (Source::ServiceAccount(Box::new(account)), key_json.to_owned().into());
        Ok(Self { source, key_json, client, current: Renewing::default() })
    }

    /// From the machine's metadata server. None of it is reached where the process keeps within its networks.
    #[must_use]
    pub fn of_this_machine(egress: &Egress) -> Self {
        let client = egress.client_for(METADATA, CONNECT);
        Self { source: Source::Metadata, key_json: String::new().into(), client, current: Renewing::default() }
    }

    /// The token of the moment.
    #[must_use]
    pub fn shown(&self) -> Option<SecretString> {
        self.current.shown().map(|token| (*token).clone())
    }

    /// Whether it was made of this.
    #[must_use]
    pub fn is_of(&self, key_json: &str) -> bool {
        self.key_json.expose_secret() == key_json
    }

    /// A token that is good for a while, at `now` in seconds of Unix time.
    ///
    /// # Errors
    /// MODEL_CREDENTIAL_REJECTED when none is given, MODEL_UNREACHABLE when there is nobody to ask.
    pub async fn token(&self, now: u64) -> Result<Arc<SecretString>, Failure> {
        let fetch = async {
            let answer = self.fetch(now).await?;
            Ok((SecretString::from(answer.access_token), now.saturating_add(answer.expires_in)))
        };
        self.current.get(now, fetch, || refused("no answer in time")).await
    }

    async fn fetch(&self, now: u64) -> Result<Answer, Failure> {
        let request = match &self.source {
            Source::Metadata => {
                Request::get(METADATA_URL).header("metadata-flavor", "Google").body(Full::new(Bytes::new()))
            }
            Source::ServiceAccount(account) => {
                let form = form_urlencoded::Serializer::new(String::new())
                    .append_pair("grant_type", GRANT)
                    .append_pair("assertion", &account.assertion(now)?)
                    .finish();
                Request::builder()
                    .method(Method::POST)
                    .uri(&account.token_uri)
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(Full::new(form.into()))
            }
        };
        let request = request.map_err(Failure::internal)?;
        let response = self.client.request(request).await.map_err(|error| refused(&postern_egress::chain(&error)))?;
        let status = response.status();
        let body = upstream::read_up_to(response.into_body(), 64 * 1024).await?;
        if !status.is_success() {
            return Err(refused(&format!("status {status}")));
        }
        serde_json::from_slice(&body).map_err(|_| refused("no token in the answer"))
    }
}

impl ServiceAccount {
    fn assertion(&self, now: u64) -> Result<String, Failure> {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(self.key_id.clone()).filter(|id| !id.is_empty());
        let (iss, aud) = (self.email.as_str(), self.token_uri.as_str());
        let claims = Claims { iss, scope: SCOPE, aud, iat: now, exp: now + ASSERTION_SECONDS };
        encode(&header, &claims, &self.key).map_err(|_| Failure::internal("the assertion could not be signed"))
    }
}

fn refused(detail: &str) -> Failure {
    let message = "Google gives no access token for the configured credential; an administrator can renew it";
    Failure::new(Reason::ModelCredentialRejected, message).with_blame(Blame::Adapter).with_detail(detail)
}
