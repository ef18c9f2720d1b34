//! What can be said on the command line. No argument is a secret: those come by prompt, standard input or file.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

/// Postern's command line.
#[derive(Parser)]
#[command(name = "postern", version, about = "Configure and use a Postern installation")]
pub struct Args {
    /// Which login to use.
    #[arg(long, global = true, default_value = "default", env = "POSTERN_PROFILE")]
    pub profile: String,
    /// Where logins are kept. Default: $XDG_CONFIG_HOME/postern or ~/.config/postern.
    #[arg(long, global = true, value_name = "DIR", env = "POSTERN_CONFIG_DIR")]
    pub config_dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Remember an instance, a gateway and a credential.
    Login(Login),
    /// Forget them.
    Logout,
    /// Print a fresh access token.
    Token(Token),
    /// Show what can be reached and used.
    Status,
    /// Ask a model and stream its answer.
    Chat(Chat),
    /// Complete code and stream the completion.
    Code(Code),
    /// Register and check models.
    #[command(subcommand)]
    Model(Model),
    /// Bind features to models.
    #[command(subcommand)]
    Feature(Feature),
    /// Manage users, service accounts and their tokens.
    #[command(subcommand)]
    User(User),
    /// Manage gateways and adapters.
    #[command(subcommand)]
    Fleet(Fleet),
    /// See and hasten the life of the signing keys.
    #[command(subcommand)]
    Keys(Keys),
    /// Read and verify the audit log.
    #[command(subcommand)]
    Audit(Audit),
}

/// `audit`
#[derive(Subcommand)]
pub enum Audit {
    /// List the last events, newest first.
    List {
        /// How many, at most 1000.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Recompute every chain.
    Verify,
}

/// `keys`
#[derive(Subcommand)]
pub enum Keys {
    /// List the keys and who follows them.
    List,
    /// Let the published key sign from now on.
    Rotate,
    /// End a compromised key: everything that it signed is refused everywhere.
    Revoke {
        /// The key's id.
        kid: String,
    },
}

/// `login`
#[derive(ClapArgs)]
pub struct Login {
    /// The instance's gRPC address.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7401")]
    pub instance: String,
    /// The gateway's gRPC address.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7411")]
    pub gateway: String,
    /// The certificate authorities of both, as PEM. Default: the system's.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Read the credential from this file. Default: ask, or read standard input when it is not a terminal.
    #[arg(long, value_name = "FILE")]
    pub credential_file: Option<PathBuf>,
}

/// `token`
#[derive(ClapArgs)]
pub struct Token {
    /// For whom. Default: the only gateway.
    #[arg(long)]
    pub audience: Option<String>,
    /// For what; may be given several times. Default: every feature.
    #[arg(long)]
    pub scope: Vec<String>,
    /// Seconds of life. Default: the instance's.
    #[arg(long, value_name = "SECONDS")]
    pub lifetime: Option<u32>,
}

/// Where completions go.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// Straight to the gateway, with an access token.
    Gateway,
    /// Through the instance, which relays.
    Instance,
}

/// What `chat` and `code` share.
#[derive(ClapArgs)]
pub struct Sampling {
    /// A registered model. Default: the feature's first.
    #[arg(long)]
    pub model: Option<String>,
    /// Most tokens to generate.
    #[arg(long)]
    pub max_tokens: Option<u32>,
    /// 0 to 2.
    #[arg(long)]
    pub temperature: Option<f64>,
    /// Same seed, same answer, where the server can.
    #[arg(long)]
    pub seed: Option<i64>,
    /// Which way the request goes.
    #[arg(long, value_enum, default_value = "gateway")]
    pub via: Via,
}

/// `chat`
#[derive(ClapArgs)]
pub struct Chat {
    /// The question. Default: read standard input.
    pub prompt: Option<String>,
    /// Instructions that stand above the conversation.
    #[arg(long)]
    pub system: Option<String>,
    #[command(flatten)]
    pub sampling: Sampling,
}

/// `code`
#[derive(ClapArgs)]
pub struct Code {
    /// The code before the cursor. Default: read standard input.
    pub prefix: Option<String>,
    /// The code after the cursor.
    #[arg(long)]
    pub suffix: Option<String>,
    #[command(flatten)]
    pub sampling: Sampling,
}

/// A model's settings.
#[derive(ClapArgs)]
pub struct ModelSettings {
    /// The API's base URL; several for several servers.
    #[arg(long, value_name = "URL")]
    pub url: Vec<String>,
    /// The model's name at its server. Default: NAME.
    #[arg(long)]
    pub identifier: Option<String>,
    /// The family whose prompts it understands.
    #[arg(long)]
    pub family: Option<String>,
    /// The wire format.
    #[arg(long)]
    pub provider: Option<String>,
    /// A network where the server may be; needed for loopback and private addresses.
    #[arg(long, value_name = "CIDR")]
    pub endpoint_network: Vec<IpNet>,
    /// A network whose clients may use it. Default: any.
    #[arg(long, value_name = "CIDR")]
    pub client_network: Vec<IpNet>,
    /// Clients from any network may use it.
    #[arg(long, conflicts_with = "client_network")]
    pub any_client_network: bool,
    /// The server is on a public address.
    #[arg(long, conflicts_with = "endpoint_network")]
    pub no_endpoint_network: bool,
    /// The adapters that serve it.
    #[arg(long, value_name = "GROUP")]
    pub adapter_group: Option<String>,
    /// Tokens of prompt and answer together.
    #[arg(long)]
    pub context_length: Option<u32>,
    /// Requests at once per gateway replica.
    #[arg(long)]
    pub max_concurrency: Option<u32>,
    /// Read the API key from this file (`-`: standard input). Default: ask when standard input is a terminal, else none.
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// The server asks for no key.
    #[arg(long, conflicts_with = "api_key_file")]
    pub no_api_key: bool,
}

