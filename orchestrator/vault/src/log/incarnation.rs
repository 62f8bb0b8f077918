//! One incarnation of a writer or a taker: its nonce and its key.

use ed25519_dalek::SigningKey;
use jiff::Timestamp;
use rand::RngExt;

use crate::log::types::TakerState;
use crate::object::{Header, Nonce, PublicKey, Subject};

/// Who signs: a random nonce and a key that live as long as one process does, or as long as one takeover.
#[derive(Clone)]
pub(crate) struct Incarnation {
    nonce: Nonce,
    key: SigningKey,
    /// When set, stands in every header, so that repeated bytes are the same.
    created: Option<Timestamp>,
}

impl Incarnation {
    pub(crate) fn new(nonce: Nonce, seed: &[u8; 32], created: Option<Timestamp>) -> Incarnation {
        Incarnation { nonce, key: SigningKey::from_bytes(seed), created }
    }

    pub(crate) fn random() -> Incarnation {
        let mut rng = rand::rng();
        Incarnation::new(Nonce(rng.random()), &rng.random(), None)
    }

    pub(crate) fn of_taker(state: &TakerState) -> Incarnation {
        Incarnation::new(state.nonce, &state.key_seed, Some(state.created))
    }

    pub(crate) fn nonce(&self) -> Nonce {
        self.nonce
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }

    pub(crate) fn public(&self) -> PublicKey {
        PublicKey(self.key.verifying_key().to_bytes())
    }

    /// A header of this incarnation, without a body.
    pub(crate) fn header(&self, subject: Subject) -> Header {
        let created = self.created.unwrap_or_else(now);
        Header { subject, nonce: self.nonce, key: self.public(), created, body: None }
    }
}

/// The local clock, to the second: for people only.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

impl TakerState {
    /// A new taker. `by` is for people (the run's id).
    pub fn generate(by: impl Into<String>) -> TakerState {
        let mut rng = rand::rng();
        TakerState { nonce: Nonce(rng.random()), key_seed: rng.random(), by: by.into(), created: now() }
    }
}
