//! One incarnation of a writer or a taker: its nonce and its key.

use ed25519_dalek::SigningKey;
use jiff::Timestamp;
use rand::RngExt;

use crate::log::mutant::{Mutant, on};
use crate::log::types::TakerState;
use crate::log::walk::Owner;
use crate::object::{Header, Nonce, PublicKey, Subject};
use crate::trust::{Voucher, WriterKey};

/// Who signs: a random nonce and a key that live as long as one process does, or as long as one takeover.
#[derive(Clone)]
pub(crate) struct Incarnation {
    nonce: Nonce,
    key: SigningKey,
    /// When set, stands in every header, so that repeated bytes are the same.
    created: Option<Timestamp>,
    /// By the site's writer key, when it has one.
    voucher: Option<Voucher>,
}

impl Incarnation {
    pub(crate) fn new(nonce: Nonce, seed: &[u8; 32], created: Option<Timestamp>) -> Incarnation {
        Incarnation { nonce, key: SigningKey::from_bytes(seed), created, voucher: None }
    }

    pub(crate) fn random() -> Incarnation {
        let mut rng = rand::rng();
        Incarnation::new(Nonce(rng.random()), &rng.random(), None)
    }

    pub(crate) fn of_taker(state: &TakerState) -> Incarnation {
        let me = Incarnation::new(state.nonce, &state.key_seed, Some(state.created));
        Incarnation { voucher: state.voucher, ..me }
    }

    /// The same, vouched for by the site's writer key.
    pub(crate) fn vouched(self, writer: Option<&WriterKey>) -> Incarnation {
        let voucher = writer.map(|writer| writer.vouch(self.nonce, self.public()));
        Incarnation { voucher, ..self }
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

    pub(crate) fn owner(&self) -> Owner {
        Owner { nonce: self.nonce, key: self.public() }
    }

    /// Whether an epoch is this incarnation's.
    pub(crate) fn is(&self, owner: Option<Owner>) -> bool {
        owner == Some(self.owner()) || (on(Mutant::IdentityWithoutNonce) && owner.is_some())
    }

    /// A header of this incarnation, without a body.
    pub(crate) fn header(&self, subject: Subject) -> Header {
        let created = self.created.unwrap_or_else(now);
        // A chunk is vouched for by its seal, a part by its manifest: the log's objects stay small.
        let voucher = match subject {
            Subject::Chunk(_) | Subject::BackupPart { .. } => None,
            _ => self.voucher,
        };
        Header { subject, nonce: self.nonce, key: self.public(), created, body: None, voucher }
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
        TakerState { nonce: Nonce(rng.random()), key_seed: rng.random(), by: by.into(), created: now(), voucher: None }
    }

    /// The same, vouched for by the writer key that the site has now. Not journaled: a key may be rotated between two
    /// tries, and the taker knows its own seals by nonce and key.
    pub(crate) fn vouched(&self, writer: Option<&WriterKey>) -> TakerState {
        let key = Incarnation::of_taker(self).public();
        TakerState { voucher: writer.map(|writer| writer.vouch(self.nonce, key)), ..self.clone() }
    }
}