/// `model`
#[derive(Subcommand)]
pub enum Model {
    /// Register a model.
    Add {
        /// What requests will name.
        name: String,
        #[command(flatten)]
        settings: Box<ModelSettings>,
    },
    /// Change a registered model; what is not given stays as it is.
    Update {
        /// Which.
        name: String,
        #[command(flatten)]
        settings: Box<ModelSettings>,
    },
    /// List the models.
    List,
    /// Show a model.
    Show {
        /// Which.
        name: String,
    },
    /// Try a model from where its adapter is.
    Check {
        /// Which.
        name: String,
    },
    /// Remove a model.
    Remove {
        /// Which.
        name: String,
    },
}

/// `feature`
#[derive(Subcommand)]
pub enum Feature {
    /// Bind a feature to models, in order of preference.
    Bind {
        /// chat or code_completion.
        feature: String,
        /// Registered models.
        #[arg(required_unless_present = "disabled")]
        models: Vec<String>,
        /// Bind it to nothing: off, and said so.
        #[arg(long, conflicts_with = "models")]
        disabled: bool,
    },
    /// Unbind a feature, which turns it off.
    Unbind {
        /// Which.
        feature: String,
    },
    /// List the features.
    List,
}

/// A role.
#[derive(Clone, Copy, ValueEnum)]
pub enum Role {
    /// Everything on the instance.
    Admin,
    /// Models and features.
    ModelManager,
    /// Reads keys, tokens and the audit log; changes nothing.
    Auditor,
}

/// What a credential is for.
#[derive(Clone, Copy, ValueEnum)]
pub enum Purpose {
    /// Using features through a gateway.
    Inference,
    /// Administering the instance.
    Administration,
}

/// `user`
#[derive(Subcommand)]
pub enum User {
    /// Add a user or a service account.
    Add {
        /// The name.
        name: String,
        /// It is a program.
        #[arg(long)]
        service: bool,
        /// What it may administer; may be given several times.
        #[arg(long, value_enum)]
        role: Vec<Role>,
    },
    /// List users and service accounts.
    List,
    /// Remove a user or service account with its tokens.
    Remove {
        /// Which.
        name: String,
    },
    /// End every access token that a user, program or fleet member holds now; credentials stay.
    RevokeAccess {
        /// Whose.
        name: String,
    },
    /// Manage a user's tokens.
    #[command(subcommand)]
    Token(UserToken),
}

/// `user token`
#[derive(Subcommand)]
pub enum UserToken {
    /// Make a token and show it once.
    Add {
        /// Whose.
        name: String,
        /// What for.
        #[arg(long, value_enum, default_value = "inference")]
        purpose: Purpose,
        /// A note for later.
        #[arg(long, default_value = "")]
        label: String,
        /// A network from which it may be used; may be given several times. Default: anywhere.
        #[arg(long, value_name = "CIDR")]
        network: Vec<IpNet>,
        /// Ends after so many days. Default: it does not end by itself.
        #[arg(long, value_name = "DAYS")]
        expires_in_days: Option<u32>,
        /// Write it to this new file (mode 0600) and not to standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List a user's tokens.
    List {
        /// Whose.
        name: String,
    },
    /// End a token.
    Revoke {
        /// The token's id.
        id: String,
    },
}

/// `fleet`
#[derive(Subcommand)]
pub enum Fleet {
    /// Add a gateway or an adapter.
    #[command(subcommand)]
    Add(FleetAdd),
    /// List the fleet and who is connected.
    List,
    /// Remove a member; its streams end.
    Remove {
        /// Which.
        name: String,
    },
}

/// `fleet add`
#[derive(Subcommand)]
pub enum FleetAdd {
    /// A public door.
    Gateway {
        /// The name.
        name: String,
        /// Where the instance's relay finds it.
        #[arg(long, value_name = "URL")]
        address: Option<String>,
        /// The audience of its tokens. Default: postern-gateway:NAME.
        #[arg(long)]
        audience: Option<String>,
        /// Write its credential to this new file (mode 0600).
        #[arg(long, value_name = "FILE")]
        credential_file: PathBuf,
    },
    /// A caller of models.
    Adapter {
        /// The name.
        name: String,
        /// Which models it serves.
        #[arg(long)]
        group: Option<String>,
        /// Write its credential to this new file (mode 0600).
        #[arg(long, value_name = "FILE")]
        credential_file: PathBuf,
    },
}
