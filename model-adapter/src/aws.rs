//! Credentials of AWS's: an access key that was registered, or those that the adapter gets for itself, by AWS's own providers
//! (<https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>), whose every connection is one of ours.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use aws_config::SdkConfig;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_types::region::Region;
use bytes::Bytes;
use http::Uri;
use http_body_util::{BodyExt as _, Full, Limited};
use ipnet::IpNet;
use postern_egress::{Client, Egress};
use postern_proto::instance::v1::aws_identity::Source;
use postern_proto::instance::v1::{AwsAccessKey, AwsIdentity};
use postern_proto::{Blame, Failure, Reason};
use secrecy::SecretString;

use crate::renewing::Renewing;

const CONNECT: Duration = Duration::from_secs(5);
/// Largest answer of a credential server, in bytes.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// Where AWS's machines (EC2), containers (ECS) and pods (EKS) are told their credentials, by address: nobody's name server is asked.
const TELLERS: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
];
/// How long credentials without an end serve before they are looked at again, in seconds.
const LOOK_AGAIN: u64 = 900;
/// What the sessions of a role are called in AWS's logs.
const SESSION: &str = "postern";

/// The credentials of a model's server.
pub struct AwsCredentials {
    /// Where requests are signed for.
    pub region: String,
    kind: Kind,
}

enum Kind {
    /// As they were registered.
    Fixed(Credentials),
    /// Got by the adapter.
    Renewed(Box<Renewed>),
}

struct Renewed {
    /// What they were asked for with.
    identity: AwsIdentity,
    http: SharedHttpClient,
    current: Renewing<Credentials>,
}

/// An access key as AWS's own parts take it.
fn of_key(key: AwsAccessKey) -> Credentials {
    let AwsAccessKey { access_key_id, secret_access_key, session_token, region: _ } = key;
    let session_token = Some(session_token).filter(|token| !token.is_empty());
    Credentials::new(access_key_id, secret_access_key, session_token, None, "registered")
}

/// The names that AWS's own services end in; its customers have some too, below `execute-api`, `s3`, `elb` and others.
const OF_AWS: [&str; 3] = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"];

/// The host of an https URL without the end that is AWS's own.
fn within_aws(uri: &Uri) -> Option<String> {
    let host = uri.host().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    let within = OF_AWS.iter().find_map(|end| host.strip_suffix(end))?;
    (uri.scheme_str() == Some("https")).then(|| within.to_owned())
}

/// Whether a URL is that of Bedrock's runtime in a region, or of its private endpoint in a customer's network: the adapter's identity is
/// shown to nobody else, whoever registers what.
#[must_use]
pub fn is_bedrock(uri: &Uri) -> bool {
    let Some(within) = within_aws(uri) else { return false };
    let parts: Vec<_> = within.split('.').collect();
    let runtime = |name: &str| name == "bedrock-runtime" || name == "bedrock-runtime-fips";
    match parts.as_slice() {
        [service, _region] => runtime(service),
        [endpoint, service, _region, "vpce"] => endpoint.starts_with("vpce-") && runtime(service),
        _ => false,
    }
}

/// Whether a URL is that of AWS's token service.
fn is_sts(uri: &Uri) -> bool {
    within_aws(uri)
        .is_some_and(|within| within == "sts" || within.starts_with("sts.") || within.starts_with("sts-fips."))
}

impl AwsCredentials {
    /// A key that was registered.
    #[must_use]
    pub fn fixed(key: AwsAccessKey) -> Self {
        Self { region: key.region.clone(), kind: Kind::Fixed(of_key(key)) }
    }

    /// Those that the adapter gets. AWS's token service is reached where the model's server would be: at a public address, or within the
    /// model's own networks.
    #[must_use]
    pub fn got(identity: AwsIdentity, egress: &Egress, networks: impl IntoIterator<Item = IpNet>) -> Self {
        let tellers = TELLERS.map(|address| (address, egress.client_for(address, CONNECT)));
        let wire = Wire { sts: egress.client(networks, CONNECT), tellers: Arc::new(tellers) };
        Self::over(identity, SharedHttpClient::new(wire))
    }

    fn over(identity: AwsIdentity, http: SharedHttpClient) -> Self {
        let region = identity.region.clone();
        let current = Renewing::default();
        Self { region, kind: Kind::Renewed(Box::new(Renewed { identity, http, current })) }
    }

