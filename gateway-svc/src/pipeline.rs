//! The way of a request through the gateway: one function, one layer a line, in this order. Every door ends here.

mod admit;
mod authorise;
mod identify;
mod relay;
mod route;
mod session;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use postern_proto::{Failure, Feature};
use postern_runtime::Verifier;
use postern_runtime::request_id::RequestId;

pub use admit::Admission;
pub use identify::{Bearer, Credentials};
pub use relay::Completion;
pub use session::Sessions;

use crate::adapters::Adapters;
use crate::ask::Ask;
use crate::prompt;
use crate::routes::{Model, Routes};

/// Who calls and how, as the door saw it.
pub struct Caller<'a> {
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// The address of the socket.
    pub address: Option<IpAddr>,
    /// The request's id.
    pub request_id: RequestId,
    /// How long the caller gives the whole call.
    pub timeout: Option<Duration>,
    /// What this door takes as a bearer.
    pub bearer: Bearer<'a>,
}

/// The pipeline and what its layers keep.
#[derive(Clone)]
pub struct Pipeline {
    /// The instance's keys.
    pub verifier: Verifier,
    /// Models and bindings.
    pub routes: Routes,
    /// The ways to the models.
    pub adapters: Adapters,
    /// Who is in.
    pub admission: Admission,
    /// Which request of an editing session is the newest.
    pub sessions: Sessions,
}

impl Pipeline {
    /// Answers a request. What is returned has its first content, so a failure until then has its own status; dropping it,
    /// or this future, stops the model.
    ///
    /// # Errors
    /// The failure of the first layer that refuses.
    pub async fn complete(&self, caller: Caller<'_>, ask: Ask) -> Result<Completion, Failure> {
        let ask = ask.check()?;
        // Identify: a token is all that is believed of a caller, so it is found, or made of a credential, before all else.
        let token = identify::token(&caller).await?;
        // Verify: nothing that the token says is used before its signature, issuer, audience and times have been checked.
        let verified = self.verifier.verify(&token, None)?;
        // Authorise: from here on there is a permit; it names the models that this caller may use for this feature.
        let table = self.routes.current()?;
        let permit = authorise::permit(&verified, &ask, caller.address, &table)?;
        // Admit: a place is taken before any work is done, so that a flood costs the gateway a check and the model nothing.
        let place = self.admission.admit(&permit)?;
        // A newer request of the same editing session takes an older one's place.
        let session = self.sessions.enter(&permit, ask.session.as_deref());
        // Prompt: per model, for each family reads a layout of its own.
        let prompts = permit.models().iter().map(|model| prompt::build(&ask.task, &model.family, &ask.parameters));
        // Route: the order in which endpoints are tried.
        let attempts = route::attempts(permit.models(), prompts, &self.admission);
        // Relay: the first attempt that brings content is the answer; its stream holds the place and the session, and ends when
        // the token is revoked.
        let standing = self.verifier.standing(verified);
        relay::begin(self, attempts, relay::Held { _place: place, session, permit, standing }, &caller).await
    }

    /// The models that a caller may name, with the features that each serves for this caller.
    ///
    /// # Errors
    /// The token's failure, or INSTANCE_UNAVAILABLE before routes have come.
    pub async fn models(&self, caller: Caller<'_>) -> Result<Vec<(Arc<Model>, Vec<Feature>)>, Failure> {
        let token = identify::token(&caller).await?;
        let verified = self.verifier.verify(&token, None)?;
        let table = self.routes.current()?;
        let served = |model: &Arc<Model>| -> Vec<Feature> {
            let bound = |feature: &Feature| table.bound(*feature).iter().any(|bound| bound.name == model.name);
            let allowed = |feature: &Feature| verified.allows(feature.scope());
            Feature::ALL.into_iter().filter(|feature| bound(feature) && allowed(feature)).collect()
        };
        let trusted = |model: &&Arc<Model>| authorise::trusts(model, caller.address);
        let all = table.models().filter(trusted).map(|model| (model.clone(), served(model)));
        Ok(all.filter(|(_, features)| !features.is_empty()).collect())
    }
}
