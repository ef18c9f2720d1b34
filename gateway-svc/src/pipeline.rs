//! The way of a request through the gateway: one function, one layer a line, in this order. Every door ends here.

mod admit;
mod authorise;
mod count;
mod embed;
mod explain;
mod identify;
mod relay;
mod route;
mod session;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use postern_proto::{Failure, Feature, Reason};
use postern_runtime::Verifier;
use postern_runtime::instance::RELAY_SCOPE;
use postern_runtime::peer::{self, Peer};
use postern_runtime::request_id::RequestId;
use postern_token::{Form, Verified};
use tokio_util::sync::CancellationToken;

pub use admit::Admission;
pub use count::Counted;
pub use embed::Embedded;
pub use explain::{Explained, Planned, Question};
pub use identify::{Bearer, Credentials};
pub use relay::Completion;
pub use session::Sessions;

use crate::adapters::Adapters;
use crate::ask::{Ask, MAX_PROMPT_BYTES, Texts};
use crate::issuers::Issuers;
use crate::prompt::{self, Prompts};
use crate::routes::{Model, Routes};

/// Who calls and how, as the door saw it.
pub struct Caller<'a> {
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// The other end of the connection; `None` for a call inside the process.
    pub peer: Option<Peer>,
    /// The request's id.
    pub request_id: RequestId,
    /// How long the caller gives the whole call.
    pub timeout: Option<Duration>,
    /// What this door takes as a bearer.
    pub bearer: Bearer<'a>,
}

impl Caller<'_> {
    /// The address of the connection's client, by the rules of its listener.
    fn address(&self) -> Result<Option<IpAddr>, Failure> {
        self.peer.as_ref().map(|peer| peer.client(self.headers)).transpose()
    }

    fn certificate(&self) -> Option<&str> {
        self.peer.as_ref()?.certificate.as_deref()
    }
}

/// The pipeline and what its layers keep.
#[derive(Clone)]
pub struct Pipeline {
    /// The instance's keys, and those of other issuers.
    pub verifier: Verifier,
    /// Where the others' keys come from.
    pub issuers: Issuers,
    /// Models and bindings.
    pub routes: Routes,
    /// The ways to the models.
    pub adapters: Adapters,
    /// The registry of prompts.
    pub prompts: Prompts,
    /// Who is in.
    pub admission: Admission,
    /// Which request of an editing session is the newest.
    pub sessions: Sessions,
    /// When the process stops, and its grace is over.
    pub ending: CancellationToken,
}

impl Pipeline {
    /// Who calls. A door asks this of a request's head, before it takes in any of its body.
    ///
    /// # Errors
    /// The failure of the token.
    pub async fn identify(&self, caller: &Caller<'_>) -> Result<Arc<Verified>, Failure> {
        // Identify: a token is all that is believed of a caller, so it is found, or made of a credential, before all else.
        let token = identify::token(caller).await?;
        // Verify: nothing that the token says is used before its signature, issuer, audience and times have been checked.
        match self.verifier.verify(&token, caller.certificate()) {
            // The credential may be good though the token that was made of it is not any more: one more is asked for.
            Err(refusal) if matches!(refusal.reason, Reason::TokenRevoked | Reason::KeyUnknown) => {
                match identify::another_token(caller, &token).await? {
                    Some(token) => self.verifier.verify(&token, caller.certificate()),
                    None => Err(self.issuers.reconsidered(&token, refusal)),
                }
            }
            judged => judged,
        }
    }

    /// Where a caller is: the address of its socket, or the one that an instance which relays it vouches for.
    fn address_of(&self, caller: &Caller<'_>) -> Result<Option<IpAddr>, Failure> {
        // The connection itself is held to its listener's networks, whoever it speaks for.
        let own = caller.address()?;
        let Some((voucher, address)) = peer::vouched(caller.headers)? else { return Ok(own) };
        let voucher = self.verifier.verify(voucher, caller.certificate())?;
        // Only the gateway's own instance vouches: it gives that scope to nobody, while another issuer writes what it likes.
        if voucher.allows(RELAY_SCOPE) && voucher.profile().form == Form::Announced {
            return Ok(Some(address));
        }
        Err(Failure::new(Reason::NetworkUntrusted, "the relayed caller's address is not vouched for"))
    }

