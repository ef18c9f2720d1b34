//! `model-adapter`: starts an adapter.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use model_adapter::app::App;
use model_adapter::config::AdapterConfig;
use postern_runtime::SystemClock;
use postern_runtime::process::{ServiceArgs, exit_code, refused_to_start};
use postern_runtime::{config, telemetry};

/// Postern's adapter: streams completions from LLM servers.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    service: ServiceArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse().service;
    let loaded = config::load::<AdapterConfig>(&args.config).and_then(|config| {
        config.check()?;
        telemetry::init(&config.telemetry)?;
        Ok(config)
    });
    let config = match loaded {
        Ok(config) if args.check_config => {
            println!("the configuration is sound: {config:#?}");
            return ExitCode::SUCCESS;
        }
        Ok(config) => config,
        Err(error) => return refused_to_start("model-adapter", &error),
    };
    let app = match App::build(config, Arc::new(SystemClock)).await {
        Ok(app) => app,
        Err(error) => return refused_to_start("model-adapter", &*error),
    };
    tracing::info!(grpc = %app.grpc, ops = %app.ops, "adapter is up");
    exit_code(app.run().await)
}
