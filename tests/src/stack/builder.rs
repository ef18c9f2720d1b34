//! What a stack is made of, and how it is started.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use gateway_svc::config::{
    AdapterConfig as AdapterWay, GatewayConfig, HttpConfig, LimitsConfig, TrustConfig, WhenStale,
};
use gateway_svc::issuers::IssuerConfig as OtherIssuer;
use instance_svc::config::{InstanceConfig as InstanceSettings, IssuerConfig, KeyConfig, SealConfig, StoreConfig};
use model_adapter::config::AdapterConfig as AdapterSettings;
use postern_proto::instance::v1 as instance;
use postern_runtime::clock::ManualClock;
use postern_runtime::config::DrainConfig;
use postern_runtime::grpc::Dialer;
use postern_runtime::instance::InstanceConfig;
use postern_runtime::notes::NotesConfig;
use postern_runtime::peer::{AddressSource, ClientConfig};
use postern_runtime::readiness::Readiness;
use postern_runtime::telemetry::TelemetryConfig;
use postern_runtime::tls::Tls;
use postern_runtime::{Clock, grpc};

use super::office::Office;
use super::{AUDIENCE, ISSUER, Stack, peer};
use crate::{Authority, FakeModel, Forge, soon};

/// Clients as their sockets say.
const CLIENTS: ClientConfig =
    ClientConfig { client_address: AddressSource::Socket, proxies: Vec::new(), client_networks: Vec::new() };

/// What a stack is made of.
pub struct StackBuilder<'a> {
    models: Vec<(instance::Model, Option<&'a str>)>,
    bindings: Vec<(&'static str, Vec<String>)>,
    disabled: Vec<&'static str>,
    embedded: bool,
    accept_credentials: bool,
    limits: LimitsConfig,
    drain: DrainConfig,
    mutual_tls: bool,
    certified_fleet: bool,
    issuer_url: &'static str,
    audience: &'static str,
    key: fn() -> &'static Forge,
    notes: bool,
    trust: TrustConfig,
    issuers: Vec<OtherIssuer>,
    clients: gateway_svc::config::Clients,
    egress: postern_egress::EgressConfig,
    /// How long a key signs and how long it is published before, in seconds.
    rotation: (u64, u64),
}

impl Default for StackBuilder<'_> {
    fn default() -> Self {
        Self {
            models: Vec::new(),
            bindings: Vec::new(),
            disabled: Vec::new(),
            embedded: false,
            accept_credentials: true,
            limits: LimitsConfig { max_in_flight: 64 },
            drain: DrainConfig { notice_seconds: 0, grace_seconds: 5 },
            mutual_tls: false,
            certified_fleet: false,
            issuer_url: ISSUER,
            audience: AUDIENCE,
            key: Forge::instance,
            notes: false,
            trust: TrustConfig { when_stale: WhenStale::Serve, stale_seconds: 5 },
            issuers: Vec::new(),
            clients: gateway_svc::config::Clients { grpc: CLIENTS, http: CLIENTS },
            rotation: (24 * 3600, 900),
            egress: postern_egress::EgressConfig::default(),
        }
    }
}

impl<'a> StackBuilder<'a> {
    /// Registers a model at a server, with the key `model-api-key`, and binds chat and code completion to it.
    #[must_use]
    pub fn model(self, name: &str, server: &FakeModel) -> Self {
        self.registered(Stack::model(name, &server.url()), Some("model-api-key"))
            .bind("chat", &[name])
            .bind("code_completion", &[name])
    }

    /// Registers a model without binding it.
    #[must_use]
    pub fn registered(mut self, model: instance::Model, api_key: Option<&'a str>) -> Self {
        self.models.push((model, api_key));
        self
    }

    /// Binds a feature.
    #[must_use]
    pub fn bind(mut self, feature: &'static str, models: &[&str]) -> Self {
        self.bindings.push((feature, models.iter().map(|model| (*model).to_owned()).collect()));
        self
    }

    /// Binds a feature to nothing.
    #[must_use]
    pub fn disable(mut self, feature: &'static str) -> Self {
        self.disabled.push(feature);
        self
    }

    /// Runs the adapter inside the gateway.
    #[must_use]
    pub const fn embedded(mut self) -> Self {
        self.embedded = true;
        self
    }

