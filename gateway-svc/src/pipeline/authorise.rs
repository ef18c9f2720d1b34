//! Authorise: may this caller use this feature, from this address, and on which models.

use std::net::IpAddr;
use std::sync::Arc;

use postern_proto::{Failure, Feature, Reason};
use postern_runtime::peer::within;
use postern_token::Verified;

use crate::routes::{Model, RouteTable};

/// Proof that a caller may use a feature on these models. Only [`permit`] makes one.
pub struct Permit {
    feature: Feature,
    /// Issuer and subject: two issuers may give one name to two callers.
    caller: (String, String),
    models: Vec<Arc<Model>>,
}

impl Permit {
    /// For what.
    #[must_use]
    pub const fn feature(&self) -> Feature {
        self.feature
    }

    /// The caller's issuer and its id there.
    #[must_use]
    pub const fn caller(&self) -> &(String, String) {
        &self.caller
    }

    /// The caller's id.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.caller.1
    }

    /// The models in order of preference; never empty.
    #[must_use]
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }

    #[cfg(test)]
    pub(super) fn of((issuer, subject): (&str, &str), models: Vec<Arc<Model>>) -> Self {
        Self { feature: Feature::Chat, caller: (issuer.to_owned(), subject.to_owned()), models }
    }
}

/// Whether a model takes callers from this address. A caller without an address is nobody's neighbour.
pub(super) fn trusts(model: &Model, address: Option<IpAddr>) -> bool {
    match address {
        Some(address) => model.trusts(address),
        None => model.client_networks.is_empty(),
    }
}

/// Whether a caller is where the issuer of its token has its callers.
pub(super) fn within_the_issuers_networks(verified: &Verified, address: Option<IpAddr>) -> Result<(), Failure> {
    let networks = &verified.profile().client_networks;
    if networks.is_empty() || address.is_some_and(|address| within(networks, address)) {
        return Ok(());
    }
    Err(Failure::new(Reason::NetworkUntrusted, "your address is outside the networks of the token's issuer"))
}

/// Whether something that is for these groups is for a caller of this token.
pub(super) fn is_for(groups: &[String], verified: &Verified) -> bool {
    groups.is_empty() || verified.groups().iter().any(|group| groups.contains(group))
}

pub(super) fn permit(
    verified: &Verified,
    (feature, model): (Feature, Option<&str>),
    address: Option<IpAddr>,
    table: &RouteTable,
) -> Result<Permit, Failure> {
    let claims = verified.claims();
    if !verified.allows(feature.scope()) {
        return Err(Failure::new(Reason::ScopeMissing, format!("the token lacks the scope {}", feature.scope())));
    }
    within_the_issuers_networks(verified, address)?;
    let bound = table.bound(feature);
    if bound.is_empty() {
        return Err(Failure::new(
            Reason::FeatureUnbound,
            format!("the feature `{feature}` is off; an administrator turns it on with `postern feature bind`"),
        ));
    }
    if !is_for(table.groups(feature), verified) {
        return Err(Failure::new(
            Reason::GroupMissing,
            format!("the feature `{feature}` is for groups that you are not in"),
        ));
    }
    let wanted: Vec<_> = match model {
        None => bound.to_vec(),
        Some(name) => bound.iter().filter(|model| model.name == name).cloned().collect(),
    };
    if wanted.is_empty() {
        let shown: String = model.iter().flat_map(|name| name.chars()).filter(|c| !c.is_control()).take(64).collect();
        return Err(Failure::new(
            Reason::ModelNotFound,
            format!("no model `{shown}` is bound to the feature `{feature}`; `postern status` shows those there are"),
        ));
    }
    let allowed: Vec<_> = wanted.into_iter().filter(|model| is_for(&model.groups, verified)).collect();
    if allowed.is_empty() {
        return Err(Failure::new(Reason::GroupMissing, "the model is for groups that you are not in"));
    }
    let models: Vec<_> = allowed.into_iter().filter(|model| trusts(model, address)).collect();
    if models.is_empty() {
        return Err(Failure::new(Reason::NetworkUntrusted, "your address is outside the model's trusted networks"));
    }
    Ok(Permit { feature, caller: (claims.iss.clone(), claims.sub.clone()), models })
}
