//! What the `main` of every service does with its result.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::lifecycle::Stopped;

/// The command line of a service.
#[derive(Debug, clap::Args)]
pub struct ServiceArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Check the configuration and exit.
    #[arg(long)]
    pub check_config: bool,
}

/// Exit code for a configuration that cannot be used.
const EXIT_CONFIG: u8 = 2;

/// Says on standard error why the service did not start: 2, so that a supervisor can tell it from a crash.
pub fn refused_to_start(service: &str, error: &dyn std::error::Error) -> ExitCode {
    eprintln!("{service}: {error}");
    ExitCode::from(EXIT_CONFIG)
}

/// The exit code of a service that ran: 0 when it was asked to stop, 1 when a part of it failed.
#[must_use]
pub fn exit_code(stopped: Stopped) -> ExitCode {
    match stopped {
        Stopped::Drained | Stopped::Aborted => ExitCode::SUCCESS,
        Stopped::Failed => ExitCode::FAILURE,
    }
}
