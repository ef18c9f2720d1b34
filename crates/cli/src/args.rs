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
    /// Run a feature of the prompt registry and stream its answer.
    Run(Run),
    /// Embed texts.
    Embed(Embed),
    /// Say which rule, models and prompt a request would meet, without running it.
    Explain(Explain),
    /// Say which bindings, models and prompts can never apply.
    Lint,
    /// Look at the registry of prompts, and change the instance's part of it.
    #[command(subcommand)]
    Prompt(Prompt),
    /// Register and check models.
    #[command(subcommand)]
    Model(Model),
    /// Bind features to models.
    #[command(subcommand)]
    Feature(Feature),
    /// Manage users, service accounts and their tokens.
    #[command(subcommand)]
    User(User),
    /// Manage the issuers whose tokens can prove who somebody is.
    #[command(subcommand)]
    Issuer(Issuer),
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

/// `issuer`
#[derive(Subcommand)]
pub enum Issuer {
    /// Add an OpenID provider or a Kubernetes cluster.
    Add {
        /// The exact `iss` of its tokens.
        issuer: String,
        /// What must be among the `aud` of its tokens; best is this instance's issuer URL.
        #[arg(long)]
        audience: String,
        /// Where its key set is served. Default: found by OpenID Connect Discovery.
        #[arg(long, value_name = "URL", conflicts_with = "jwks_file")]
        jwks_url: Option<String>,
        /// Its key set, as a file that is read now.
        #[arg(long, value_name = "FILE")]
        jwks_file: Option<PathBuf>,
        /// A network where its keys may be served; needed for loopback and private addresses.
        #[arg(long, value_name = "CIDR")]
        key_network: Vec<IpNet>,
        /// The longest life of its tokens that is accepted, in seconds. Default: 3600.
        #[arg(long, value_name = "SECONDS")]
        max_lifetime: Option<u32>,
    },
    /// List the issuers.
    List,
    /// Remove an issuer.
    Remove {
        /// Its `iss`.
        issuer: String,
    },
}

/// How somebody proves to be who they are, where it is not by a secret.
#[derive(ClapArgs)]
#[group(multiple = true)]
pub struct Proof {
    /// By assertions (private_key_jwt) that this public key signs: a JSON Web Key.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["certificate", "issuer"])]
    pub public_key_file: Option<PathBuf>,
    /// By a certificate of this name: a URI, such as a SPIFFE ID, or a DNS name.
    #[arg(long, value_name = "NAME", conflicts_with = "issuer")]
    pub certificate: Option<String>,
    /// By a token of this federated issuer.
    #[arg(long, value_name = "ISS", requires = "claim")]
    pub issuer: Option<String>,
    /// What that token must say; may be given several times. A name that begins with / is a JSON Pointer.
    #[arg(long, value_name = "NAME=TEXT", requires = "issuer")]
    pub claim: Vec<String>,
}

