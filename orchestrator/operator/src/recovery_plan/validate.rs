//! Whether a plan can be carried out: pure.

use std::collections::BTreeSet;

use holdfast_api::RecoveryPlanSpec;
use holdfast_api::condition::reasons;

use super::observe::Facts;
use crate::execution::{plan_of, reason_of};

/// Something that is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The reason for a condition.
    pub reason: &'static str,
    /// What is wrong, where, and what to do.
    pub message: String,
}

/// What keeps the plan from being carried out at all: it must be mended first.
pub fn faults(namespace: &str, spec: &RecoveryPlanSpec, facts: &Facts) -> Vec<Fault> {
    let own = plan_of(spec).validate().err().unwrap_or_default();
    let own = own.iter().map(|p| fault(reason_of(p), p.to_string()));
    own.chain(missing(namespace, spec, facts)).chain(several_vaults(spec, facts)).collect()
}

fn missing(namespace: &str, spec: &RecoveryPlanSpec, facts: &Facts) -> Vec<Fault> {
    let mut found = Vec::new();
    for database in spec.databases.iter().filter(|d| !facts.standbys.contains_key(&d.standby)) {
        let (name, standby) = (&database.name, &database.standby);
        found.push(fault(
            reasons::UNKNOWN_DATABASE,
            format!("database {name:?}: there is no StandbyDatabase {namespace}/{standby}; apply it, or correct spec.databases"),
        ));
    }
    for service in &spec.services {
        let name = &service.name;
        for workload in service.workloads.iter().filter(|w| !facts.workloads.contains(&w.name)) {
            let workload = &workload.name;
            found.push(fault(
                reasons::UNKNOWN_WORKLOAD,
                format!("service {name:?}: there is no Deployment {namespace}/{workload}; apply it with 0 replicas, or correct its workloads"),
            ));
        }
        for traffic in service.traffic.iter().filter(|t| !facts.services.contains(&t.service)) {
            let target = &traffic.service;
            found.push(fault(
                reasons::UNKNOWN_SERVICE,
                format!("service {name:?}: there is no Service {namespace}/{target}; apply it, or correct its traffic"),
            ));
        }
    }
    found
}

fn several_vaults(spec: &RecoveryPlanSpec, facts: &Facts) -> Option<Fault> {
    let standbys = spec.databases.iter().filter_map(|d| facts.standbys.get(&d.standby));
    let vaults: BTreeSet<&str> = standbys.map(|s| s.vault.as_str()).collect();
    let names: Vec<&str> = vaults.into_iter().collect();
    (names.len() > 1).then(|| {
        let names = names.join(" and ");
        fault(
            reasons::SEVERAL_VAULTS,
            format!("the databases are in the vaults {names}; a plan has one journal in one vault: make a plan for each vault"),
        )
    })
}

/// What keeps the plan from being carried out right now. A Failover is not refused for it: what can be done is
/// done, and the rest is waited for.
pub fn not_ready(spec: &RecoveryPlanSpec, facts: &Facts) -> Vec<Fault> {
    let standbys = spec.databases.iter().filter_map(|d| Some((d, facts.standbys.get(&d.standby)?)));
    standbys
        .filter_map(|(database, standby)| {
            let why = standby.not_ready.as_ref().filter(|_| !standby.is_promoted)?;
            let (name, object) = (&database.name, &database.standby);
            let message = format!("database {name:?}: StandbyDatabase {object} is not ready: {why}");
            Some(fault(reasons::DATABASE_NOT_READY, message))
        })
        .collect()
}

/// Databases that take writes at this site already.
pub fn promoted(spec: &RecoveryPlanSpec, facts: &Facts) -> Vec<String> {
    let standbys = spec.databases.iter();
    let promoted = standbys.filter(|d| facts.standbys.get(&d.standby).is_some_and(|s| s.is_promoted));
    promoted.map(|d| d.name.clone()).collect()
}

