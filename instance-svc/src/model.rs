//! A model's settings: checked once, here, then trusted.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use postern_proto::instance::v1 as pb;
use postern_proto::{Failure, MemberName, ModelName};
use serde::{Deserialize, Serialize};

use crate::capabilities::{self, PROVIDERS};

/// The settings, as they are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// The family of its prompts.
    pub family: String,
    /// The wire format.
    pub provider: String,
    /// Where it is served.
    pub endpoints: Vec<EndpointSpec>,
    /// Its name at its server.
    pub identifier: String,
    /// From where it may be used.
    pub client_networks: Vec<IpNet>,
    /// The groups whose members may use it; empty for anyone.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Where the adapter may connect.
    pub endpoint_networks: Vec<IpNet>,
    /// Which adapters serve it.
    pub adapter_group: String,
    /// Tokens of prompt and answer; 0 when not known.
    pub context_length: u32,
    /// Requests at once per gateway replica; 0 for no limit.
    pub max_concurrency: u32,
    /// For a connection.
    pub connect_ms: u64,
    /// For the first content.
    pub first_content_ms: u64,
    /// Between contents.
    pub idle_ms: u64,
    /// For the whole answer.
    pub total_ms: u64,
    /// What an administrator says that it can do.
    #[serde(default, with = "said")]
    pub said: pb::Capabilities,
    /// Headers beside those of the API, by name.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The authorities of its server's certificate; empty for the system's.
    #[serde(default)]
    pub ca_pem: String,
}

/// Capabilities, as they are stored: the message's own bytes, so that what it gains later is kept.
mod said {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use postern_proto::instance::v1::Capabilities;
    use prost::Message as _;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(said: &Capabilities, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(said.encode_to_vec()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Capabilities, D::Error> {
        let bytes = STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)?;
        Capabilities::decode(bytes.as_slice()).map_err(D::Error::custom)
    }
}

/// A place where the model is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// What routes name.
    pub id: String,
    /// The API's base URL, without a trailing slash.
    pub url: String,
}

const MAX_ENDPOINTS: usize = 16;
const MAX_NETWORKS: usize = 256;
const MAX_HEADERS: usize = 16;
const MAX_CA_PEM: usize = 64 * 1024;

impl ModelSpec {
    /// Checks what an administrator wrote. Endpoints keep the ids that `before` gave the same URLs.
    ///
    /// # Errors
    /// REQUEST_INVALID names the field.
    pub fn check(model: pb::Model, before: Option<&Self>) -> Result<(ModelName, Self), Failure> {
        let pb::Model {
            name,
            family,
            provider,
            endpoints,
            identifier,
            client_networks,
            endpoint_networks,
            adapter_group,
            limits,
            timers,
            groups,
            capabilities,
            headers,
            ca_pem,
            // Output only.
            credential_kind: _,
            version: _,
            create_time: _,
            update_time: _,
        } = model;
        let name = ModelName::new(name).map_err(|error| Failure::field("model.name", error.to_string()))?;
        let provider = default(provider, "openai");
        if !PROVIDERS.contains(&provider.as_str()) {
            return Err(Failure::field("model.provider", format!("must be one of: {}", PROVIDERS.join(", "))));
        }
        let group = MemberName::new(default(adapter_group, "default")).map_err(|_| {
            Failure::field("model.adapter_group", "must be 1 to 63 characters of a-z, 0-9, '-', '_', '.'")
        })?;
        let limits = limits.unwrap_or_default();
        let timers = timers.unwrap_or_default();
        let said = capabilities.unwrap_or_default();
        capabilities::check(&said)?;
        let spec = Self {
            family: word("model.family", default(family, "general"))?,
            provider,
            endpoints: check_endpoints(endpoints, before)?,
            identifier: text("model.identifier", default(identifier, name.as_str()), 255)?,
            client_networks: networks("model.client_networks", &client_networks)?,
            endpoint_networks: networks("model.endpoint_networks", &endpoint_networks)?,
            groups: crate::directory::groups("model.groups", groups)?,
            adapter_group: group.into(),
            context_length: limits.context_length,
            max_concurrency: limits.max_concurrency,
            connect_ms: timer("model.timers.connect", timers.connect, 5_000)?,
            first_content_ms: timer("model.timers.first_content", timers.first_content, 60_000)?,
            idle_ms: timer("model.timers.idle", timers.idle, 60_000)?,
            total_ms: timer("model.timers.total", timers.total, 600_000)?,
            said,
            headers: check_headers(headers)?,
            ca_pem: check_ca(ca_pem)?,
        };
        Ok((name, spec))
    }

