//! `make replay DIR=folder`: recorded exchanges through the providers. The last line is `N passed, N failed, N skipped`; the exit code
//! is 1 when any failed, or none was found.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use postern_tests::replay::{Outcome, exchanges};

fn main() -> ExitCode {
    let Some(dir) = std::env::args().nth(1).filter(|dir| !dir.is_empty()) else {
        eprintln!("usage: make replay DIR=folder");
        return ExitCode::FAILURE;
    };
    let exchanges = match exchanges(Path::new(&dir)) {
        Ok(exchanges) => exchanges,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::FAILURE;
        }
    };
    let mut table: BTreeMap<(String, String), [usize; 3]> = BTreeMap::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for exchange in &exchanges {
        let row = table.entry(exchange.row()).or_default();
        match exchange.replay() {
            Outcome::Passed => row[0] += 1,
            Outcome::Failed(problem) => {
                row[1] += 1;
                println!("FAILED {}\n       {problem}", exchange.name);
            }
            Outcome::Skipped(reason) => {
                row[2] += 1;
                *reasons.entry(reason).or_default() += 1;
            }
        }
    }
    println!("{:<14} {:<18} {:>7} {:>7} {:>8}", "PROVIDER", "API", "PASSED", "FAILED", "SKIPPED");
    for ((provider, api), [passed, failed, skipped]) in &table {
        println!("{provider:<14} {api:<18} {passed:>7} {failed:>7} {skipped:>8}");
    }
    for (reason, count) in &reasons {
        println!("skipped {count}: {reason}");
    }
    let sum = |at: usize| table.values().map(|row| row[at]).sum::<usize>();
    println!("{} passed, {} failed, {} skipped", sum(0), sum(1), sum(2));
    if sum(1) > 0 || exchanges.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
