//! The link of a gateway or an adapter to its instance. They dial, the instance never does; whatever breaks is dialled again
//! with growing pauses, and what was learned stays in use meanwhile.

use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::StreamExt as _;
use http::HeaderMap;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::token_service_client::TokenServiceClient;
use postern_proto::{Failure, Reason};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

use crate::clock::Clock;
use crate::config::{self, ConfigError, PeerAddress};
use crate::grpc::{self, Dialer};
use crate::lifecycle::Lifecycle;
use crate::notes::Notes;
use crate::peer;
use crate::readiness::Condition;
use crate::request_id::RequestId;

/// The scope of the fleet's own tokens at the instance.
pub const FLEET_SCOPE: &str = "instance:fleet";
/// The scope of a gateway's tokens at an adapter.
pub const GENERATE_SCOPE: &str = "model:generate";

/// The scope of an instance's own tokens, with which it vouches for the address of a caller that it relays.
pub const RELAY_SCOPE: &str = "relay:forward";

/// The `[instance]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceConfig {
    /// Where the instance's gRPC port is.
    pub address: PeerAddress,
    /// The file that `postern fleet add` wrote: how this process proves who it is, unless it does so in another way.
    #[serde(default)]
    pub credential_file: Option<PathBuf>,
    /// The process proves who it is by its `[tls]` certificate.
    #[serde(default)]
    pub certificate: bool,
    /// The process proves who it is by the token in this file, which somebody renews, such as a Kubernetes projected service-account
    /// token.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// The instance's trust root, for `[notes]`. Default: the second line of the credential file.
    #[serde(default)]
    pub trust_root: Option<String>,
}

