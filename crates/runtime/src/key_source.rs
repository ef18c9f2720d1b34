//! Where another issuer's keys come from: a file, a URL, OpenID Connect Discovery, or the configuration itself.
//!
//! Keys are fetched beside the requests, never for one: a token under a key that is not known is refused, and asks for a fetch.
//! The last good keys stay in use through an outage, up to a bound; a set that cannot be read replaces nothing.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use ipnet::IpNet;
use postern_egress::{Client, Egress};
use postern_token::{PublicKey, read_jwks};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::Clock;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Longest wait for a whole answer.
const FETCH: Duration = Duration::from_secs(5);
/// Largest document, in bytes.
const MAX_DOCUMENT_BYTES: usize = 64 * 1024;
/// How often a file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long keys are kept that say nothing of it, and the bounds of what is believed.
const KEEP: Duration = Duration::from_secs(600);
const LEAST_KEEP: Duration = Duration::from_secs(60);
const MOST_KEEP: Duration = Duration::from_secs(3600);
/// Tries after a failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Unknown keys make for one fetch in this time.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// Keys that were asked for in vain, and how long they are remembered.
const VAIN_KEYS: u64 = 10_000;
const VAIN_FOR: Duration = Duration::from_secs(60);

/// Where keys are.
#[derive(Debug, Clone)]
pub struct KeyPlace(Place);

#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    Url(Uri),
    /// Where the document at this URL says, which must name this issuer.
    Discovery {
        document: Uri,
        issuer: String,
    },
    Here(Vec<PublicKey>),
}

impl KeyPlace {
    /// A file, looked at every few seconds.
    #[must_use]
    pub const fn file(path: PathBuf) -> Self {
        Self(Place::File(path))
    }

    /// A key set itself, as JSON text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn here(jwks: &str) -> Result<Self, String> {
        read_jwks(jwks.as_bytes()).map(|keys| Self(Place::Here(keys))).map_err(|error| error.to_string())
    }

    /// A key set's URL: https, or http on loopback.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn url(text: &str) -> Result<Self, String> {
        checked(text).map(|url| Self(Place::Url(url)))
    }

    /// An issuer's discovery document (OpenID Connect Discovery 1.0 §4).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn discovery(issuer: &str) -> Result<Self, String> {
        let document = checked(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')))?;
        Ok(Self(Place::Discovery { document, issuer: issuer.to_owned() }))
    }
}

/// A URL under which keys can be trusted to be the issuer's: whoever can change them on their way can mint tokens.
fn checked(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|_| "is not a URL".to_owned())?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if loopback => Ok(uri),
        _ => Err("must be https, or http on loopback".to_owned()),
    }
}

/// Keys that were had, and how long they may be kept.
struct Fetched {
    keys: Vec<PublicKey>,
    keep: Duration,
}

/// One issuer's keys.
pub struct KeySource {
    issuer: String,
    place: Place,
    client: Client,
    max_age: Duration,
    asked: Notify,
    last_asked: Mutex<Option<Instant>>,
    vain: moka::sync::Cache<String, ()>,
}

impl KeySource {
    /// The keys of this issuer at this place. `networks`: where they may be served. `max_age`: how long they serve when none can
    /// be had.
    #[must_use]
    pub fn new(
        issuer: String,
        KeyPlace(place): KeyPlace,
        networks: &[IpNet],
        max_age: Duration,
        egress: &Egress,
    ) -> Self {
        Self {
            issuer,
            place,
            client: egress.client(networks.iter().copied(), CONNECT),
            max_age,
            asked: Notify::new(),
            last_asked: Mutex::default(),
            vain: moka::sync::Cache::builder().max_capacity(VAIN_KEYS).time_to_live(VAIN_FOR).build(),
        }
    }