/// `audit`
#[derive(Subcommand)]
pub enum Audit {
    /// List the last events, newest first.
    List {
        /// How many.
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
    /// Seal every secret in the database under the current key-encryption key, so that a former one can be taken away.
    Rewrap,
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
    /// The file's path within its project.
    #[arg(long)]
    pub file_path: Option<String>,
    /// A related file to show to the model; the nearest last.
    #[arg(long, value_name = "FILE")]
    pub related: Vec<PathBuf>,
    #[command(flatten)]
    pub sampling: Sampling,
}

/// `run`
#[derive(ClapArgs)]
pub struct Run {
    /// Such as explain_code.
    pub feature: String,
    #[command(flatten)]
    pub variables: Variables,
    /// The version of the prompt. Default: the one that the gateway pins, else the newest.
    #[arg(long, value_name = "VERSION")]
    pub prompt_version: Option<String>,
    #[command(flatten)]
    pub sampling: Sampling,
}

/// What a prompt is given.
#[derive(ClapArgs)]
pub struct Variables {
    /// A variable, as NAME=TEXT; may be given several times. `postern prompt show` lists them.
    #[arg(long = "var", value_name = "NAME=TEXT")]
    pub vars: Vec<String>,
    /// A variable whose text is in a file (`-`: standard input), as NAME=FILE.
    #[arg(long = "var-file", value_name = "NAME=FILE")]
    pub var_files: Vec<String>,
}

/// `embed`
#[derive(ClapArgs)]
pub struct Embed {
    /// The texts.
    #[arg(required = true)]
    pub texts: Vec<String>,
    /// A registered model. Default: the feature's first.
    #[arg(long)]
    pub model: Option<String>,
    /// How many numbers a vector shall have, where the model can choose.
    #[arg(long)]
    pub dimensions: Option<u32>,
    /// Which way the request goes.
    #[arg(long, value_enum, default_value = "gateway")]
    pub via: Via,
}

/// `explain`
#[derive(ClapArgs)]
pub struct Explain {
    /// Such as chat or explain_code.
    pub feature: String,
    /// A registered model. Default: the feature's first.
    #[arg(long)]
    pub model: Option<String>,
    #[command(flatten)]
    pub variables: Variables,
    /// Whose request: a user or service account. Needs a login that administers. Default: your own.
    #[arg(long = "for", value_name = "NAME")]
    pub subject: Option<String>,
    /// Where that request would come from. Default: where you are.
    #[arg(long, value_name = "IP", requires = "subject")]
    pub from: Option<std::net::IpAddr>,
}

/// `prompt`
#[derive(Subcommand)]
pub enum Prompt {
    /// List the prompts.
    List {
        #[command(flatten)]
        overlay: Overlay,
    },
    /// Show a prompt with its variables.
    Show {
        /// Such as explain_code, explain_code/base or explain_code/base/1.0.0.
        prompt: String,
        #[command(flatten)]
        overlay: Overlay,
    },
    /// Print what a model would be shown.
    Render {
        /// Such as explain_code, explain_code/base or explain_code/base/1.0.0.
        prompt: String,
        #[command(flatten)]
        variables: Variables,
        #[command(flatten)]
        overlay: Overlay,
    },
    /// Put a prompt before the shipped ones, at every gateway of the instance.
    Put {
        /// `<feature>/<family|base>/<version>`, such as explain_code/base/2.0.0.
        name: String,
        /// The file (`-`: standard input).
        file: PathBuf,
    },
    /// Take a prompt away from the instance.
    Remove {
        /// Its name.
        name: String,
    },
    /// Check an overlay directory; prompts that can never be used are told too.
    Lint {
        /// The directory.
        dir: PathBuf,
    },
    /// Show how two prompts differ.
    Diff {
        /// The one.
        before: String,
        /// The other.
        after: String,
        #[command(flatten)]
        overlay: Overlay,
    },
}

/// Prompts beside those that are shipped.
#[derive(ClapArgs)]
pub struct Overlay {
    /// An overlay directory, as the gateway's `prompts.overlay_dir`.
    #[arg(long = "overlay", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// With the prompts that the instance holds; needs a login.
    #[arg(long)]
    pub instance: bool,
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
    /// The wire format: openai (default), azure_openai, mistral, anthropic, gemini, vertex, ollama, llamacpp, cohere, bedrock or postern.
    #[arg(long)]
    pub provider: Option<String>,
    /// A network where the server may be; needed for loopback and private addresses.
    #[arg(long, value_name = "CIDR")]
    pub endpoint_network: Vec<IpNet>,
    /// A network whose clients may use it. Default: any.
    #[arg(long, value_name = "CIDR")]
    pub client_network: Vec<IpNet>,
    /// A group whose members may use it; may be given several times. Default: anyone who may use the feature.
    #[arg(long)]
    pub group: Vec<String>,
    /// Anyone who may use the feature may use it.
    #[arg(long, conflicts_with = "group")]
    pub any_group: bool,
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
    /// Read an AWS access key from this file: JSON with access_key_id, secret_access_key, region and, of temporary keys, session_token.
    #[arg(long, value_name = "FILE", conflicts_with = "api_key_file")]
    pub aws_key_file: Option<PathBuf>,
    /// The adapter gets credentials of AWS's by this profile of its own files, which its operator lists in egress.identities, as the two below.
    #[arg(long, value_name = "NAME", requires = "aws_region", conflicts_with_all = ["api_key_file", "aws_key_file"])]
    pub aws_profile: Option<String>,
    /// The adapter gets credentials of AWS's by the token that its pod was given (AWS_WEB_IDENTITY_TOKEN_FILE).
    #[arg(long, requires = "aws_region", conflicts_with_all = ["api_key_file", "aws_key_file", "aws_profile"])]
    pub aws_web_identity: bool,
    /// The adapter gets credentials of AWS's by the role of the container, pod or machine that it runs on.
    #[arg(long, requires = "aws_region", conflicts_with_all = ["api_key_file", "aws_key_file", "aws_profile", "aws_web_identity"])]
    pub aws_machine: bool,
    /// Where requests are signed for, such as eu-central-1.
    #[arg(long, value_name = "REGION")]
    pub aws_region: Option<String>,
    /// A role that the adapter assumes, by a key, a profile, a web identity or the machine's role.
    #[arg(long, value_name = "ARN")]
    pub aws_role: Option<String>,
    /// What the role asks of those who assume it.
    #[arg(long, value_name = "ID", requires = "aws_role")]
    pub aws_external_id: Option<String>,
    /// Read the key of a service account of Google's from this file, as Google gives it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["api_key_file", "aws_key_file"])]
    pub google_key_file: Option<PathBuf>,
    /// Use the service account of the machine that the adapter runs on, by Google's metadata server.
    #[arg(long, conflicts_with_all = ["api_key_file", "aws_key_file", "google_key_file"])]
    pub google_metadata: bool,
    /// The server asks for no key.
    #[arg(long, conflicts_with_all = ["api_key_file", "aws_key_file", "google_key_file", "google_metadata"])]
    pub no_api_key: bool,
    /// The certificate that is shown to the server (PEM).
    #[arg(long, value_name = "FILE", requires = "client_key_file")]
    pub client_cert_file: Option<PathBuf>,
    /// The key of that certificate (PEM, PKCS#8).
    #[arg(long, value_name = "FILE", requires = "client_cert_file")]
    pub client_key_file: Option<PathBuf>,
    /// The authorities that the server's certificate may come from (PEM). Default: the system's.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// A header that the server wants, as NAME: VALUE; no secret. May be given several times.
    #[arg(long, value_name = "HEADER")]
    pub header: Vec<String>,
    /// How code is completed at a cursor, where that is not known of the provider and family.
    #[arg(long, value_name = "HOW")]
    pub code: Option<CodeMode>,
    /// What the server calls the answer's bound: max_tokens or max_completion_tokens.
    #[arg(long, value_name = "NAME")]
    pub max_tokens_field: Option<String>,
    /// Which of OpenAI's APIs chats go to: chat or responses.
    #[arg(long, value_name = "API")]
    pub chat_api: Option<String>,
    /// The server wants back what the model thought in earlier turns.
    #[arg(long)]
    pub reasoning_history: bool,
    /// Thinking is steered by an effort and not by a budget of tokens (Anthropic).
    #[arg(long)]
    pub adaptive_thinking: bool,
    /// Seconds to wait for a connection. Default: 5.
    #[arg(long, value_name = "SECONDS")]
    pub connect_timeout: Option<f64>,
    /// Seconds to wait for the first content, over all attempts. Default: 60.
    #[arg(long, value_name = "SECONDS")]
    pub first_content_timeout: Option<f64>,
    /// Seconds to wait between contents. Default: 60.
    #[arg(long, value_name = "SECONDS")]
    pub idle_timeout: Option<f64>,
    /// Seconds that a whole answer may take. Default: 600.
    #[arg(long, value_name = "SECONDS")]
    pub total_timeout: Option<f64>,
    /// A parameter that the model refuses, such as stop, in place of those that are known; it is dropped. May be given several times.
    #[arg(long, value_name = "NAME")]
    pub refuses: Vec<String>,
    /// The model takes no sampling parameters.
    #[arg(long)]
    pub no_sampling: bool,
    /// The model has no place for instructions.
    #[arg(long)]
    pub no_system_role: bool,
    /// The model calls no tools.
    #[arg(long)]
    pub no_tools: bool,
    /// The model cannot be held to a form of its answer.
    #[arg(long)]
    pub no_structured_output: bool,
    /// The model sees no images.
    #[arg(long)]
    pub no_images: bool,
    /// Forget what was said of what the model can do; what is known of its provider and family holds again.
    #[arg(long)]
    pub any_capabilities: bool,
}

/// How code is completed at a cursor.
#[derive(Clone, Copy, ValueEnum)]
pub enum CodeMode {
    /// By a raw completion in the family's own layout.
    Layout,
    /// By the server's own fill-in-the-middle.
    Server,
    /// By asking in a chat.
    Chat,
}

impl From<CodeMode> for postern_proto::instance::v1::CodeMode {
    fn from(mode: CodeMode) -> Self {
        match mode {
            CodeMode::Layout => Self::Layout,
            CodeMode::Server => Self::Server,
            CodeMode::Chat => Self::Chat,
        }
    }
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
        /// Such as chat; `postern feature list` shows all.
        feature: String,
        /// Registered models.
        #[arg(required_unless_present_any = ["disabled", "managed"])]
        models: Vec<String>,
        /// Bind it to a gateway of another instance, by its name in the fleet.
        #[arg(long, value_name = "GATEWAY", conflicts_with_all = ["models", "disabled"])]
        managed: Option<String>,
        /// A group whose members may use it; may be given several times. Default: anyone.
        #[arg(long)]
        group: Vec<String>,
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
        /// A group that it is in; may be given several times.
        #[arg(long)]
        group: Vec<String>,
    },
    /// Change what a user or service account may do; what is not given stays as it is.
    Update {
        /// Which.
        name: String,
        /// What it may administer, in place of what it could.
        #[arg(long, value_enum)]
        role: Vec<Role>,
        /// It may administer nothing.
        #[arg(long, conflicts_with = "role")]
        no_roles: bool,
        /// A group that it is in, in place of those that it was in.
        #[arg(long)]
        group: Vec<String>,
        /// It is in no group.
        #[arg(long, conflicts_with = "group")]
        no_groups: bool,
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
    /// Make a token and show it once; or let something else than a token prove who it is.
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
        #[command(flatten)]
        proof: Proof,
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
    Add(Box<FleetAdd>),
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
        /// It is another instance's, which trusts this one: features can be bound to it.
        #[arg(long, requires = "address", requires = "audience", conflicts_with = "credential_file")]
        managed: bool,
        /// Write its credential to this new file (mode 0600).
        #[arg(long, value_name = "FILE", required_unless_present_any = ["certificate", "issuer", "managed"])]
        credential_file: Option<PathBuf>,
        #[command(flatten)]
        proof: Proof,
    },
    /// Another instance, whose tokens the gateways take.
    Instance {
        /// The name.
        name: String,
        /// The `iss` of its tokens.
        #[arg(long, value_name = "URL")]
        issuer_url: String,
        /// Its id, the `postern_instance` of its tokens.
        #[arg(long, value_name = "ID")]
        instance_id: String,
        /// A scope that it is entitled to; may be given several times.
        #[arg(long, required = true)]
        scope: Vec<String>,
        /// A group that its users count as members of; may be given several times.
        #[arg(long)]
        group: Vec<String>,
        /// A network where callers with its tokens may be. Default: anywhere.
        #[arg(long, value_name = "CIDR")]
        client_network: Vec<IpNet>,
        /// Its key set, as a file that is read now. Default: it publishes its keys itself.
        #[arg(long, value_name = "FILE")]
        jwks_file: Option<PathBuf>,
        /// Write its credential to this new file (mode 0600).
        #[arg(long, value_name = "FILE", required_unless_present_any = ["certificate", "issuer"])]
        credential_file: Option<PathBuf>,
        #[command(flatten)]
        proof: Proof,
    },
    /// A caller of models.
    Adapter {
        /// The name.
        name: String,
        /// Which models it serves.
        #[arg(long)]
        group: Option<String>,
        /// Write its credential to this new file (mode 0600).
        #[arg(long, value_name = "FILE", required_unless_present_any = ["certificate", "issuer"])]
        credential_file: Option<PathBuf>,
        #[command(flatten)]
        proof: Proof,
    },
}
