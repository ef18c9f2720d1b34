//! What is printed: text for people, or the same as JSON.

use std::io::Write as _;
use std::process::ExitCode;

use postern_proto::{Failure, Reason};
use serde_json::{Value, json};

/// What a command has to say.
pub struct Output {
    text: String,
    json: Value,
    good: bool,
}

impl Output {
    /// Says this.
    pub fn new(text: impl Into<String>, json: Value) -> Self {
        Self { text: text.into(), json, good: true }
    }

    /// Rows under a head line.
    pub fn table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>, json: Value) -> Self {
        let width = |column: usize| {
            rows.iter().map(|row| row[column].chars().count()).chain([head[column].len()]).max().unwrap_or(0)
        };
        let widths: [usize; N] = std::array::from_fn(width);
        let line = |cells: [&str; N]| {
            let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let mut lines = vec![line(head)];
        lines.extend(rows.iter().map(|row| line(row.each_ref().map(String::as_str))));
        Self::new(lines.join("\n"), json)
    }

    /// Makes the exit code 1: the command ran, and what it found is bad.
    #[must_use]
    pub fn bad_unless(mut self, good: bool) -> Self {
        self.good = good;
        self
    }

    /// Whether what the command found is good.
    #[cfg(test)]
    pub const fn is_good(&self) -> bool {
        self.good
    }

    pub fn print(self, as_json: bool) -> ExitCode {
        let written = match (as_json, self.text.as_str()) {
            (true, _) => line(&self.json.to_string()),
            (false, "") => Ok(()),
            (false, text) => line(text),
        };
        if self.good && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// A line on standard output. A reader that has gone away (a closed pipe) is an error, not a panic.
fn line(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{text}")
}

/// Why a command did not succeed, and what to do.
pub struct Problem {
    reason: Option<&'static str>,
    message: String,
    hint: Option<&'static str>,
}

impl Problem {
    /// A problem on this side.
    pub fn new(message: impl Into<String>) -> Self {
        Self { reason: None, message: message.into(), hint: None }
    }

    pub fn print(self, as_json: bool) -> ExitCode {
        if as_json {
            let told = json!({ "error": { "reason": self.reason, "message": self.message, "hint": self.hint } });
            // The exit code says it, whoever reads.
            let _ = line(&told.to_string());
        } else {
            let reason = self.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            eprintln!("error: {}{reason}", self.message);
            if let Some(hint) = self.hint {
                eprintln!("  {hint}");
            }
        }
        ExitCode::FAILURE
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let hint = match failure.reason {
            Reason::InstanceUnavailable => {
                Some("is instance-svc running, and is the address of `postern login --instance` right?")
            }
            Reason::GatewayUnavailable => {
                Some("is gateway-svc running, and is the address of `postern login --gateway` right?")
            }
            Reason::CredentialInvalid => {
                Some("log in again with `postern login`; an administrator can make a new credential")
            }
            Reason::RoleMissing | Reason::ScopeDenied | Reason::AudienceDenied => {
                Some("this login is not allowed to; another one can be chosen with --profile")
            }
            Reason::AlreadyExists => Some("list what there is, or choose another name"),
            Reason::AdapterUnavailable => Some("is model-adapter running? `postern fleet list` shows who is connected"),
            _ => None,
        };
        Self { reason: Some(failure.reason.name()), message: failure.message, hint }
    }
}
