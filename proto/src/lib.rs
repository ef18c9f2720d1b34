//! The contract of Postern: the types of its gRPC services, its identifiers, and the one place where a [`Reason`] becomes
//! a gRPC status and an HTTP status.
//!
//! `src/gen` is generated from the `.proto` files beside it (`make generate`) and checked in; a test compares.

mod failure;
mod feature;
mod name;
mod reason;
mod redacted;

pub use failure::{Blame, Failure, SoFar};
pub use feature::{Feature, UnknownFeature};
pub use name::{EndpointId, GroupName, InvalidName, MemberName, ModelName, PrincipalName};
pub use reason::Reason;

/// All services and messages, as a serialised `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptor.bin");

/// `postern.completion`: what a completion is made of.
pub mod completion {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::allow_attributes_without_reason, reason = "generated code")]
    pub mod v1 {
        include!("gen/postern.completion.v1.rs");
    }
}

/// `postern.model`: the adapter's API.
pub mod model {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::allow_attributes_without_reason, reason = "generated code")]
    pub mod v1 {
        include!("gen/postern.model.v1.rs");
    }
}

/// `postern.gateway`: the public door.
pub mod gateway {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::allow_attributes_without_reason, reason = "generated code")]
    pub mod v1 {
        include!("gen/postern.gateway.v1.rs");
    }
}

/// `postern.instance`: token authority and control plane.
pub mod instance {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::allow_attributes_without_reason, reason = "generated code")]
    pub mod v1 {
        include!("gen/postern.instance.v1.rs");
    }
}

/// `grpc.health`: the gRPC health checking protocol with its List call.
pub mod health {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::allow_attributes_without_reason, reason = "generated code")]
    pub mod v1 {
        include!("gen/grpc.health.v1.rs");
    }
}

/// The paths of all methods of the services that `wanted` picks by full name, such as
/// `/postern.instance.v1.TokenService/ExchangeToken`.
#[must_use]
pub fn methods(wanted: impl Fn(&str) -> bool) -> Vec<String> {
    use prost::Message as _;
    let Ok(set) = prost_types::FileDescriptorSet::decode(DESCRIPTOR_SET) else { return Vec::new() };
    let mut methods = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            if wanted(&name) {
                methods.extend(service.method.iter().map(|method| format!("/{name}/{}", method.name())));
            }
        }
    }
    methods
}
