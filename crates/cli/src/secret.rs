//! Secrets come by prompt, standard input or file, never as an argument, and go to files that only their owner can read.

use std::fs::OpenOptions;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use secrecy::SecretString;

use crate::output::Problem;

/// Longest secret, in bytes.
const MAX_BYTES: u64 = 16 * 1024;

/// The first line of a file; `-` is standard input.
pub fn from_file(path: &Path) -> Result<SecretString, Problem> {
    if path == Path::new("-") {
        return from_stdin();
    }
    let text = std::fs::read_to_string(path).map_err(|error| Problem::new(format!("{}: {error}", path.display())))?;
    first_line(&text).ok_or_else(|| Problem::new(format!("{} holds no secret", path.display())))
}

/// The whole of a file, such as a key of many lines.
pub fn whole_file(path: &Path) -> Result<SecretString, Problem> {
    let failed = |error: std::io::Error| Problem::new(format!("{}: {error}", path.display()));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(failed)?;
    match text.trim().is_empty() {
        true => Err(Problem::new(format!("{} holds no secret", path.display()))),
        false => Ok(text.into()),
    }
}

/// Asks at the terminal without showing what is typed, or reads standard input when it is not a terminal.
pub fn ask(prompt: &str) -> Result<SecretString, Problem> {
    if !std::io::stdin().is_terminal() {
        return from_stdin();
    }
    let text = rpassword::prompt_password(prompt).map_err(|error| Problem::new(format!("no answer: {error}")))?;
    first_line(&text).ok_or_else(|| Problem::new("nothing was typed"))
}

fn from_stdin() -> Result<SecretString, Problem> {
    let mut text = String::new();
    let read = std::io::stdin().take(MAX_BYTES).read_to_string(&mut text);
    read.map_err(|error| Problem::new(format!("standard input: {error}")))?;
    first_line(&text).ok_or_else(|| Problem::new("standard input holds no secret"))
}

fn first_line(text: &str) -> Option<SecretString> {
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned().into())
}

/// Writes a secret to a new file of mode 0600.
pub fn write_new(path: &Path, secret: &str) -> Result<(), Problem> {
    let failed = |error: std::io::Error| Problem::new(format!("{}: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    writeln!(file, "{secret}").and_then(|()| file.sync_all()).map_err(failed)
}

/// Refuses a path that is taken, before a secret is made that could not be written.
pub fn must_be_free(path: &Path) -> Result<(), Problem> {
    if path.exists() {
        return Err(Problem::new(format!("{} exists; name a new file", path.display())));
    }
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) if !parent.is_dir() => Err(Problem::new(format!("there is no folder {}", parent.display()))),
        _ => Ok(()),
    }
}
