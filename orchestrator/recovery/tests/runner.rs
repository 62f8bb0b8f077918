//! The runner against a fake executor and a journal in memory: stopped at every point in turn, beside
//! another runner, and with steps that fail.

mod world;

use holdfast_recovery::journal::Outcome;
use holdfast_recovery::{Graph, RunEnd, StepError};
use world::{Crash, World, failover_graph};

fn finished(outcome: Outcome) -> RunEnd {
    RunEnd::Finished(outcome, String::new())
}

#[tokio::test]
async fn a_run_does_every_step_once_and_in_order() {
    let world = World::new(failover_graph());
    assert_eq!(world.run("a").await, finished(Outcome::Succeeded));
    world.check_complete_and_ordered();
    assert!(world.effects().values().all(|n| *n == 1));
}

#[tokio::test]
async fn databases_go_side_by_side() {
    let world = World::new(failover_graph());
    world.run("a").await;
    assert!(world.most_at_once() >= 3, "{}", world.most_at_once());
}

/// Stops the process at `crash`, starts another one, and looks at what was done.
async fn stopped_at(graph: &Graph, crash: Crash) -> bool {
    let world = World::new(graph.clone());
    world.crash_at(crash);
    if !world.run_until_crash("a").await {
        return false;
    }
    world.survive();
    assert_eq!(world.run("b").await, finished(Outcome::Succeeded), "{crash:?}");
    world.check_complete_and_ordered();
    world.check_same_data_in_every_attempt();
    true
}

#[tokio::test]
async fn stopped_before_and_after_every_journal_write() {
    for graph in [failover_graph(), world::drill_graph()] {
        let mut points = 0;
        while stopped_at(&graph, Crash::BeforeAppend(points)).await {
            assert!(stopped_at(&graph, Crash::AfterAppend(points)).await);
            points += 1;
        }
        assert!(points > 8, "only {points} records");
    }
}

#[tokio::test]
async fn stopped_before_and_after_the_effect_of_every_step() {
    for graph in [failover_graph(), world::drill_graph()] {
        for step in graph.steps() {
            let id = step.id.clone();
            let before = Crash::BeforeEffect(Box::leak(id.to_string().into_boxed_str()));
            let after = Crash::AfterEffect(Box::leak(id.to_string().into_boxed_str()));
            assert!(stopped_at(&graph, before).await, "{id}");
            assert!(stopped_at(&graph, after).await, "{id}");
        }
    }
}

#[tokio::test]
async fn every_step_may_fail_and_is_tried_again() {
    let graph = failover_graph();
    for step in graph.steps() {
        let world = World::new(graph.clone());
        world.fail(step.id.as_str(), 2, StepError::retry("not yet"));
        assert_eq!(world.run("a").await, finished(Outcome::Succeeded));
        world.check_complete_and_ordered();
        world.check_same_data_in_every_attempt();
        assert_eq!(world.attempts(step.id.as_str()), 3);
    }
}

#[tokio::test]
async fn of_two_runners_one_goes_on() {
    let world = World::new(failover_graph());
    let (a, b) = tokio::join!(world.run("a"), world.run("b"));
    let mut ends = [a, b];
    ends.sort_by_key(|e| *e == RunEnd::Superseded);
    assert_eq!(ends, [finished(Outcome::Succeeded), RunEnd::Superseded]);
    world.check_complete_and_ordered();
    world.check_same_data_in_every_attempt();
}

#[tokio::test]
async fn a_runner_that_comes_later_takes_the_run_over() {
    let world = World::new(failover_graph());
    let late = async {
        tokio::time::sleep(world::STEP_TIME * 3).await;
        // Losing the very first record to the other is no defeat: its operator reconciles again.
        loop {
            let end = world.run("b").await;
            if end != RunEnd::Superseded {
                return end;
            }
        }
    };
    let (a, b) = tokio::join!(world.run("a"), late);
    // On a busy machine the first may look again only when the second is through.
    assert!(a == RunEnd::Superseded || a == finished(Outcome::Succeeded), "{a:?}");
    assert_eq!(b, finished(Outcome::Succeeded));
    if a == RunEnd::Superseded {
        assert_eq!(world.last_runner().as_deref(), Some("b"));
    }
    world.check_complete_and_ordered();
}

#[tokio::test]
async fn a_lost_answer_of_the_journal_is_no_conflict() {
    let world = World::new(failover_graph());
    for n in 0..4 {
        world.lose_answer_of_append(n);
    }
    assert_eq!(world.run("a").await, finished(Outcome::Succeeded));
    assert!(world.effects().values().all(|n| *n == 1));
}