    /// Asks for a fetch on account of a key that is not known; when to try again, or `None` when it is no use.
    pub fn ask_for(&self, kid: &str) -> Option<Duration> {
        if self.vain.contains_key(kid) {
            return None;
        }
        let mut last = self.last_asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wait) = last.map(|last| ASK_EVERY.saturating_sub(last.elapsed())).filter(|wait| !wait.is_zero()) {
            return Some(wait);
        }
        *last = Some(Instant::now());
        drop(last);
        self.vain.insert(kid.to_owned(), ());
        self.asked.notify_one();
        Some(FIRST_PAUSE)
    }

    /// Hands the newest keys to `put`, whenever they change, until it is dropped. No keys at all: they are too old to go by.
    pub async fn follow(&self, put: impl Fn(Vec<PublicKey>) + Send + Sync, clock: Arc<dyn Clock>) {
        let (mut pause, mut had, mut expired) = (FIRST_PAUSE, clock.boottime(), false);
        let (mut announced, mut in_use) = (String::new(), None);
        loop {
            let wait = match self.fetch().await {
                Ok(Fetched { keys, keep }) => {
                    // A new table forgets which tokens have been verified, so it is made only of new keys.
                    if in_use.as_ref() != Some(&keys) {
                        tracing::info!(issuer = self.issuer, keys = keys.len(), "keys of an issuer in use");
                        put(keys.clone());
                        in_use = Some(keys);
                    }
                    (pause, had, expired) = (FIRST_PAUSE, clock.boottime(), false);
                    announced.clear();
                    keep
                }
                Err(problem) => {
                    if problem != announced {
                        tracing::warn!(issuer = self.issuer, problem, "keys of an issuer cannot be had; trying again");
                        announced = problem;
                    }
                    if !expired && clock.boottime().saturating_sub(had) > self.max_age {
                        tracing::error!(issuer = self.issuer, "keys of an issuer are too old to go by");
                        put(Vec::new());
                        (expired, in_use) = (true, None);
                    }
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.asked.notified() => {}
            }
        }
    }

    async fn fetch(&self) -> Result<Fetched, String> {
        let fetch = async {
            match &self.place {
                Place::Here(keys) => Ok(Fetched { keys: keys.clone(), keep: MOST_KEEP }),
                Place::File(path) => {
                    let bytes = tokio::fs::read(path).await.map_err(|error| format!("{}: {error}", path.display()))?;
                    read((bytes, LOOK_EVERY))
                }
                Place::Url(url) => read(self.get(url).await?),
                Place::Discovery { document, issuer } => {
                    let (bytes, _) = self.get(document).await?;
                    let found: serde_json::Value =
                        serde_json::from_slice(&bytes).map_err(|_| "the discovery document is not JSON".to_owned())?;
                    // OpenID Connect Discovery 1.0 §4.3: else one issuer could speak for another.
                    if found["issuer"] != issuer.as_str() {
                        return Err("the discovery document is of another issuer".to_owned());
                    }
                    let keys = found["jwks_uri"].as_str().ok_or("the discovery document names no keys")?;
                    read(self.get(&checked(keys)?).await?)
                }
            }
        };
        tokio::time::timeout(FETCH, fetch).await.map_err(|_| "no answer in time".to_owned())?
    }

    async fn get(&self, url: &Uri) -> Result<(Vec<u8>, Duration), String> {
        let request = Request::get(url.clone())
            .header("accept", "application/jwk-set+json, application/json")
            .body(Full::default())
            .map_err(|error| error.to_string())?;
        let response = self.client.request(request).await.map_err(|error| postern_egress::chain(&error))?;
        // A redirect is not followed: it would lead where nobody configured.
        if response.status() != StatusCode::OK {
            return Err(format!("status {}", response.status().as_u16()));
        }
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = header(CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !matches!(media_type.as_str(), "application/json" | "application/jwk-set+json") {
            return Err(format!("content type `{media_type}`"));
        }
        let keep = max_age(header(CACHE_CONTROL)).map_or(KEEP, |age| age.clamp(LEAST_KEEP, MOST_KEEP));
        let body = Limited::new(response.into_body(), MAX_DOCUMENT_BYTES).collect().await;
        Ok((body.map_err(|error| error.to_string())?.to_bytes().to_vec(), keep))
    }
}

fn read((document, keep): (Vec<u8>, Duration)) -> Result<Fetched, String> {
    Ok(Fetched { keys: read_jwks(&document).map_err(|error| error.to_string())?, keep })
}

/// `max-age` of a `Cache-Control` (RFC 9111 §5.2.2.1).
fn max_age(header: &str) -> Option<Duration> {
    let seconds = header.split(',').find_map(|part| part.trim().strip_prefix("max-age="))?;
    seconds.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_only_from_where_nobody_can_change_them() {
        for good in ["https://issuer.test/keys", "http://127.0.0.1:1/keys", "http://localhost/keys", "http://[::1]/k"] {
            assert!(KeyPlace::url(good).is_ok(), "{good}");
        }
        for bad in ["http://issuer.test/keys", "http://10.0.0.1/keys", "ftp://x/", "file:///etc/passwd", "nonsense", ""]
        {
            assert!(KeyPlace::url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn max_age_is_read() {
        assert_eq!(max_age("public, max-age=300, must-revalidate"), Some(Duration::from_secs(300)));
        assert_eq!(max_age("no-store"), None);
        assert_eq!(max_age("max-age=x"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_unknown_keys_makes_for_one_fetch_in_ten_seconds() {
        let place = KeyPlace::file(PathBuf::new());
        let source = KeySource::new(
            String::new(),
            place,
            &[],
            Duration::ZERO,
            &Egress::new(&postern_egress::EgressConfig::default()).unwrap(),
        );
        assert_eq!(source.ask_for("k0"), Some(FIRST_PAUSE));
        for number in 1..1000 {
            assert_eq!(source.ask_for(&format!("k{number}")), Some(ASK_EVERY), "asked too soon");
        }
        assert_eq!(source.ask_for("k0"), None, "asked in vain");
        tokio::time::advance(ASK_EVERY).await;
        assert_eq!(source.ask_for("k1"), Some(FIRST_PAUSE));
    }
}
