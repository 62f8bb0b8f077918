//! What a person runs: one file a command.

pub(crate) mod by_hand;
pub(crate) mod crd;
pub(crate) mod isolation_probe;
pub(crate) mod keys;
pub(crate) mod runbook;
pub(crate) mod vault;