    /// Lets the HTTP door take access tokens only.
    #[must_use]
    pub const fn access_tokens_only(mut self) -> Self {
        self.accept_credentials = false;
        self
    }

    /// Limits the requests at once.
    #[must_use]
    pub const fn max_in_flight(mut self, max_in_flight: usize) -> Self {
        self.limits = LimitsConfig { max_in_flight };
        self
    }

    /// Lets the gateway keep notes for a start while the instance is away.
    #[must_use]
    pub const fn notes(mut self) -> Self {
        self.notes = true;
        self
    }

    /// Lets the gateway believe another issuer.
    #[must_use]
    pub fn issuer(mut self, issuer: OtherIssuer) -> Self {
        self.issuers.push(issuer);
        self
    }

    /// Says who may connect to the gateway, and how they are known.
    #[must_use]
    pub fn clients(mut self, clients: ClientConfig) -> Self {
        self.clients = gateway_svc::config::Clients { grpc: clients.clone(), http: clients };
        self
    }

    /// Lets the gateway refuse tokens while news of the instance is older than this.
    #[must_use]
    pub const fn refuse_when_stale(mut self, stale_seconds: u64) -> Self {
        self.trust = TrustConfig { when_stale: WhenStale::Refuse, stale_seconds };
        self
    }

    /// Everybody shows a certificate to everybody.
    #[must_use]
    pub const fn mutual_tls(mut self) -> Self {
        self.mutual_tls = true;
        self
    }

    /// As [`StackBuilder::mutual_tls`], and the fleet is known by its certificates alone.
    #[must_use]
    pub const fn certified_fleet(mut self) -> Self {
        self.certified_fleet = true;
        self.mutual_tls()
    }

    /// Lets the instance be of this issuer URL and sign with this key.
    #[must_use]
    pub const fn issuer_url(mut self, issuer_url: &'static str, key: fn() -> &'static Forge) -> Self {
        self.issuer_url = issuer_url;
        self.key = key;
        self
    }

    /// Lets the gateway be of this audience.
    #[must_use]
    pub const fn audience(mut self, audience: &'static str) -> Self {
        self.audience = audience;
        self
    }

    /// Rotates keys after this many seconds, each published for so many before.
    #[must_use]
    pub const fn rotating(mut self, rotation_seconds: u64, lead_seconds: u64) -> Self {
        self.rotation = (rotation_seconds, lead_seconds);
        self
    }

    /// Lets the adapter reach so far.
    #[must_use]
    pub fn egress(mut self, egress: postern_egress::EgressConfig) -> Self {
        self.egress = egress;
        self
    }

    /// Gives open streams this many seconds when a process stops.
    #[must_use]
    pub const fn grace(mut self, grace_seconds: u64) -> Self {
        self.drain = DrainConfig { notice_seconds: 0, grace_seconds };
        self
    }

    /// Starts everything and waits until it is ready.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn start(self) -> Stack {
        let dir = tempfile::tempdir().unwrap();
        let authority = self.mutual_tls.then(Authority::default);
        let certificate = |name: &str| authority.as_ref().map(|authority| authority.issue(dir.path(), name));
        let own = certificate("test").map(|config| Tls::load(&config).unwrap());
        let dialer = Dialer::of(own.as_ref()).unwrap();
        let clock = ManualClock::starting_now();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let settings = InstanceSettings { tls: certificate("instance"), ..self.instance_settings(dir.path()) };
        let admin = instance_svc::app::bootstrap(&settings, "admin".to_owned()).await.unwrap().unwrap();
        let admin = admin.expose().to_owned();
        let instance_config = settings.clone();
        let instance = instance_svc::app::App::build(settings, shared.clone()).await.unwrap();
        let peer = |address| peer(address, self.mutual_tls);
        let at_instance = peer(instance.grpc);
        let office = Office { channel: grpc::channel(&at_instance, &dialer).unwrap(), admin: admin.clone() };

        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listen = gateway_svc::config::Listen { grpc: any, http: any, ops: any };
        let listeners = gateway_svc::app::Listeners::bind(&listen).await.unwrap();
        let address = peer(listeners.grpc.local_addr().unwrap()).as_str().to_owned();
        let link = |member: &str| {
            let file = dir.path().join(format!("{member}.credential"));
            let by_secret = InstanceConfig::by_secret(at_instance.clone(), file);
            match self.certified_fleet {
                true => InstanceConfig { credential_file: None, certificate: true, ..by_secret },
                false => by_secret,
            }
        };
        let gateway_kind =
            instance::fleet_member::Gateway { audience: self.audience.to_owned(), address, managed: false };
        office
            .add_member("gateway", instance::create_fleet_member_request::Kind::Gateway(gateway_kind), &link("gateway"))
            .await;
        let adapter_kind = instance::fleet_member::Adapter { group: String::new() };
        office
            .add_member("adapter", instance::create_fleet_member_request::Kind::Adapter(adapter_kind), &link("adapter"))
            .await;
        for (model, key) in &self.models {
            office.add_model(model.clone(), *key).await;
        }
        for (feature, models) in &self.bindings {
            let models = instance::feature::SelfHosted { models: models.clone() };
            office.bind(feature, instance::feature::Binding::SelfHosted(models)).await;
        }
        for feature in &self.disabled {
            office.bind(feature, instance::feature::Binding::Disabled(instance::feature::Disabled {})).await;
        }
        let user = office.add_user("eve", instance::CredentialPurpose::Inference, vec![]).await;

