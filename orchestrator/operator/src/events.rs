//! Events: one for every transition of a condition, and what else a person should hear of.

use holdfast_api::condition::types;
use holdfast_api::{Condition, Conditioned, Conditions};
use jiff::Timestamp;
use kube::Resource;
use kube::core::object::HasStatus;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use serde::Serialize;
use tracing::warn;

use crate::apply::{Applicable, describe};
use crate::{Context, Error, ReconcileError};

/// The API server refuses longer notes.
const NOTE_LIMIT: usize = 1000;

/// The condition transitions between two states of an object.
///
/// A condition that appears, changes its status or changes its reason is a transition; a new message
/// alone is not.
pub fn transitions<'a>(old: &[Condition], new: &'a [Condition]) -> Vec<&'a Condition> {
    new.iter()
        .filter(|n| {
            let before = old.iter().find(|o| o.type_ == n.type_);
            !before.is_some_and(|b| b.status == n.status && b.reason == n.reason)
        })
        .collect()
}

impl Context {
    /// Publishes an event about `object`. One that cannot be published is logged: it never stops a reconcile.
    pub async fn event<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        type_: EventType,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            action: action.to_owned(),
            note: Some(truncated(note)),
            secondary: None,
        };
        let reference = object.object_ref(&());
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            warn!(object = describe(object), reason, %error, "event could not be published");
        }
    }

    /// An event about something that went as it should.
    pub async fn normal<K: Applicable>(&self, object: &K, reason: &str, action: &str, note: &str) {
        self.event(object, EventType::Normal, reason, action, note).await;
    }

    /// An event about something that a person should look at.
    pub async fn warning<K: Applicable>(&self, object: &K, reason: &str, action: &str, note: &str) {
        self.event(object, EventType::Warning, reason, action, note).await;
    }

    /// Publishes an event for each transition between the conditions `old` and `new`.
    pub async fn publish_transitions<K: Applicable>(&self, object: &K, old: &[Condition], new: &[Condition]) {
        for condition in transitions(old, new) {
            let type_ = if condition.is_warning() { EventType::Warning } else { EventType::Normal };
            let note = format!("{}={:?}: {}", condition.type_, condition.status, condition.message);
            self.event(object, type_, &condition.reason, &condition.type_, &note).await;
        }
    }
}

impl Context {
    /// Writes a refusal of the API server into the object's Ready condition, as far as that can be written, and
    /// hands the result on. Anything else that failed is only tried again: the status stays as it was.
    ///
    /// # Errors
    /// Those of `result`.
    pub async fn with_refusal_in_status<K>(&self, object: &K, result: Result<Action, Error>) -> Result<Action, Error>
    where
        K: Applicable + HasStatus,
        K::Status: Conditioned + Clone + Default + Serialize,
    {
        let Err(error) = &result else { return result };
        if !error.is_refusal() {
            return result;
        }
        let old = object.status().cloned().unwrap_or_default();
        let mut conditions = Conditions::of(old.conditions(), object.meta().generation, Timestamp::now());
        conditions.set(types::READY, false, error.reason(), error.to_string());
        let conditions = conditions.into_vec();
        if conditions != old.conditions() {
            let mut new = old.clone();
            new.set_conditions(conditions);
            if let Err(error) = self.patch_status(object, &new).await {
                warn!(object = describe(object), %error, "the refusal could not be written into the status");
            }
        }
        result
    }
}

fn truncated(note: &str) -> String {
    if note.len() <= NOTE_LIMIT {
        return note.to_owned();
    }
    let mut end = NOTE_LIMIT;
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &note[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(status: bool, reason: &str, message: &str) -> Vec<Condition> {
        let mut c = Conditions::of(&[], Some(1), Timestamp::UNIX_EPOCH);
        c.set("Ready", status, reason, message);
        c.into_vec()
    }

    #[test]
    fn a_new_status_or_reason_is_a_transition_and_a_new_message_is_not() {
        let before = conditions(false, "Starting", "a");
        let cases = [
            (conditions(false, "Starting", "b"), 0),
            (conditions(false, "Failed", "a"), 1),
            (conditions(true, "Starting", "a"), 1),
        ];
        for (after, expected) in cases {
            assert_eq!(transitions(&before, &after).len(), expected, "{after:?}");
        }
        assert_eq!(transitions(&[], &before).len(), 1);
    }

    #[test]
    fn a_long_note_is_cut_at_a_character() {
        let note = truncated(&"ä".repeat(800));
        assert!(note.len() <= NOTE_LIMIT + '…'.len_utf8());
        assert!(note.ends_with('…'));
    }
}