    /// Answers a request. What is returned has its first content, so a failure until then has its own status; dropping it,
    /// or this future, stops the model.
    ///
    /// # Errors
    /// The failure of the first layer that refuses.
    pub async fn complete(&self, verified: Arc<Verified>, caller: Caller<'_>, ask: Ask) -> Result<Completion, Failure> {
        let ask = ask.check()?;
        // Authorise: from here on there is a permit; it names the models that this caller may use for this feature.
        let table = self.routes.current()?;
        let wanted = (ask.feature(), ask.model.as_deref());
        let permit = authorise::permit(&verified, wanted, self.address_of(&caller)?, &table)?;
        // Admit: a place is taken before any work is done, so that a flood costs the gateway a check and the model nothing.
        let place = self.admission.admit(&permit)?;
        // A newer request of the same editing session takes an older one's place.
        let session = self.sessions.enter(&permit, ask.session.as_deref());
        // Prompt: per model, for each family reads a layout of its own.
        let (registry, task) = (self.prompts.current(), ask.task);
        let pinned = self.prompts.pinned(permit.feature());
        let build = |model: &Model| prompt::build(&task, model, &ask.parameters, &registry, pinned);
        // Route: the order in which endpoints are tried.
        let mut attempts = route::attempts(permit.models(), build, &self.admission)?;
        attempts.iter_mut().for_each(|attempt| attempt.prompt.warnings.extend_from_slice(&ask.warnings));
        // Relay: the first attempt that brings content is the answer; its stream holds the place and the session, and ends when
        // the token is revoked.
        let standing = self.verifier.standing(verified);
        relay::begin(
            self,
            attempts,
            relay::Held { _place: place, session, permit, standing, ending: self.ending.clone() },
            &caller,
        )
        .await
    }

    /// What a request would meet, without running it.
    ///
    /// # Errors
    /// NETWORK_UNTRUSTED at the listener, INSTANCE_UNAVAILABLE before routes have come.
    pub fn explain(&self, verified: &Verified, caller: &Caller<'_>, question: &Question) -> Result<Explained, Failure> {
        let bytes: usize = question.variables.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_PROMPT_BYTES {
            return Err(Failure::new(Reason::RequestTooLarge, "the variables are too large"));
        }
        let table = self.routes.current()?;
        Ok(Explained::of(self, verified, self.address_of(caller)?, &table, question))
    }

    /// How many tokens a request would take, by the same layers.
    ///
    /// # Errors
    /// The failure of the first layer that refuses.
    pub async fn count(&self, verified: Arc<Verified>, caller: Caller<'_>, ask: Ask) -> Result<Counted, Failure> {
        let ask = ask.check()?;
        let table = self.routes.current()?;
        let wanted = (ask.feature(), ask.model.as_deref());
        let permit = authorise::permit(&verified, wanted, self.address_of(&caller)?, &table)?;
        let _place = self.admission.admit(&permit)?;
        let standing = self.verifier.standing(verified);
        count::count(self, &permit, standing, &caller, &ask).await
    }

    /// Embeds texts, by the same layers.
    ///
    /// # Errors
    /// The failure of the first layer that refuses.
    pub async fn embed(&self, verified: Arc<Verified>, caller: Caller<'_>, ask: Texts) -> Result<Embedded, Failure> {
        let ask = ask.check()?;
        let table = self.routes.current()?;
        let wanted = (Feature::Embed, ask.model.as_deref());
        let permit = authorise::permit(&verified, wanted, self.address_of(&caller)?, &table)?;
        let _place = self.admission.admit(&permit)?;
        let standing = self.verifier.standing(verified);
        embed::embed(self, &permit, standing, &caller, &ask).await
    }

    /// The models that a caller may name, with the features that each serves for this caller.
    ///
    /// # Errors
    /// The token's failure, or INSTANCE_UNAVAILABLE before routes have come.
    pub async fn models(&self, caller: Caller<'_>) -> Result<Vec<(Arc<Model>, Vec<Feature>)>, Failure> {
        let verified = self.identify(&caller).await?;
        let table = self.routes.current()?;
        let served = |model: &Arc<Model>| -> Vec<Feature> {
            let bound = |feature: &Feature| table.bound(*feature).iter().any(|bound| bound.name == model.name);
            let allowed = |feature: &Feature| {
                verified.allows(feature.scope()) && authorise::is_for(table.groups(*feature), &verified)
            };
            Feature::ALL.into_iter().filter(|feature| bound(feature) && allowed(feature)).collect()
        };
        let address = self.address_of(&caller)?;
        authorise::within_the_issuers_networks(&verified, address)?;
        let trusted =
            |model: &&Arc<Model>| authorise::trusts(model, address) && authorise::is_for(&model.groups, &verified);
        let all = table.models().filter(trusted).map(|model| (model.clone(), served(model)));
        Ok(all.filter(|(_, features)| !features.is_empty()).collect())
    }
}
