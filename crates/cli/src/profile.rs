//! Logins: `<dir>/<profile>.toml` says where, `<dir>/<profile>.credential` (mode 0600) holds the credential.

use std::fs;
use std::path::PathBuf;

use postern_runtime::config::PeerAddress;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::output::Problem;
use crate::secret;

/// The logins of a person.
pub struct Profiles {
    dir: PathBuf,
    name: String,
}

/// Where a login leads.
#[derive(Serialize, Deserialize)]
pub struct Places {
    /// The instance's gRPC address.
    pub instance: String,
    /// The gateway's gRPC address.
    pub gateway: String,
    /// The certificate authorities of both, as PEM; the system's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// A login.
pub struct Profile {
    /// The instance.
    pub instance: PeerAddress,
    /// The gateway.
    pub gateway: PeerAddress,
    /// The certificate authorities of both; the system's when absent.
    pub ca_file: Option<PathBuf>,
    /// The credential.
    pub credential: SecretString,
}

impl Profiles {
    pub fn new(dir: Option<PathBuf>, name: String) -> Result<Self, Problem> {
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
        let default = || std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
        let dir = dir
            .or_else(|| default().map(|dir| dir.join("postern")))
            .ok_or_else(|| Problem::new("there is no home folder; name one with --config-dir"))?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(Problem::new("a profile's name is made of letters, digits, '-' and '_'"));
        }
        Ok(Self { dir, name })
    }

    fn places(&self) -> PathBuf {
        self.dir.join(format!("{}.toml", self.name))
    }

    fn credential(&self) -> PathBuf {
        self.dir.join(format!("{}.credential", self.name))
    }

    pub fn load(&self) -> Result<Profile, Problem> {
        let path = self.places();
        let text = fs::read_to_string(&path)
            .map_err(|_| Problem::new(format!("there is no login `{}`; make one with `postern login`", self.name)))?;
        let places: Places =
            toml::from_str(&text).map_err(|error| Problem::new(format!("{}: {error}", path.display())))?;
        let credential = secret::from_file(&self.credential())?;
        profile(&places, credential)
    }

    pub fn save(&self, places: &Places, credential: &SecretString) -> Result<(), Problem> {
        let failed = |error: std::io::Error| Problem::new(format!("{}: {error}", self.dir.display()));
        fs::create_dir_all(&self.dir).map_err(failed)?;
        let text = toml::to_string(places).map_err(|error| Problem::new(error.to_string()))?;
        fs::write(self.places(), text).map_err(failed)?;
        let path = self.credential();
        if path.exists() {
            fs::remove_file(&path).map_err(failed)?;
        }
        secret::write_new(&path, credential.expose_secret())
    }

    pub fn remove(&self) -> Result<(), Problem> {
        for path in [self.credential(), self.places()] {
            fs::remove_file(&path).map_err(|error| Problem::new(format!("{}: {error}", path.display())))?;
        }
        Ok(())
    }
}

/// Checks the addresses.
pub fn profile(places: &Places, credential: SecretString) -> Result<Profile, Problem> {
    let address = |text: &String| PeerAddress::try_from(text.clone()).map_err(Problem::new);
    Ok(Profile {
        instance: address(&places.instance)?,
        gateway: address(&places.gateway)?,
        ca_file: places.ca_file.clone(),
        credential,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_login_is_kept_with_its_credential_apart_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let profiles = Profiles::new(Some(dir.path().join("postern")), "work".to_owned()).ok().unwrap();
        let places = Places {
            instance: "http://127.0.0.1:1".to_owned(),
            gateway: "http://127.0.0.1:2".to_owned(),
            ca_file: None,
        };
        for secret in ["first", "second"] {
            assert!(profiles.save(&places, &secret.to_owned().into()).is_ok());
            assert_eq!(profiles.load().ok().unwrap().credential.expose_secret(), secret);
        }
        let mode = fs::metadata(profiles.credential()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!fs::read_to_string(profiles.places()).unwrap().contains("second"));
        assert!(profiles.remove().is_ok());
        assert!(profiles.load().is_err());
        assert!(Profiles::new(None, "../x".to_owned()).is_err());
    }
}
