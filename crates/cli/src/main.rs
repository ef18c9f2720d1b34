//! `postern`: the operator's and user's command line.

mod args;
mod client;
mod commands;
mod output;
mod profile;
mod secret;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Args, Command};
use crate::client::Client;
use crate::output::{Output, Problem};
use crate::profile::Profiles;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let json = args.json;
    match run(args).await {
        Ok(output) => output.print(json),
        Err(problem) => problem.print(json),
    }
}

async fn run(args: Args) -> Result<Output, Problem> {
    let profiles = Profiles::new(args.config_dir, args.profile)?;
    let command = match args.command {
        Command::Login(login) => return commands::login::login(&profiles, login).await,
        Command::Logout => return commands::login::logout(&profiles),
        Command::Prompt(prompt) => return commands::prompt::run(&profiles, prompt).await,
        command => command,
    };
    let client = Client::new(profiles.load()?)?;
    match command {
        Command::Login(_) | Command::Logout | Command::Prompt(_) => unreachable!("handled above"),
        Command::Token(token) => commands::token::token(&client, token).await,
        Command::Status => commands::status::status(&client).await,
        Command::Chat(chat) => commands::complete::chat(&client, chat, args.json).await,
        Command::Code(code) => commands::complete::code(&client, code, args.json).await,
        Command::Run(run) => commands::complete::run(&client, run, args.json).await,
        Command::Lint => commands::feature::lint(&client).await,
        Command::Explain(explain) => commands::complete::explain(&client, explain).await,
        Command::Embed(embed) => commands::complete::embed(&client, embed).await,
        Command::Model(model) => commands::model::run(&client, model, args.json).await,
        Command::Feature(feature) => commands::feature::run(&client, feature).await,
        Command::User(user) => commands::user::run(&client, user).await,
        Command::Issuer(issuer) => commands::issuer::run(&client, issuer).await,
        Command::Fleet(fleet) => commands::fleet::run(&client, fleet).await,
        Command::Keys(keys) => commands::keys::run(&client, keys).await,
        Command::Audit(audit) => commands::audit::run(&client, audit).await,
    }
}
