//! `login` and `logout`.

use serde_json::json;

use crate::args::Login;
use crate::client::Client;
use crate::output::{Output, Problem};
use crate::profile::{Places, Profiles, profile};
use crate::secret;
use postern_proto::{Feature, Reason};

/// Remembers a login, after trying it.
pub async fn login(profiles: &Profiles, args: Login) -> Result<Output, Problem> {
    let credential = match &args.credential_file {
        Some(path) => secret::from_file(path)?,
        None => secret::ask("Credential: ")?,
    };
    let ca_file = args.ca_file.map(std::path::absolute).transpose();
    let ca_file = ca_file.map_err(|error| Problem::new(error.to_string()))?;
    let places = Places { instance: args.instance, gateway: args.gateway, ca_file };
    let client = Client::new(profile(&places, credential.clone())?)?;
    let inference: Vec<_> = Feature::ALL.iter().map(|feature| feature.scope().to_owned()).collect();
    let purpose = match client.exchange("", &inference, None).await {
        Ok(_) => "inference",
        Err(failure) if matches!(failure.reason, Reason::ScopeDenied) => {
            client.exchange("", &["instance:admin".to_owned()], None).await?;
            "administration"
        }
        // A gateway that is not there yet, or several, say nothing against the credential.
        Err(failure) if matches!(failure.reason, Reason::AudienceDenied | Reason::RequestInvalid) => "inference",
        Err(failure) => return Err(failure.into()),
    };
    profiles.save(&places, &credential)?;
    Ok(Output::new(
        format!("logged in at {} for {purpose}", places.instance),
        json!({ "instance": places.instance, "gateway": places.gateway, "purpose": purpose }),
    ))
}

/// Forgets a login. The credential itself stays valid.
pub fn logout(profiles: &Profiles) -> Result<Output, Problem> {
    profiles.remove()?;
    Ok(Output::new("logged out; the credential itself stays valid", json!({ "logged_out": true })))
}