    /// Whether its servers are reached in the same places and the same way.
    #[must_use]
    pub fn is_reached_as(&self, before: &Self) -> bool {
        let urls = |spec: &Self| spec.endpoints.iter().map(|endpoint| endpoint.url.clone()).collect::<Vec<_>>();
        urls(self) == urls(before)
            && self.provider == before.provider
            && self.endpoint_networks == before.endpoint_networks
            && self.ca_pem == before.ca_pem
            // One of them may say to a proxy where to go.
            && self.headers == before.headers
            && self.adapter_group == before.adapter_group
    }

    /// What it can do: what is known of its kind, and what is said of it.
    #[must_use]
    pub fn capabilities(&self) -> pb::Capabilities {
        capabilities::of(&self.provider, &self.family, &self.identifier, &self.said)
    }

    /// The headers, as the contract says them.
    #[must_use]
    pub fn headers(&self) -> Vec<pb::Header> {
        let header = |(name, value): (&String, &String)| pb::Header { name: name.clone(), value: value.clone() };
        self.headers.iter().map(header).collect()
    }

    /// The limits, as the contract says them.
    #[must_use]
    pub fn limits(&self) -> pb::Limits {
        pb::Limits { context_length: self.context_length, max_concurrency: self.max_concurrency }
    }

    /// The timers, as the contract says them.
    #[must_use]
    pub fn timers(&self) -> pb::Timers {
        let duration = |ms| prost_types::Duration::try_from(Duration::from_millis(ms)).ok();
        pb::Timers {
            connect: duration(self.connect_ms),
            first_content: duration(self.first_content_ms),
            idle: duration(self.idle_ms),
            total: duration(self.total_ms),
        }
    }
}

fn default(given: String, otherwise: &str) -> String {
    if given.is_empty() { otherwise.to_owned() } else { given }
}

fn text(field: &str, value: String, max: usize) -> Result<String, Failure> {
    if value.len() > max || value.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Failure::field(field, format!("must be at most {max} bytes without spaces or control characters")));
    }
    Ok(value)
}

fn word(field: &str, value: String) -> Result<String, Failure> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.');
    if value.len() > 63 || !value.bytes().all(allowed) {
        return Err(Failure::field(field, "must be 1 to 63 characters of a-z, 0-9, '-', '_' and '.'"));
    }
    Ok(value)
}

pub(crate) fn networks(field: &str, texts: &[String]) -> Result<Vec<IpNet>, Failure> {
    if texts.len() > MAX_NETWORKS {
        return Err(Failure::field(field, format!("at most {MAX_NETWORKS} networks")));
    }
    let read = |text: &String| {
        let network: IpNet = text
            .parse()
            .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
            .map_err(|_| Failure::field(field, format!("`{text}` is not a network such as 10.0.0.0/8")))?;
        if network.trunc() != network {
            return Err(Failure::field(
                field,
                format!("`{text}` has bits beyond its prefix; meant is {}", network.trunc()),
            ));
        }
        Ok(network)
    };
    texts.iter().map(read).collect()
}

fn timer(field: &str, given: Option<prost_types::Duration>, default_ms: u64) -> Result<u64, Failure> {
    let Some(given) = given else { return Ok(default_ms) };
    let wrong = || Failure::field(field, "must be 1 ms to 1 hour");
    let duration = Duration::try_from(given).map_err(|_| wrong())?;
    let ms = u64::try_from(duration.as_millis()).map_err(|_| wrong())?;
    if (1..=3_600_000).contains(&ms) { Ok(ms) } else { Err(wrong()) }
}

/// Headers that the API, the connection or the credential sets.
const TAKEN: &[&str] = &[
    "accept",
    "api-key",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-api-key",
    "x-goog-api-key",
    "x-request-id",
];