    /// Whether they are got with this.
    #[must_use]
    pub fn are_got_with(&self, identity: &AwsIdentity) -> bool {
        matches!(&self.kind, Kind::Renewed(renewed) if renewed.identity == *identity)
    }

    /// Those of the moment, at `now` in seconds of Unix time.
    ///
    /// # Errors
    /// MODEL_CREDENTIAL_REJECTED when none are given.
    pub async fn get(&self, now: u64) -> Result<Credentials, Failure> {
        match &self.kind {
            Kind::Fixed(credentials) => Ok(credentials.clone()),
            Kind::Renewed(renewed) => {
                let late = || refused("no answer in time");
                let current = renewed.current.get(now, renewed.fetch(now), late).await?;
                Ok((*current).clone())
            }
        }
    }

    /// What must not be shown.
    pub fn secrets(&self) -> impl Iterator<Item = SecretString> {
        let (base, current) = match &self.kind {
            Kind::Fixed(credentials) => (None, Some(credentials.clone())),
            Kind::Renewed(renewed) => {
                let base = match &renewed.identity.source {
                    Some(Source::Key(key)) => Some(of_key(key.clone())),
                    _ => None,
                };
                (base, renewed.current.shown().map(|shown| (*shown).clone()))
            }
        };
        let secrets = |shown: Credentials| {
            let token = shown.session_token().map(SecretString::from);
            std::iter::once(SecretString::from(shown.secret_access_key())).chain(token).collect::<Vec<_>>()
        };
        base.into_iter().chain(current).flat_map(secrets)
    }
}

impl Renewed {
    async fn fetch(&self, now: u64) -> Result<(Credentials, u64), Failure> {
        // Made anew each time: one that has read a profile keeps what it has read.
        let provider = self.provider().await;
        let got = provider.provide_credentials().await.map_err(|error| {
            // The error itself says what was asked and why not; its causes say more, and no secret.
            refused(&postern_egress::chain(&error))
        })?;
        let end = got.expiry().and_then(|end| end.duration_since(UNIX_EPOCH).ok()).map(|end| end.as_secs());
        Ok((got, end.unwrap_or(now.saturating_add(LOOK_AGAIN))))
    }

    async fn provider(&self) -> SharedCredentialsProvider {
        let AwsIdentity { region, source, role_arn, external_id } = self.identity.clone();
        let region = Region::new(region);
        let config = ProviderConfig::without_region()
            .with_region(Some(region.clone()))
            .with_http_client(self.http.clone())
            .with_sleep_impl(TokioSleep::new())
            .with_behavior_version(Some(aws_config::BehaviorVersion::latest()));
        let base = match source {
            Some(Source::Profile(name)) => SharedCredentialsProvider::new(
                ProfileFileCredentialsProvider::builder().configure(&config).profile_name(name).build(),
            ),
            Some(Source::WebIdentity(_)) => SharedCredentialsProvider::new(
                WebIdentityTokenCredentialsProvider::builder().configure(&config).build(),
            ),
            Some(Source::Key(key)) => SharedCredentialsProvider::new(of_key(key)),
            Some(Source::Machine(_)) | None => {
                let container = EcsCredentialsProvider::builder().configure(&config).build();
                let machine = ImdsCredentialsProvider::builder().configure(&config).build();
                let chain = CredentialsProviderChain::first_try("container", container);
                SharedCredentialsProvider::new(chain.or_else("machine", machine))
            }
        };
        if role_arn.is_empty() {
            return base;
        }
        let config = SdkConfig::builder()
            .http_client(self.http.clone())
            .sleep_impl(aws_smithy_async::rt::sleep::SharedAsyncSleep::new(TokioSleep::new()))
            .time_source(aws_smithy_async::time::SystemTimeSource::new())
            .behavior_version(aws_config::BehaviorVersion::latest())
            .region(region)
            .build();
        let mut role = AssumeRoleProvider::builder(role_arn).session_name(SESSION).configure(&config);
        if !external_id.is_empty() {
            role = role.external_id(external_id);
        }
        SharedCredentialsProvider::new(role.build_from_provider(base).await)
    }
}