        let adapter = if self.embedded {
            None
        } else {
            let listen = model_adapter::config::Listen { grpc: any, ops: any };
            let telemetry = TelemetryConfig::default();
            let settings = AdapterSettings {
                listen,
                instance: link("adapter"),
                tls: certificate("adapter"),
                clients: Default::default(),
                egress: self.egress.clone(),
                telemetry,
                drain: self.drain,
            };
            Some(model_adapter::app::App::build(settings, shared.clone()).await.unwrap())
        };
        let way = match &adapter {
            Some(adapter) => AdapterWay::Remote(peer(adapter.grpc)),
            None => AdapterWay::Embedded(dir.path().join("adapter.credential")),
        };
        let settings = GatewayConfig {
            listen,
            instance: link("gateway"),
            adapters: HashMap::from([("default".to_owned(), way)]),
            http: HttpConfig { accept_credentials: self.accept_credentials },
            trust: self.trust,
            notes: self.notes.then(|| NotesConfig { file: dir.path().join("gateway.notes"), max_age_seconds: 3600 }),
            issuers: self.issuers.clone(),
            limits: self.limits,
            tls: certificate("gateway"),
            clients: self.clients.clone(),
            egress: Default::default(),
            prompts: Default::default(),
            telemetry: TelemetryConfig::default(),
            drain: self.drain,
        };
        let gateway_config = settings.clone();
        let gateway = gateway_svc::app::App::build_on(listeners, settings, shared).await.unwrap();
        for readiness in
            [Some(&gateway.readiness), adapter.as_ref().map(|adapter| &adapter.readiness)].into_iter().flatten()
        {
            ready(readiness).await;
        }
        let mut stack = Stack {
            instance,
            gateway,
            adapter,
            clock,
            admin,
            user,
            instance_id: String::new(),
            authority,
            dialer,
            dir,
            gateway_config,
            instance_config,
        };
        let token = stack.token().await;
        stack.instance_id = Forge::claims(&token)["postern_instance"].as_str().unwrap().to_owned();
        stack
    }

    fn instance_settings(&self, dir: &Path) -> InstanceSettings {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        InstanceSettings {
            listen: instance_svc::config::Listen { grpc: any, http: any, ops: any },
            issuer: IssuerConfig {
                url: self.issuer_url.to_owned(),
                access_token_seconds: 300,
                max_access_token_seconds: 900,
            },
            store: StoreConfig { sqlite_file: Some(dir.join("instance.db")), postgres_url_file: None },
            seal: SealConfig { key_file: dir.join("seal.key"), former_key_files: Vec::new() },
            keys: KeyConfig {
                import_file: Some((self.key)().pem()),
                rotation_seconds: self.rotation.0,
                lead_seconds: self.rotation.1,
                ..KeyConfig::default()
            },
            publish: Vec::new(),
            tls: None,
            clients: Default::default(),
            egress: Default::default(),
            telemetry: TelemetryConfig::default(),
            drain: self.drain,
        }
    }
}

/// Waits until all conditions are open.
async fn ready(readiness: &Readiness) {
    let mut watch = readiness.watch();
    soon("readiness", watch.wait_for(|ready| *ready)).await.unwrap();
}