impl InstanceConfig {
    /// An instance to which a process proves who it is by the secret in a file.
    #[must_use]
    pub const fn by_secret(address: PeerAddress, credential_file: PathBuf) -> Self {
        let credential_file = Some(credential_file);
        Self { address, credential_file, certificate: false, token_file: None, trust_root: None }
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError`] names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let ways = [self.credential_file.is_some(), self.certificate, self.token_file.is_some()];
        if ways.into_iter().filter(|way| *way).count() == 1 {
            return Ok(());
        }
        let problem = "say one of instance.credential_file, instance.certificate and instance.token_file";
        Err(ConfigError::invalid("instance", problem))
    }

    fn proof(&self) -> Result<OwnProof, ConfigError> {
        self.check()?;
        Ok(match (&self.credential_file, &self.token_file) {
            (Some(file), _) => OwnProof::Secret(config::secret_file("instance.credential_file", file)?),
            (None, Some(file)) => OwnProof::TokenFile(file.clone()),
            (None, None) => OwnProof::Certificate,
        })
    }
}

/// How a process proves to its instance who it is.
#[derive(Clone)]
enum OwnProof {
    Secret(SecretString),
    Certificate,
    TokenFile(PathBuf),
}

/// What is shown for a token: its type (RFC 8693 §3) and itself.
type Shown<'a> = (&'a str, &'a str);

/// A secret of the instance; the default type.
const SECRET: &str = "";
const CERTIFICATE: &str = "urn:postern:params:oauth:token-type:certificate";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// A silent stream is given up after this; the instance sends a heartbeat every 2 s.
pub const SILENCE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// An access token and its end.
#[derive(Clone)]
pub struct Minted {
    /// The token.
    pub token: Arc<str>,
    /// Its end, in seconds since 1970.
    pub expires: u64,
}

/// The link.
#[derive(Clone)]
pub struct InstanceLink {
    channel: Channel,
    proof: OwnProof,
    replica_id: Arc<str>,
    clock: Arc<dyn Clock>,
    lifecycle: Lifecycle,
    /// Counts the times that kept tokens had to be renewed before their time.
    renewals: watch::Sender<u64>,
}

impl InstanceLink {
    /// A link that dials when it is first used.
    ///
    /// # Errors
    /// [`ConfigError`] when the credential file cannot be read.
    pub fn new(
        config: &InstanceConfig,
        dialer: &Dialer,
        clock: Arc<dyn Clock>,
        lifecycle: &Lifecycle,
    ) -> Result<Self, ConfigError> {
        let channel =
            grpc::channel(&config.address, dialer).map_err(|error| ConfigError::invalid("instance.address", error))?;
        Ok(Self {
            channel,
            proof: config.proof()?,
            replica_id: RequestId::generate().as_str().into(),
            clock,
            lifecycle: lifecycle.clone(),
            renewals: watch::channel(0).0,
        })
    }

    /// Renews all kept tokens now: a key was removed, and one of them may be of that key.
    pub(crate) fn renew_tokens(&self) {
        self.renewals.send_modify(|count| *count += 1);
    }

    /// The channel to the instance.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// This process among the replicas of its fleet member.
    #[must_use]
    pub fn replica_id(&self) -> &str {
        &self.replica_id
    }

    /// Exchanges a credential for an access token. An empty audience is the instance's default for the credential.
    ///
    /// # Errors
    /// The instance's refusal, or INSTANCE_UNAVAILABLE.
    pub async fn exchange(&self, credential: &str, audience: &str, scope: &[&str]) -> Result<Minted, Failure> {
        self.request_token((SECRET, credential), audience, scope, HeaderMap::new()).await
    }

    /// Exchanges what this process proves itself by.
    async fn exchange_own(&self, audience: &str, scope: &[&str]) -> Result<Minted, Failure> {
        match &self.proof {
            OwnProof::Secret(secret) => self.exchange(secret.expose_secret(), audience, scope).await,
            OwnProof::Certificate => self.request_token((CERTIFICATE, ""), audience, scope, HeaderMap::new()).await,
            OwnProof::TokenFile(file) => {
                // Read each time, for it is renewed.
                let token = tokio::fs::read_to_string(file).await.map_err(|error| {
                    let message = "the process's own token cannot be read";
                    Failure::new(Reason::CredentialInvalid, message).with_detail(error)
                })?;
                self.request_token((JWT, token.trim()), audience, scope, HeaderMap::new()).await
            }
        }
    }

    /// Exchanges somebody's credential, and tells the instance, with a token of this process's own, where that somebody is.
    ///
    /// # Errors
    /// As [`InstanceLink::exchange`]; the refusal may be of the own token.
    pub async fn exchange_for(
        &self,
        credential: &str,
        audience: &str,
        scope: &[&str],
        (own, address): (Arc<str>, IpAddr),
    ) -> Result<Minted, Failure> {
        let mut headers = HeaderMap::new();
        peer::vouch(&mut headers, &own, address)?;
        self.request_token((SECRET, credential), audience, scope, headers).await
    }

    /// A token of this process's own for the instance.
    ///
    /// # Errors
    /// As [`InstanceLink::exchange`].
    pub async fn own_token(&self) -> Result<Minted, Failure> {
        self.exchange_own("", &[FLEET_SCOPE]).await
    }

    async fn request_token(
        &self,
        (kind, shown): Shown<'_>,
        audience: &str,
        scope: &[&str],
        headers: HeaderMap,
    ) -> Result<Minted, Failure> {
        let mut request = tonic::Request::new(pb::ExchangeTokenRequest {
            subject_token: shown.to_owned(),
            subject_token_type: kind.to_owned(),
            audience: audience.to_owned(),
            scope: scope.iter().map(|scope| (*scope).to_owned()).collect(),
            ..Default::default()
        });
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        let answer =
            tokio::time::timeout(EXCHANGE_TIMEOUT, TokenServiceClient::new(self.channel()).exchange_token(request))
                .await
                .map_err(|_| Failure::new(Reason::InstanceUnavailable, "the instance did not answer in time"))?
                .map_err(|status| Failure::from_status(&status, Reason::InstanceUnavailable))?
                .into_inner();
        let expires = answer.expire_time.map_or(0, |time| u64::try_from(time.seconds).unwrap_or(0));
        Ok(Minted { token: answer.access_token.into(), expires })
    }

    /// Keeps a token of this process's own for an audience, renewed at half its life, so that no request waits for one. The
    /// condition opens with the first.
    #[must_use]
    pub fn keep_token(&self, audience: String, scope: &'static str, given: Condition, notes: Notes) -> KeptToken {
        let kept = KeptToken::new(self.clock.clone());
        if let Some(noted) = notes.token(&audience) {
            kept.put(noted);
            given.open();
        }
        let (link, slot) = (self.clone(), kept.clone());
        let mut renewals = self.renewals.subscribe();
        let renew = async move {
            let mut pause = Pause::default();
            loop {
                renewals.mark_unchanged();
                match link.exchange_own(&audience, &[scope]).await {
                    Ok(minted) => {
                        pause = Pause::default();
                        let left = minted.expires.saturating_sub(link.clock.now());
                        notes.keep_token(&audience, &minted);
                        slot.put(minted);
                        given.open();
                        let half = tokio::time::sleep(Duration::from_secs((left / 2).max(1)));
                        tokio::select! {
                            () = half => {}
                            Ok(()) = renewals.changed() => {}
                            () = async {
                                // Whoever refuses every token makes no flood of exchanges.
                                tokio::time::sleep(FIRST_PAUSE).await;
                                slot.refused.notified().await;
                            } => {}
                        }
                    }
                    Err(failure) => {
                        pause.announce("token exchange", &failure);
                        pause.wait().await;
                    }
                }
            }
        };
        let stopping = self.lifecycle.stopping().clone();
        self.lifecycle.spawn_vital("token", async move { stopping.run_until_cancelled(renew).await.unwrap_or(()) });
        kept
    }

    /// Does something small again and again until the process stops.
    pub(crate) fn every(&self, period: Duration, act: impl Fn() + Send + 'static) {
        let stopping = self.lifecycle.stopping().clone();
        self.lifecycle.spawn_vital("period", async move {
            while stopping.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
                act();
            }
        });
    }

    /// Runs a subscription again and again until the process stops. `run` gets a token for the instance and returns when its
    /// stream ends.
    pub fn subscribe<F>(&self, name: &'static str, run: impl Fn(String) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Failure> + Send,
    {
        let (link, stopping) = (self.clone(), self.lifecycle.stopping().clone());
        // A subscriber that ended unseen would leave a process that serves on old news.
        self.lifecycle.spawn_vital(name, async move {
            let mut pause = Pause::default();
            while !stopping.is_cancelled() {
                let begun = tokio::time::Instant::now();
                let session = async {
                    match link.own_token().await {
                        Ok(minted) => run(minted.token.to_string()).await,
                        Err(failure) => failure,
                    }
                };
                let failure = tokio::select! {
                    failure = session => failure,
                    () = stopping.cancelled() => break,
                };
                if begun.elapsed() > SILENCE {
                    pause = Pause::default();
                }
                pause.announce(name, &failure);
                pause.wait().await;
            }
        });
    }
}

/// The next message of a stream that must not be silent.
///
/// # Errors
/// INSTANCE_UNAVAILABLE after [`SILENCE`], or what the stream ended with.
pub async fn next<T>(stream: &mut tonic::Streaming<T>) -> Result<Option<T>, Failure> {
    match tokio::time::timeout(SILENCE, stream.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(message))) => Ok(Some(message)),
        Ok(Some(Err(status))) => Err(Failure::from_status(&status, Reason::InstanceUnavailable)),
        Err(_) => Err(Failure::new(Reason::InstanceUnavailable, "the instance has gone silent")),
    }
}

/// A token that is renewed in the background.
#[derive(Clone)]
pub struct KeptToken {
    current: Arc<ArcSwapOption<Minted>>,
    refused: Arc<Notify>,
    clock: Arc<dyn Clock>,
}

impl KeptToken {
    /// No token yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { current: Arc::default(), refused: Arc::default(), clock }
    }

    /// This one from now on.
    pub fn put(&self, minted: Minted) {
        self.current.store(Some(Arc::new(minted)));
    }

    /// The token, while there is one that has not ended.
    #[must_use]
    pub fn get(&self) -> Option<Arc<str>> {
        let minted = self.current.load_full()?;
        (minted.expires > self.clock.now()).then(|| minted.token.clone())
    }

    /// Somebody did not accept this token: unless there is another by now, it is renewed before its time.
    pub fn refused(&self, token: &str) {
        if self.current.load().as_ref().is_some_and(|minted| &*minted.token == token) {
            self.refused.notify_one();
        }
    }
}

/// Growing pauses between tries, and one log line per kind of failure in a row.
#[derive(Default)]
struct Pause {
    last: Option<Duration>,
    announced: Option<Reason>,
}

impl Pause {
    fn announce(&mut self, what: &'static str, failure: &Failure) {
        if self.announced != Some(failure.reason) {
            self.announced = Some(failure.reason);
            tracing::warn!(
                link.what = what,
                reason = failure.reason.name(),
                message = failure.message,
                detail = failure.detail,
                "the instance cannot be used; trying again"
            );
        }
    }

    async fn wait(&mut self) {
        let pause = self.last.map_or(FIRST_PAUSE, |last| (last * 2).min(LONGEST_PAUSE));
        self.last = Some(pause);
        // Half of the pause is drawn by chance, so that a fleet does not come back all at once.
        let chance = uuid::Uuid::new_v4().as_bytes()[0];
        tokio::time::sleep(pause / 2 + pause / 2 * u32::from(chance) / 255).await;
    }
}