fn check_headers(given: Vec<pb::Header>) -> Result<BTreeMap<String, String>, Failure> {
    if given.len() > MAX_HEADERS {
        return Err(Failure::field("model.headers", format!("at most {MAX_HEADERS}")));
    }
    let mut headers = BTreeMap::new();
    for pb::Header { name, value } in given {
        let known = axum::http::HeaderName::from_lowercase(name.as_bytes()).is_ok();
        if !known || name.len() > 128 || TAKEN.contains(&name.as_str()) || name.starts_with("x-amz-") {
            let problem = "must be a header's name in lower case that nothing else sets";
            return Err(Failure::field("model.headers.name", problem));
        }
        if value.is_empty() || value.len() > 1024 || !value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
            return Err(Failure::field("model.headers.value", "must be 1 to 1024 visible ASCII characters"));
        }
        if headers.insert(name, value).is_some() {
            return Err(Failure::field("model.headers.name", "is given twice"));
        }
    }
    Ok(headers)
}

fn check_ca(pem: String) -> Result<String, Failure> {
    if pem.len() > MAX_CA_PEM {
        return Err(Failure::field("model.ca_pem", format!("is larger than {} KiB", MAX_CA_PEM >> 10)));
    }
    let tls = postern_egress::ClientTls { ca_pem: pem, certificate: None };
    tls.check().map_err(|problem| Failure::field("model.ca_pem", problem.to_string()))?;
    Ok(tls.ca_pem)
}

fn check_endpoints(given: Vec<pb::Endpoint>, before: Option<&ModelSpec>) -> Result<Vec<EndpointSpec>, Failure> {
    if given.is_empty() || given.len() > MAX_ENDPOINTS {
        return Err(Failure::field("model.endpoints", format!("must be 1 to {MAX_ENDPOINTS}")));
    }
    let mut endpoints: Vec<EndpointSpec> = Vec::new();
    for pb::Endpoint { id: _, url } in given {
        let url = check_url(&url)?;
        if endpoints.iter().any(|endpoint| endpoint.url == url) {
            return Err(Failure::field("model.endpoints.url", format!("`{url}` is given twice")));
        }
        let known = before.and_then(|spec| spec.endpoints.iter().find(|endpoint| endpoint.url == url));
        let id = known.map_or_else(|| format!("ep_{}", uuid::Uuid::now_v7().simple()), |known| known.id.clone());
        endpoints.push(EndpointSpec { id, url });
    }
    Ok(endpoints)
}

