//! Calls to the instance and the gateway.

use std::sync::Arc;
use std::time::Duration;

use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::token_service_client::TokenServiceClient;
use postern_proto::{Failure, Reason};
use postern_runtime::grpc::{self, Dialer};
use postern_runtime::request_id::RequestId;
use postern_runtime::tls;
use secrecy::ExposeSecret as _;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::output::Problem;
use crate::profile::Profile;

/// How long an administrative call may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A login that is used.
pub struct Client {
    profile: Profile,
    instance: Channel,
    gateway: Channel,
}

impl Client {
    pub fn new(profile: Profile) -> Result<Self, Problem> {
        let tls = tls::client_config(profile.ca_file.as_deref()).map_err(|error| Problem::new(error.to_string()))?;
        let dialer = Dialer::Anonymous(Arc::new(tls));
        let channel = |address| grpc::channel(address, &dialer).map_err(|error| Problem::new(error.to_string()));
        Ok(Self { instance: channel(&profile.instance)?, gateway: channel(&profile.gateway)?, profile })
    }

    pub fn instance(&self) -> Channel {
        self.instance.clone()
    }

    pub fn gateway(&self) -> Channel {
        self.gateway.clone()
    }

    pub fn credential(&self) -> &str {
        self.profile.credential.expose_secret()
    }

    pub fn places(&self) -> (&str, &str) {
        (self.profile.instance.as_str(), self.profile.gateway.as_str())
    }

    /// A fresh access token.
    pub async fn exchange(
        &self,
        audience: &str,
        scope: &[String],
        lifetime: Option<u32>,
    ) -> Result<pb::ExchangeTokenResponse, Failure> {
        let lifetime = lifetime.map(|seconds| prost_types::Duration { seconds: i64::from(seconds), nanos: 0 });
        let mut request = Request::new(pb::ExchangeTokenRequest {
            subject_token: self.credential().to_owned(),
            audience: audience.to_owned(),
            scope: scope.to_vec(),
            lifetime,
            ..Default::default()
        });
        request.set_timeout(PATIENCE);
        let answer = TokenServiceClient::new(self.instance()).exchange_token(request).await;
        Ok(answer.map_err(|status| of_instance(&status))?.into_inner())
    }

    /// A request of an administrator to the instance.
    pub async fn administer<T>(&self, message: T) -> Result<Request<T>, Failure> {
        let token = self.exchange("", &["instance:admin".to_owned()], None).await?.access_token;
        Ok(grpc::onward(message, &RequestId::generate(), &token, Some(PATIENCE)))
    }
}

/// The failure in an instance's status.
pub fn of_instance(status: &Status) -> Failure {
    Failure::from_status(status, Reason::InstanceUnavailable)
}

/// The failure in a gateway's status.
pub fn of_gateway(status: &Status) -> Failure {
    Failure::from_status(status, Reason::GatewayUnavailable)
}
