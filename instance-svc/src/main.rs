//! `instance-svc`: starts the instance, or makes its first administrator.

use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use instance_svc::app::{App, BuildError, bootstrap};
use instance_svc::config::InstanceConfig;
use postern_runtime::SystemClock;
use postern_runtime::process::{ServiceArgs, exit_code, refused_to_start};
use postern_runtime::{config, telemetry};

/// Postern's token authority and control plane.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    service: ServiceArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make the first administrator and show the credential once. Does nothing when there is an administrator.
    Bootstrap {
        /// The administrator's name.
        #[arg(long, default_value = "admin")]
        name: String,
        /// Write the credential to this new file (mode 0600) and not to the terminal.
        #[arg(long, value_name = "FILE")]
        credential_file: Option<PathBuf>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let loaded = config::load::<InstanceConfig>(&args.service.config).and_then(|config| {
        config.check()?;
        telemetry::init(&config.telemetry)?;
        Ok(config)
    });
    let config = match loaded {
        Ok(config) if args.service.check_config => {
            println!("the configuration is sound: {config:#?}");
            return ExitCode::SUCCESS;
        }
        Ok(config) => config,
        Err(error) => return refused_to_start("instance-svc", &error),
    };
    if let Some(Command::Bootstrap { name, credential_file }) = args.command {
        return match first_administrator(&config, name, credential_file).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refused_to_start("instance-svc", &*error),
        };
    }
    let app = match App::build(config, Arc::new(SystemClock)).await {
        Ok(app) => app,
        Err(error) => return refused_to_start("instance-svc", &*error),
    };
    tracing::info!(grpc = %app.grpc, http = %app.http, ops = %app.ops, "instance is up");
    exit_code(app.run().await)
}

async fn first_administrator(config: &InstanceConfig, name: String, file: Option<PathBuf>) -> Result<(), BuildError> {
    // Whatever will hold the secret is opened first: a credential that nobody saw would lock everybody out.
    let mut out: Box<dyn std::io::Write> = match &file {
        Some(path) => Box::new(
            std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map_err(|error| format!("{}: {error}", path.display()))?,
        ),
        None if std::io::stdout().is_terminal() => Box::new(std::io::stdout()),
        None => return Err("standard output is not a terminal; name a --credential-file".into()),
    };
    let made = bootstrap(config, name.clone()).await;
    match (made, &file) {
        (Ok(Some(secret)), _) => {
            writeln!(out, "{}", secret.expose())?;
            out.flush()?;
            eprintln!("`{name}` is the administrator; the credential is shown only this once");
            Ok(())
        }
        (not_made, file) => {
            if let Some(path) = file {
                std::fs::remove_file(path)?;
            }
            if not_made?.is_none() {
                eprintln!("there is an administrator already; nothing was changed");
            }
            Ok(())
        }
    }
}