fn refused(detail: &str) -> Failure {
    let message = "AWS gives no credentials for the configured identity; an administrator can see to it";
    Failure::new(Reason::ModelCredentialRejected, message).with_blame(Blame::Adapter).with_detail(detail)
}

/// The connections of AWS's providers: to its token service, and to the addresses at which machines are told who they are.
#[derive(Clone)]
struct Wire {
    sts: Client,
    tellers: Arc<[(IpAddr, Client); 3]>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl HttpClient for Wire {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl Wire {
    /// The client for a destination; `None` where nothing of AWS's is.
    fn client_of(&self, uri: &Uri) -> Option<&Client> {
        let address = uri.host().and_then(|host| host.parse::<IpAddr>().ok());
        match address {
            Some(address) => self.tellers.iter().find(|(teller, _)| *teller == address).map(|(_, client)| client),
            None => is_sts(uri).then_some(&self.sts),
        }
    }

    async fn send(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let other = |error: Box<dyn std::error::Error + Send + Sync>| ConnectorError::other(error, None);
        let request = request.try_into_http1x().map_err(|error| other(error.into()))?;
        let (head, body) = request.into_parts();
        let client = self.client_of(&head.uri).ok_or_else(|| other("it is nothing of AWS's".into()))?;
        // What is asked is small, and in memory.
        let body = body.bytes().map(Bytes::copy_from_slice).unwrap_or_default();
        let request = http::Request::from_parts(head, Full::new(body));
        let answer = client.request(request).await.map_err(|error| ConnectorError::io(error.into()))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(other)?.to_bytes();
        let answer = http::Response::from_parts(head, SdkBody::from(body));
        HttpResponse::try_from(answer).map_err(|error| other(error.into()))
    }
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.clone().send(request))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use aws_smithy_runtime_api::client::http::http_client_fn;
    use postern_egress::EgressConfig;
    use postern_proto::instance::v1::aws_identity::{Machine, WebIdentity};

    /// A token service that answers each request with the next of these bodies and remembers what it was asked.
    #[derive(Debug, Clone, Default)]
    struct Sts {
        asked: Arc<Mutex<Vec<(String, String)>>>,
        status: u16,
        answer: String,
    }

    impl HttpConnector for Sts {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            let body = String::from_utf8(request.body().bytes().unwrap_or_default().to_vec()).unwrap();
            let signed = request.headers().get("authorization").unwrap_or_default().to_owned();
            self.asked.lock().unwrap().push((format!("{} {signed}", request.uri()), body));
            let answer = http::Response::builder().status(self.status).body(SdkBody::from(self.answer.clone()));
            HttpConnectorFuture::ready(Ok(HttpResponse::try_from(answer.unwrap()).unwrap()))
        }
    }

    fn sts(status: u16, answer: &str) -> (Sts, SharedHttpClient) {
        let sts = Sts { status, answer: answer.to_owned(), ..Sts::default() };
        let connector = SharedHttpConnector::new(sts.clone());
        (sts, http_client_fn(move |_, _| connector.clone()))
    }

    const ROLE: &str = "arn:aws:iam::123456789012:role/models";

    fn assumed(end: &str) -> String {
        format!(
            "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
             <AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>role-secret</SecretAccessKey>\
             <SessionToken>role-token</SessionToken><Expiration>{end}</Expiration></Credentials>\
             </AssumeRoleResult></AssumeRoleResponse>"
        )
    }

