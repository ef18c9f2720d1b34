//! The administrator at work.

use postern_proto::instance::v1 as instance;
use postern_proto::instance::v1::feature_service_client::FeatureServiceClient;
use postern_proto::instance::v1::fleet_service_client::FleetServiceClient;
use postern_proto::instance::v1::model_registry_service_client::ModelRegistryServiceClient;
use postern_proto::instance::v1::principal_service_client::PrincipalServiceClient;
use postern_runtime::grpc;
use postern_runtime::instance::InstanceConfig;
use postern_runtime::request_id::RequestId;
use tonic::Request;
use tonic::transport::Channel;

use super::exchange;
use crate::Authority;

/// The administrator at work.
pub struct Office {
    /// At the instance.
    pub channel: Channel,
    /// Their credential.
    pub admin: String,
}

impl Office {
    async fn request<T>(&self, message: T) -> Request<T> {
        let token = exchange(self.channel.clone(), &self.admin, "", &["instance:admin"]).await.unwrap();
        grpc::onward(message, &RequestId::generate(), &token, None)
    }

    pub async fn add_member(
        &self,
        name: &str,
        kind: instance::create_fleet_member_request::Kind,
        link: &InstanceConfig,
    ) {
        let certificate = || instance::proof::Certificate { name: Authority::identity(name) };
        let proof = link
            .certificate
            .then(|| instance::Proof { proof: Some(instance::proof::Proof::Certificate(certificate())) });
        let message = instance::CreateFleetMemberRequest { name: name.to_owned(), kind: Some(kind), proof };
        let request = self.request(message).await;
        let made = FleetServiceClient::new(self.channel.clone()).create_fleet_member(request).await.unwrap();
        let made = made.into_inner();
        if let Some(file) = &link.credential_file {
            std::fs::write(file, format!("{}\n{}\n", made.credential, made.trust_root)).unwrap();
        }
    }

    pub async fn add_model(&self, model: instance::Model, api_key: Option<&str>) {
        let key =
            |key: &str| instance::model_credential::Credential::ApiKey(instance::ApiKey { value: key.to_owned() });
        let credential =
            api_key.map(|text| instance::ModelCredential { credential: Some(key(text)), client_certificate: None });
        let request = self.request(instance::CreateModelRequest { model: Some(model), credential }).await;
        ModelRegistryServiceClient::new(self.channel.clone()).create_model(request).await.unwrap();
    }

    pub async fn bind(&self, name: &str, binding: instance::feature::Binding) {
        let feature = instance::Feature { name: name.to_owned(), binding: Some(binding), groups: Vec::new() };
        let request = self.request(instance::BindFeatureRequest { feature: Some(feature) }).await;
        FeatureServiceClient::new(self.channel.clone()).bind_feature(request).await.unwrap();
    }

    pub async fn add_user(
        &self,
        name: &str,
        purpose: instance::CredentialPurpose,
        roles: Vec<instance::Role>,
    ) -> String {
        let message = instance::CreatePrincipalRequest {
            name: name.to_owned(),
            kind: instance::PrincipalKind::User as i32,
            roles: roles.into_iter().map(|role| role as i32).collect(),
            groups: Vec::new(),
        };
        let request = self.request(message).await;
        let mut principals = PrincipalServiceClient::new(self.channel.clone());
        principals.create_principal(request).await.unwrap();
        let message = instance::CreateCredentialRequest {
            principal: name.to_owned(),
            purpose: purpose as i32,
            ..Default::default()
        };
        let request = self.request(message).await;
        principals.create_credential(request).await.unwrap().into_inner().secret
    }
}
