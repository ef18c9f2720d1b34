//! The whole system in one process.

mod builder;
mod office;

use std::net::SocketAddr;

use gateway_svc::config::GatewayConfig;
use instance_svc::config::InstanceConfig as InstanceSettings;
use postern_proto::completion::v1::{ContentPart, Message, Role, content_part};
use postern_proto::gateway::v1 as gateway;
use postern_proto::gateway::v1::completion_service_client::CompletionServiceClient;
use postern_proto::instance::v1 as instance;
use postern_proto::instance::v1::token_service_client::TokenServiceClient;
use postern_proto::{Failure, Reason};
use postern_runtime::clock::ManualClock;
use postern_runtime::config::PeerAddress;
use postern_runtime::grpc::Dialer;
use postern_runtime::request_id::RequestId;
use postern_runtime::{Clock, grpc};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Request, Status};

pub use builder::StackBuilder;
use office::Office;

use crate::{Authority, soon};

/// The gateway's audience.
const AUDIENCE: &str = "postern-gateway:gateway";
const ISSUER: &str = "http://instance.test";

/// A running stack.
pub struct Stack {
    /// The instance.
    pub instance: instance_svc::app::App,
    /// The gateway.
    pub gateway: gateway_svc::app::App,
    /// The adapter, when it has a process of its own.
    pub adapter: Option<model_adapter::app::App>,
    /// The clock of all three.
    pub clock: ManualClock,
    /// The administrator's credential.
    pub admin: String,
    /// A user's personal access token.
    pub user: String,
    /// Who made the certificates, where there are any.
    pub authority: Option<Authority>,
    /// What the test is to those that it dials.
    pub dialer: Dialer,
    /// Where its files are.
    pub dir: TempDir,
    /// What the gateway was built from.
    pub gateway_config: GatewayConfig,
    /// What the instance was built from.
    pub instance_config: InstanceSettings,
    /// The instance's id.
    pub instance_id: String,
}

fn peer(address: SocketAddr, tls: bool) -> PeerAddress {
    let scheme = if tls { "https" } else { "http" };
    PeerAddress::try_from(format!("{scheme}://{address}")).unwrap()
}

async fn exchange(channel: Channel, credential: &str, audience: &str, scope: &[&str]) -> Result<String, Status> {
    let request = instance::ExchangeTokenRequest {
        subject_token: credential.to_owned(),
        audience: audience.to_owned(),
        scope: scope.iter().map(|scope| (*scope).to_owned()).collect(),
        ..Default::default()
    };
    Ok(TokenServiceClient::new(channel).exchange_token(request).await?.into_inner().access_token)
}

/// The reason in a status.
#[must_use]
pub fn reason(status: &Status) -> Reason {
    Failure::from_status(status, Reason::Internal).reason
}

impl Stack {
    /// A stack with an adapter of its own, whose HTTP door takes credentials.
    #[must_use]
    pub fn builder<'a>() -> StackBuilder<'a> {
        StackBuilder::default()
    }

    /// A model at a server on loopback.
    #[must_use]
    pub fn model(name: &str, url: &str) -> instance::Model {
        instance::Model {
            name: name.to_owned(),
            endpoints: vec![instance::Endpoint { id: String::new(), url: url.to_owned() }],
            endpoint_networks: vec!["127.0.0.0/8".to_owned()],
            ..Default::default()
        }
    }

    /// The way to an address, as somebody.
    ///
    /// # Panics
    /// Never in practice: the address was bound.
    #[must_use]
    pub fn channel(&self, address: SocketAddr, dialer: &Dialer) -> Channel {
        grpc::channel(&peer(address, self.authority.is_some()), dialer).unwrap()
    }

    /// The way to the instance.
    ///
    /// # Panics
    /// Never in practice: the address was bound.
    #[must_use]
    pub fn at_instance(&self) -> Channel {
        self.channel(self.instance.grpc, &self.dialer)
    }

    /// The way to the gateway.
    ///
    /// # Panics
    /// Never in practice: the address was bound.
    #[must_use]
    pub fn at_gateway(&self) -> Channel {
        self.channel(self.gateway.grpc, &self.dialer)
    }

    /// The way to the adapter.
    ///
    /// # Panics
    /// When it is embedded.
    #[must_use]
    pub fn at_adapter(&self) -> Channel {
        self.channel(self.adapter.as_ref().unwrap().grpc, &self.dialer)
    }

    /// The gateway's client.
    #[must_use]
    pub fn completions(&self) -> CompletionServiceClient<Channel> {
        CompletionServiceClient::new(self.at_gateway()).max_encoding_message_size(64 << 20)
    }

    /// A URL of the gateway's HTTP door.
    #[must_use]
    pub fn http(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.http)
    }

    /// A URL of the instance's HTTP door.
    #[must_use]
    pub fn instance_http(&self, path: &str) -> String {
        format!("http://{}{path}", self.instance.http)
    }

    /// Exchanges a credential.
    ///
    /// # Errors
    /// The instance's status.
    pub async fn exchange(&self, credential: &str, audience: &str, scope: &[&str]) -> Result<String, Status> {
        exchange(self.at_instance(), credential, audience, scope).await
    }

    /// The user's access token for chat and code completion.
    ///
    /// # Panics
    /// When it is not given.
    pub async fn token(&self) -> String {
        self.exchange(&self.user, "", &["feature:chat", "feature:code_completion"]).await.unwrap()
    }

    /// The administrator's request to the instance.
    ///
    /// # Panics
    /// When the token is not given.
    pub async fn administer<T>(&self, message: T) -> Request<T> {
        let token = self.exchange(&self.admin, "", &["instance:admin"]).await.unwrap();
        Self::request(message, &token)
    }

    /// Adds a user with one credential of this purpose, and gives that.
    pub async fn add_user(
        &self,
        name: &str,
        purpose: instance::CredentialPurpose,
        roles: Vec<instance::Role>,
    ) -> String {
        let office = Office { channel: self.at_instance(), admin: self.admin.clone() };
        office.add_user(name, purpose, roles).await
    }

    /// A request with a bearer.
    #[must_use]
    pub fn request<T>(message: T, bearer: &str) -> Request<T> {
        grpc::onward(message, &RequestId::generate(), bearer, None)
    }

    /// A question.
    #[must_use]
    pub fn chat(question: &str) -> gateway::Chat {
        let part = ContentPart { part: Some(content_part::Part::Text(question.to_owned())), cache: None };
        let message = Message { role: Role::User as i32, content: vec![part], ..Default::default() };
        gateway::Chat { messages: vec![message], ..Default::default() }
    }

    /// Asks the gateway and waits for the whole answer.
    ///
    /// # Errors
    /// The gateway's status.
    pub async fn ask(&self, bearer: &str, chat: gateway::Chat) -> Result<String, Status> {
        let request = Self::request(gateway::ChatRequest { chat: Some(chat) }, bearer);
        let answer = soon("an answer", self.completions().chat(request)).await?.into_inner();
        Ok(answer.completion.unwrap_or_default().choices.into_iter().map(|choice| choice.text).collect())
    }

    /// The claims of a good token of the user's, for a forger to change.
    #[must_use]
    pub fn claims(&self) -> Value {
        let now = self.clock.now();
        json!({
            "iss": ISSUER, "sub": "usr_forged", "aud": AUDIENCE, "exp": now + 300, "nbf": now - 5, "iat": now,
            "jti": "forged", "client_id": "usr_forged", "scope": "feature:chat feature:code_completion",
            "postern_instance": self.instance_id, "postern_realm": "self-managed", "postern_credential": "crd_forged",
        })
    }
}
