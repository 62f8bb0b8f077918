//! End-to-end stories, each on a fresh lab of its own: `cargo lab test` runs them one after the other.

// A story is one future of many nested ones.
#![recursion_limit = "256"]

mod bad_input;
mod bad_plan;
mod by_the_page;
mod drill;
mod killed;
mod lost_bucket;
mod network_cut;
mod power_cut;
mod schema;
mod stolen_key;
mod verified;
mod watched;
