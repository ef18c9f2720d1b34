//! The policy table: for every gRPC method that a process serves, who may call it. A method without a row is refused, and a
//! test of each service walks the contract's descriptors and fails on a method without one.

use std::collections::BTreeSet;

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access<R: 'static> {
    /// Anyone; what is told is public, or the message carries its own proof.
    Open,
    /// A principal with any of these roles.
    Roles(&'static [R]),
    /// The method's own pipeline judges the token, because what it demands depends on the message.
    Pipeline,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Row<R: 'static> {
    /// The path, such as `/postern.instance.v1.TokenService/ExchangeToken`.
    pub method: &'static str,
    /// Who may call it.
    pub access: Access<R>,
}

/// The table of a process.
#[derive(Debug, Clone, Copy)]
pub struct PolicyTable<R: 'static>(pub &'static [Row<R>]);

impl<R> PolicyTable<R> {
    /// Who may call this method. Nobody may call one without a row.
    #[must_use]
    pub fn access(&self, method: &str) -> Option<&Access<R>> {
        self.0.iter().find(|row| row.method == method).map(|row| &row.access)
    }

    /// The differences between the table and what the contract says of these services: methods without a row, and rows
    /// without a method.
    #[must_use]
    pub fn differences(&self, contract: &[String]) -> Vec<String> {
        let contract: BTreeSet<_> = contract.iter().map(String::as_str).collect();
        let rows: BTreeSet<_> = self.0.iter().map(|row| row.method).collect();
        let missing = contract.difference(&rows).map(|method| format!("no row for {method}"));
        let extra = rows.difference(&contract).map(|method| format!("no method for row {method}"));
        missing.chain(extra).collect()
    }
}