/// A base URL: http or https, a host, no user, query or fragment.
fn check_url(text: &str) -> Result<String, Failure> {
    let wrong = |problem: &str| {
        Failure::field("model.endpoints.url", format!("{problem}; give it like http://10.0.0.7:8000/v1"))
    };
    if text.len() > 2048 || text.contains('#') {
        return Err(wrong("the URL is too long or has a fragment"));
    }
    let url: axum::http::Uri = text.parse().map_err(|_| wrong("the URL is not well-formed"))?;
    let authority = url.authority().ok_or_else(|| wrong("the URL has no host"))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err(wrong("the URL is neither http nor https"));
    }
    if authority.host().is_empty() || authority.as_str().contains('@') {
        // A user in the URL would be a credential in the clear.
        return Err(wrong("the URL has no host, or has a user in it"));
    }
    if url.query().is_some() {
        return Err(wrong("the URL has a query"));
    }
    let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    if !port.is_empty() && authority.port_u16().is_none_or(|port| port == 0) {
        return Err(wrong("the URL's port is none"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> pb::Model {
        pb::Model {
            name: "smol".to_owned(),
            endpoints: vec![pb::Endpoint { id: String::new(), url: "http://127.0.0.1:7499/v1/".to_owned() }],
            ..Default::default()
        }
    }

    #[test]
    fn defaults_are_filled_in_and_ids_kept() {
        let (name, spec) = ModelSpec::check(sample(), None).unwrap();
        assert_eq!((name.as_str(), spec.identifier.as_str()), ("smol", "smol"));
        assert_eq!((spec.family.as_str(), spec.provider.as_str()), ("general", "openai"));
        assert_eq!(spec.endpoints[0].url, "http://127.0.0.1:7499/v1");
        assert_eq!(spec.first_content_ms, 60_000);
        let (_, again) = ModelSpec::check(sample(), Some(&spec)).unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn what_is_stored_reads_back_and_what_older_versions_stored_does_too() {
        let said = pb::Capabilities { sampling: Some(false), ..Default::default() };
        let headers = vec![pb::Header { name: "x-team".to_owned(), value: "a".to_owned() }];
        let (_, spec) = ModelSpec::check(pb::Model { capabilities: Some(said), headers, ..sample() }, None).unwrap();
        let stored = serde_json::to_value(&spec).unwrap();
        assert_eq!(serde_json::from_value::<ModelSpec>(stored.clone()).unwrap(), spec);
        let serde_json::Value::Object(mut older) = stored else { panic!("an object") };
        older.retain(|name, _| !matches!(name.as_str(), "said" | "headers" | "ca_pem"));
        let read: ModelSpec = serde_json::from_value(older.into()).unwrap();
        assert_eq!((read.said, read.headers.len()), (pb::Capabilities::default(), 0));
    }

    #[test]
    fn a_wrong_field_is_named() {
        let url = |url: &str| pb::Model {
            endpoints: vec![pb::Endpoint { id: String::new(), url: url.to_owned() }],
            ..sample()
        };
        let duration = |ms| prost_types::Duration::try_from(Duration::from_millis(ms)).ok();
        let timers = |connect| Some(pb::Timers { connect, ..Default::default() });
        let header = |name: &str, value: &str| pb::Model {
            headers: vec![pb::Header { name: name.to_owned(), value: value.to_owned() }],
            ..sample()
        };
        let code = pb::Capabilities { code: Some(0), ..Default::default() };
        let cases = [
            (pb::Model { name: "a b".to_owned(), ..sample() }, "model.name"),
            (pb::Model { family: "Ä".to_owned(), ..sample() }, "model.family"),
            (pb::Model { provider: "telepathy".to_owned(), ..sample() }, "model.provider"),
            (pb::Model { identifier: "a b".to_owned(), ..sample() }, "model.identifier"),
            (pb::Model { endpoints: vec![], ..sample() }, "model.endpoints"),
            (url("ftp://x/"), "model.endpoints.url"),
            (url("http://x:99999/v1"), "model.endpoints.url"),
            (url("http://x:0/v1"), "model.endpoints.url"),
            (url("http://x:/v1"), "model.endpoints.url"),
            (url("http://[::1]:70000/v1"), "model.endpoints.url"),
            (url("http://"), "model.endpoints.url"),
            (url("127.0.0.1:80"), "model.endpoints.url"),
            (url("http://user:pass@x/"), "model.endpoints.url"),
            (url("http://x/?key=1"), "model.endpoints.url"),
            (url("http://x/#y"), "model.endpoints.url"),
            (pb::Model { client_networks: vec!["10.0.0.1/8".to_owned()], ..sample() }, "model.client_networks"),
            (pb::Model { endpoint_networks: vec!["here".to_owned()], ..sample() }, "model.endpoint_networks"),
            (pb::Model { adapter_group: "A".to_owned(), ..sample() }, "model.adapter_group"),
            (pb::Model { groups: vec!["A".to_owned()], ..sample() }, "model.groups"),
            (pb::Model { groups: (0..33).map(|n| format!("g{n}")).collect(), ..sample() }, "model.groups"),
            (pb::Model { timers: timers(duration(0)), ..sample() }, "model.timers.connect"),
            (header("Authorization", "x"), "model.headers.name"),
            (header("authorization", "x"), "model.headers.name"),
            (header("x-amz-date", "x"), "model.headers.name"),
            (header("x-team", "a\nb"), "model.headers.value"),
            (pb::Model { ca_pem: "none".to_owned(), ..sample() }, "model.ca_pem"),
            (pb::Model { capabilities: Some(code), ..sample() }, "model.capabilities.code"),
            (pb::Model { timers: timers(duration(3_600_001)), ..sample() }, "model.timers.connect"),
        ];
        for (model, field) in cases {
            let failure = ModelSpec::check(model, None).unwrap_err();
            assert_eq!(failure.fields.first().map(|(name, _)| name.as_str()), Some(field), "{failure}");
        }
    }
}