#[tokio::test]
async fn nothing_starts_while_the_journal_cannot_be_reached() {
    let world = World::new(failover_graph());
    world.journal_down(true);
    let run = world.run("a");
    tokio::pin!(run);
    let wait = tokio::time::sleep(std::time::Duration::from_millis(200));
    tokio::select! {
        end = &mut run => panic!("ended without a journal: {end:?}"),
        () = wait => {}
    }
    assert!(world.effects().is_empty());
    world.journal_down(false);
    assert_eq!(run.await, finished(Outcome::Succeeded));
}

#[tokio::test]
async fn a_failure_for_good_before_the_point_of_no_return_promotes_nothing() {
    let world = World::new(failover_graph());
    world.fail("lab/replay", 1, StepError::person("chunk damaged", "restore it"));
    let RunEnd::Finished(Outcome::Failed, message) = world.run("a").await else {
        panic!("must fail");
    };
    assert_eq!(message, "lab/replay: chunk damaged; restore it");
    let effects = world.effects();
    assert!(!effects.keys().any(|s| s.contains("promote")), "{effects:?}");
}

#[tokio::test]
async fn the_same_failure_after_it_is_tried_until_it_works() {
    let world = World::new(failover_graph());
    world.fail("lab/start", 5, StepError::person("no workload", "apply it"));
    world.fail("billing/promote-seal", 5, StepError::person("denied", ""));
    assert_eq!(world.run("a").await, finished(Outcome::Succeeded));
    world.check_complete_and_ordered();
}

#[tokio::test]
async fn a_lost_promote_seal_begins_again_with_a_new_takeover() {
    let world = World::new(failover_graph());
    world.fail("lab/promote-seal", 1, StepError::start_over("lost to a claim"));
    assert_eq!(world.run("a").await, finished(Outcome::Succeeded));
    assert_eq!(world.effects()["lab/takeover"], 2);
    assert_eq!(world.effects()["lab/replay"], 2);
    assert_eq!(world.effects()["billing/takeover"], 1);
    assert_eq!(world.different_data("lab/takeover"), 2);
}

#[tokio::test]
async fn a_cancelled_run_ends_before_the_point_of_no_return() {
    let world = World::new(failover_graph());
    world.hang("billing/replay");
    let stop = async {
        tokio::time::sleep(world::STEP_TIME * 5).await;
        world.cancel("the primary is back");
    };
    let (end, ()) = tokio::join!(world.run("a"), stop);
    let message = "the primary is back".to_owned();
    assert_eq!(end, RunEnd::Finished(Outcome::Aborted, message));
    assert!(!world.effects().keys().any(|s| s.contains("promote")));
}

#[tokio::test]
async fn a_cancelled_failover_past_it_goes_through() {
    let world = World::new(failover_graph());
    let stop = async {
        world.reached("lab/promote").await;
        world.cancel("too late");
    };
    let (end, ()) = tokio::join!(world.run("a"), stop);
    assert_eq!(end, finished(Outcome::Succeeded));
    world.check_complete_and_ordered();
}

#[tokio::test]
async fn a_drill_that_fails_or_is_cancelled_leaves_nothing_behind() {
    let world = World::new(world::drill_graph());
    world.fail("lab/restore", 99, StepError::retry("no backup"));
    let end = world.run_bounded("a", 3).await;
    assert!(matches!(end, RunEnd::Finished(Outcome::Failed, _)), "{end:?}");
    assert_eq!(world.attempts("lab/restore"), 3);
    assert_eq!((world.effects()["report"], world.effects()["clean-up"]), (1, 1));

    let world = World::new(world::drill_graph());
    world.hang("lab/restore");
    let stop = async {
        world.reached("billing/open").await;
        world.cancel("enough");
    };
    let (end, ()) = tokio::join!(world.run("a"), stop);
    assert!(matches!(end, RunEnd::Finished(Outcome::Aborted, _)), "{end:?}");
    assert_eq!(world.effects()["clean-up"], 1);
}

#[tokio::test]
async fn a_step_that_panics_is_a_failed_attempt() {
    let world = World::new(failover_graph());
    world.panic_once("lab/promote");
    assert_eq!(world.run("a").await, finished(Outcome::Succeeded));
    world.check_complete_and_ordered();
}

#[tokio::test]
async fn a_journal_of_another_plan_is_refused() {
    let world = World::new(failover_graph());
    world.run("a").await;
    let world = world.forget_the_end();
    assert!(world.try_run_with_plan("b", "other-hash").await.is_err());
}
