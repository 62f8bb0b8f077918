use std::time::Duration;

use super::attempt::*;
use crate::store::{Answer, LifecycleFacts, Retention};
use jiff::Timestamp;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn lock(compliance: bool, until: i64) -> Option<Retention> {
    Some(Retention { compliance, until: at(until) })
}

fn seen() -> Seen {
    Seen { intact: true, retention: lock(true, 1000), marker: false, newer: 0 }
}

fn refused() -> Answer {
    Answer::Refused { said: "403 AccessDenied".into() }
}

#[test]
fn an_attempt_is_judged_by_what_is_read_back_and_not_by_what_the_store_says() {
    use Attempt::*;
    let yes = Answer::accepted;
    let gone = Seen { intact: false, ..seen() };
    let shorter = Seen { retention: lock(true, 999), ..seen() };
    let longer = Seen { retention: lock(true, 1001), ..seen() };
    let governed = Seen { retention: lock(false, 1000), ..seen() };
    let bare = Seen { retention: None, ..seen() };
    let newer = Seen { newer: 1, ..seen() };
    let hidden = Seen { marker: true, ..seen() };
    for (attempt, answer, after, outcome) in [
        (DeleteVersion, refused(), seen(), "refused"),
        (DeleteVersion, yes(), gone.clone(), "harmful"),
        (DeleteVersion, refused(), gone.clone(), "harmful"),
        (DeleteVersion, yes(), seen(), "limit"),
        (DeleteBatch, yes(), gone.clone(), "harmful"),
        (BypassGovernance, yes(), gone.clone(), "harmful"),
        (ShortenRetention, yes(), shorter.clone(), "harmful"),
        (ShortenRetention, refused(), shorter, "harmful"),
        (ShortenRetention, yes(), bare, "harmful"),
        (ShortenRetention, refused(), longer, "refused"),
        (DowngradeRetention, yes(), governed, "harmful"),
        (Overwrite, yes(), newer, "harmless"),
        (Overwrite, refused(), seen(), "refused"),
        (Overwrite, yes(), gone, "harmful"),
        (Hide, yes(), hidden, "harmless"),
        (Hide, yes(), seen(), "harmful"),
        (Hide, refused(), seen(), "refused"),
    ] {
        let found = judge_object(attempt, &answer, &seen(), &after);
        assert_eq!(found.name(), outcome, "{attempt:?} {answer:?} {after:?}: {found:?}");
    }
}

#[test]
fn a_setting_that_could_be_changed_is_harm_and_one_that_stays_changed_is_shouted() {
    let put = |answer: Answer| judge_setting(Attempt::SuspendVersioning, &answer);
    assert_eq!(put(refused()).name(), "refused");
    assert_eq!(put(Answer::Untried { why: "x".into() }).name(), "skipped");
    assert!(put(Answer::accepted()).detail().contains("put back as it was"));
    let left = put(Answer::Accepted { left: Some("versioning is suspended".into()) });
    assert!(left.is_harmful() && left.detail().contains("COULD NOT BE PUT BACK: versioning is suspended"));
}

#[test]
fn an_unlocked_upload_is_harmless_only_under_a_default_that_lasts() {
    let yes = Answer::accepted();
    for (answer, retention, outcome) in [
        (&refused(), None, "refused"),
        (&yes, lock(true, 100), "harmless"),
        (&yes, lock(true, 99), "limit"),
        (&yes, lock(false, 100), "limit"),
        (&yes, None, "limit"),
    ] {
        assert_eq!(judge_unlocked(answer, retention.as_ref(), at(100)).name(), outcome, "{retention:?}");
    }
}

#[test]
fn another_s_objects_must_not_be_read() {
    let no = || Look::Refused("403 AccessDenied".into());
    let there = || Look::Found("k".into());
    for (listing, reading, outcome) in [
        (no(), no(), "refused"),
        (no(), there(), "harmful"),
        (there(), there(), "harmful"),
        (there(), no(), "limit"),
        (Look::Nothing, no(), "limit"),
        (no(), Look::Nothing, "limit"),
        (Look::Nothing, Look::Nothing, "limit"),
    ] {
        assert_eq!(judge_other(&listing, &reading).name(), outcome, "{listing:?} {reading:?}");
    }
}

#[test]
fn rules_that_expire_are_named() {
    let rules = |names: &[&str]| LifecycleFacts { expiring: names.iter().map(|name| (*name).to_owned()).collect() };
    assert_eq!(judge_rules(None).name(), "skipped");
    assert_eq!(judge_rules(Some(&rules(&[]))).name(), "harmless");
    assert!(judge_rules(Some(&rules(&["old", "tmp"]))).detail().contains("old, tmp"));
}

#[test]
fn names_are_those_of_the_json() {
    for attempt in super::ALL {
        let tried = Tried { attempt: *attempt, outcome: Outcome::Skipped { why: "x".into() } };
        let json = serde_json::to_value(&tried).unwrap();
        assert_eq!(json["attempt"], attempt.name());
        assert_eq!(json["outcome"], tried.outcome.name());
        assert_eq!(serde_json::from_value::<Tried>(json).unwrap(), tried);
    }
}

#[test]
fn a_clock_that_is_too_far_off_is_said() {
    let check = |skew| super::VaultCheck { probe: String::new(), locked_until: at(0), clock_skew_seconds: skew };
    for (skew, sound) in [(None, None), (Some(0), Some(true)), (Some(-60), Some(true)), (Some(61), Some(false))] {
        assert_eq!(check(skew).clock_in_sync(), sound, "{skew:?}");
    }
    assert_eq!(super::MAX_CLOCK_SKEW, Duration::from_secs(60));
}