/// Reason and message for one condition: the first reason, all messages.
pub fn summary(faults: &[Fault]) -> Option<(&'static str, String)> {
    let first = faults.first()?;
    let messages: Vec<&str> = faults.iter().map(|f| f.message.as_str()).collect();
    Some((first.reason, messages.join(". ")))
}

fn fault(reason: &'static str, message: String) -> Fault {
    Fault { reason, message }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::recovery_plan::observe::StandbyFacts;
    use serde_json::{Value, json};

    pub(crate) fn spec(changes: Value) -> RecoveryPlanSpec {
        let mut spec = json!({
            "databases": [{"name": "registration", "standby": "registration-db"}, {"name": "lab", "standby": "lab-db"}],
            "services": [
                {"name": "registration", "databases": ["registration"], "workloads": [{"name": "registration"}],
                 "probe": {"http": {"port": 8080, "path": "/readyz"}},
                 "traffic": {"service": "registration", "selector": {"app": "registration"}}},
                {"name": "lab", "databases": ["lab"], "dependsOn": ["registration"], "workloads": [{"name": "lab"}]}]});
        for (pointer, value) in changes.as_object().unwrap() {
            *spec.pointer_mut(pointer).unwrap() = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    pub(crate) fn facts() -> Facts {
        let standby = StandbyFacts { vault: "vault".into(), ..StandbyFacts::default() };
        Facts {
            standbys: ["registration-db", "lab-db"].map(|n| (n.to_owned(), standby.clone())).into(),
            workloads: ["registration", "lab"].map(String::from).into(),
            services: ["registration"].map(String::from).into(),
        }
    }

    #[test]
    fn every_fault_has_its_reason() {
        let table = [
            (json!({}), vec![]),
            (json!({"/services/0/dependsOn": ["lab"]}), vec![reasons::PLAN_CYCLE]),
            (json!({"/services/1/databases": ["pharmacy"]}), vec![reasons::UNKNOWN_DATABASE]),
            (json!({"/services/1/dependsOn": ["pharmacy"]}), vec![reasons::UNKNOWN_SERVICE]),
            (json!({"/databases/1/standby": "gone"}), vec![reasons::UNKNOWN_DATABASE]),
            (json!({"/services/1/workloads/0/name": "gone"}), vec![reasons::UNKNOWN_WORKLOAD]),
            (json!({"/services/0/traffic/service": "gone"}), vec![reasons::UNKNOWN_SERVICE]),
            (json!({"/databases/1/name": "registration", "/services/1/databases": []}), vec![reasons::DUPLICATE_NAME]),
        ];
        for (changes, expected) in table {
            // `dependsOn` of the first service is added, not replaced.
            let mut base = spec(json!({}));
            if let Some(d) = changes.get("/services/0/dependsOn") {
                base.services[0].depends_on = serde_json::from_value(d.clone()).unwrap();
            } else {
                base = spec(changes.clone());
            }
            let found: Vec<_> = faults("hospital", &base, &facts()).iter().map(|f| f.reason).collect();
            assert_eq!(found, expected, "{changes}");
        }
    }

    #[test]
    fn databases_of_two_vaults_are_refused() {
        let mut facts = facts();
        facts.standbys.get_mut("lab-db").unwrap().vault = "other".into();
        let found = faults("hospital", &spec(json!({})), &facts);
        assert_eq!(found[0].reason, reasons::SEVERAL_VAULTS);
    }

    #[test]
    fn a_standby_that_does_not_follow_makes_the_plan_not_ready_but_not_faulty() {
        let mut facts = facts();
        facts.standbys.get_mut("lab-db").unwrap().not_ready = Some("Restoring: 40 %".into());
        let spec = spec(json!({}));
        assert_eq!(faults("hospital", &spec, &facts), []);
        let (reason, message) = summary(&not_ready(&spec, &facts)).unwrap();
        assert_eq!(reason, reasons::DATABASE_NOT_READY);
        assert!(message.contains("lab-db") && message.contains("40 %"), "{message}");
    }
}