    fn by_key() -> AwsIdentity {
        let key = AwsAccessKey {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: "base-secret".to_owned(),
            ..AwsAccessKey::default()
        };
        AwsIdentity {
            region: "eu-central-1".to_owned(),
            source: Some(Source::Key(key)),
            role_arn: ROLE.to_owned(),
            external_id: "ours".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_role_is_assumed_and_serves_again() {
        let (sts, http) = sts(200, &assumed("2100-01-01T00:00:00Z"));
        let credentials = AwsCredentials::over(by_key(), http);
        assert!(credentials.are_got_with(&by_key()));
        assert_eq!(credentials.secrets().count(), 1, "the base key");
        let now = postern_runtime::Clock::now(&postern_runtime::SystemClock);
        for _ in 0..2 {
            let got = credentials.get(now).await.unwrap();
            assert_eq!((got.access_key_id(), got.session_token()), ("ASIAEXAMPLE", Some("role-token")));
        }
        let asked = sts.asked.lock().unwrap();
        let [(head, body)] = asked.as_slice() else { panic!("{asked:?}") };
        assert!(
            head.starts_with("https://sts.eu-central-1.amazonaws.com/ AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"),
            "{head}"
        );
        let form: std::collections::HashMap<_, _> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
        assert_eq!((form["Action"].as_str(), form["RoleArn"].as_str()), ("AssumeRole", ROLE));
        assert_eq!((form["ExternalId"].as_str(), form["RoleSessionName"].as_str()), ("ours", SESSION));
        assert_eq!(credentials.secrets().count(), 3);
    }

    #[tokio::test]
    async fn a_refusal_says_why_and_shows_no_secret() {
        let answer = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>not you</Message></Error></ErrorResponse>";
        let (_, http) = sts(403, answer);
        let failure = AwsCredentials::over(by_key(), http).get(0).await.unwrap_err();
        assert_eq!((failure.reason, failure.blame), (Reason::ModelCredentialRejected, Some(Blame::Adapter)));
        let shown = format!("{failure:?}");
        assert!(shown.contains("not you") && !shown.contains("base-secret"), "{shown}");
    }

    #[tokio::test]
    async fn an_identity_that_this_process_has_not_is_said_to_be_missing() {
        for source in [Source::WebIdentity(WebIdentity {}), Source::Profile("nobody-has-this-profile".to_owned())] {
            let (_, http) = sts(500, "");
            let identity = AwsIdentity { source: Some(source), role_arn: String::new(), ..by_key() };
            let failure = AwsCredentials::over(identity, http).get(0).await.unwrap_err();
            assert_eq!(failure.reason, Reason::ModelCredentialRejected);
        }
    }

    #[test]
    fn the_connections_are_to_aws_alone() {
        let egress = Egress::new(&EgressConfig::default()).unwrap();
        let tellers = TELLERS.map(|address| (address, egress.client_for(address, CONNECT)));
        let wire = Wire { sts: egress.client([], CONNECT), tellers: Arc::new(tellers) };
        let goes = |uri: &str| wire.client_of(&uri.parse().unwrap()).is_some();
        for good in [
            "https://sts.eu-central-1.amazonaws.com/",
            "https://sts.cn-north-1.amazonaws.com.cn/",
            "http://169.254.169.254/latest",
            "http://169.254.170.2/v2",
        ] {
            assert!(goes(good), "{good}");
        }
        for bad in [
            "http://sts.amazonaws.com/",
            "https://amazonaws.com.example.org/",
            "https://evilamazonaws.com/",
            "https://x.execute-api.eu-central-1.amazonaws.com/",
            "http://169.254.169.253/",
            "https://10.0.0.1/",
            "http://[fd00:ec2::254]/",
        ] {
            assert!(!goes(bad), "{bad}");
        }
        for (good, uri) in [
            (true, "https://bedrock-runtime.eu-central-1.amazonaws.com"),
            (true, "https://bedrock-runtime-fips.us-east-1.amazonaws.com"),
            (true, "https://bedrock-runtime.eu-central-1.api.aws"),
            (true, "https://vpce-0123-abc.bedrock-runtime.eu-central-1.vpce.amazonaws.com"),
            (false, "https://x.execute-api.eu-central-1.amazonaws.com"),
            (false, "https://bedrock-runtime.s3.eu-central-1.amazonaws.com"),
            (false, "https://ec2-1-2-3-4.compute-1.amazonaws.com"),
            (false, "http://bedrock-runtime.eu-central-1.amazonaws.com"),
            (false, "https://amazonaws.com.evil.example"),
            (false, "https://127.0.0.1"),
        ] {
            assert_eq!(is_bedrock(&uri.parse().unwrap()), good, "{uri}");
        }
    }

    #[test]
    fn the_machines_role_is_asked_for_where_machines_are_told() {
        let identity = AwsIdentity { source: Some(Source::Machine(Machine {})), ..by_key() };
        let egress = Egress::new(&EgressConfig::default()).unwrap();
        let credentials = AwsCredentials::got(identity.clone(), &egress, []);
        assert!(credentials.are_got_with(&identity) && !credentials.are_got_with(&by_key()));
    }
}
