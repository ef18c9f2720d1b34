//! `gateway-svc`: starts a gateway.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use gateway_svc::app::App;
use gateway_svc::config::GatewayConfig;
use postern_runtime::SystemClock;
use postern_runtime::process::{ServiceArgs, exit_code, refused_to_start};
use postern_runtime::{config, telemetry};

/// Postern's public door: verifies, routes and streams.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    service: ServiceArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse().service;
    let loaded = config::load::<GatewayConfig>(&args.config).and_then(|config| {
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
        Err(error) => return refused_to_start("gateway-svc", &error),
    };
    let app = match App::build(config, Arc::new(SystemClock)).await {
        Ok(app) => app,
        Err(error) => return refused_to_start("gateway-svc", &*error),
    };
    tracing::info!(grpc = %app.grpc, http = %app.http, ops = %app.ops, "gateway is up");
    exit_code(app.run().await)
}
