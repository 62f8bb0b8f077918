//! A recovery plan as the runner sees it: which databases, which services, who waits for whom.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// What is recovered and in what order. Everything else a plan says is the executor's business.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Names of the databases, unique.
    pub databases: Vec<String>,
    pub services: Vec<Service>,
}

/// A service and what must stand before it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    /// Databases of this plan that accept writes before the service starts.
    pub databases: Vec<String>,
    /// Services of this plan whose probe has passed before the service starts.
    pub depends_on: Vec<String>,
}

/// Why a plan cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanProblem {
    #[error(
        "the services wait for each other in a circle: {}; remove one dependsOn of them",
        path.join(" -> ")
    )]
    Cycle { path: Vec<String> },
    #[error(
        "service {service:?} needs database {database:?}, which the plan does not list; add it to \
         spec.databases or remove it from the service"
    )]
    UnknownDatabase { service: String, database: String },
    #[error(
        "service {service:?} depends on service {dependency:?}, which the plan does not list; add \
         it to spec.services or remove the dependsOn"
    )]
    UnknownService { service: String, dependency: String },
    #[error("the plan lists {what} {name:?} twice; names must be unique")]
    Duplicate { what: &'static str, name: String },
    #[error("the plan lists no database; add at least one to spec.databases")]
    NoDatabase,
}

impl Plan {
    /// Checks the plan and reports everything that is wrong with it, not only the first problem.
    ///
    /// # Errors
    /// All problems, in the order of the plan; a cycle is named once, service by service.
    pub fn validate(&self) -> Result<(), Vec<PlanProblem>> {
        let mut problems = Vec::new();
        if self.databases.is_empty() {
            problems.push(PlanProblem::NoDatabase);
        }
        duplicates("database", self.databases.iter(), &mut problems);
        duplicates("service", self.services.iter().map(|s| &s.name), &mut problems);
        self.unknown_names(&mut problems);
        if let Some(path) = self.cycle() {
            problems.push(PlanProblem::Cycle { path });
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// The services in waves: all of one wave may start at the same time, each after the wave
    /// before it. Services in a circle, or after one, appear in no wave.
    #[must_use]
    pub fn waves(&self) -> Vec<Vec<String>> {
        let mut started: BTreeSet<&str> = BTreeSet::new();
        let mut waves = Vec::new();
        loop {
            let wave: Vec<&str> = self
                .services
                .iter()
                .filter(|s| !started.contains(s.name.as_str()))
                .filter(|s| s.depends_on.iter().all(|d| started.contains(d.as_str())))
                .map(|s| s.name.as_str())
                .collect();
            if wave.is_empty() {
                return waves;
            }
            started.extend(&wave);
            waves.push(wave.into_iter().map(str::to_owned).collect());
        }
    }

    fn unknown_names(&self, problems: &mut Vec<PlanProblem>) {
        for service in &self.services {
            for database in &service.databases {
                if !self.databases.contains(database) {
                    problems.push(PlanProblem::UnknownDatabase {
                        service: service.name.clone(),
                        database: database.clone(),
                    });
                }
            }
            for dependency in &service.depends_on {
                if !self.services.iter().any(|s| &s.name == dependency) {
                    problems.push(PlanProblem::UnknownService {
                        service: service.name.clone(),
                        dependency: dependency.clone(),
                    });
                }
            }
        }
    }

    /// One circle of `depends_on`, first service repeated at the end, if there is any.
    fn cycle(&self) -> Option<Vec<String>> {
        let edges: BTreeMap<&str, &[String]> =
            self.services.iter().map(|s| (s.name.as_str(), s.depends_on.as_slice())).collect();
        let mut cleared = BTreeSet::new();
        self.services.iter().find_map(|s| walk(&s.name, &edges, &mut Vec::new(), &mut cleared))
    }
}

/// Depth-first; `path` is the way here, `cleared` are services that lead into no circle.
fn walk<'a>(
    name: &'a str,
    edges: &BTreeMap<&'a str, &'a [String]>,
    path: &mut Vec<&'a str>,
    cleared: &mut BTreeSet<&'a str>,
) -> Option<Vec<String>> {
    if let Some(at) = path.iter().position(|p| *p == name) {
        let circle = path[at..].iter().chain(std::iter::once(&name));
        return Some(circle.map(|s| (*s).to_owned()).collect());
    }
    if cleared.contains(name) {
        return None;
    }
    path.push(name);
    let next = edges.get(name).copied().unwrap_or_default();
    let found = next.iter().find_map(|d| walk(d, edges, path, cleared));
    path.pop();
    cleared.insert(name);
    found
}

fn duplicates<'a>(what: &'static str, names: impl Iterator<Item = &'a String>, problems: &mut Vec<PlanProblem>) {
    let mut seen = BTreeMap::<&str, u32>::new();
    for name in names {
        let count = seen.entry(name).or_default();
        *count += 1;
        if *count == 2 {
            problems.push(PlanProblem::Duplicate { what, name: name.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, databases: &[&str], depends_on: &[&str]) -> Service {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Service { name: name.into(), databases: owned(databases), depends_on: owned(depends_on) }
    }

    fn plan(databases: &[&str], services: Vec<Service>) -> Plan {
        Plan { databases: databases.iter().map(|d| (*d).to_owned()).collect(), services }
    }

    fn problems(plan: &Plan) -> Vec<String> {
        plan.validate()
            .err()
            .unwrap_or_default()
            .iter()
            .map(|p| match p {
                PlanProblem::Cycle { path } => format!("cycle {}", path.join(">")),
                PlanProblem::UnknownDatabase { service, database } => {
                    format!("no database {service}>{database}")
                }
                PlanProblem::UnknownService { service, dependency } => format!("no service {service}>{dependency}"),
                PlanProblem::Duplicate { what, name } => format!("two of {what} {name}"),
                PlanProblem::NoDatabase => "no database".into(),
            })
            .collect()
    }

    #[test]
    fn every_problem_is_named() {
        let s = service;
        let table: Vec<(Plan, Vec<&str>)> = vec![
            (plan(&["a"], vec![s("x", &["a"], &[])]), vec![]),
            (plan(&["a"], vec![]), vec![]),
            (plan(&[], vec![]), vec!["no database"]),
            (plan(&["a"], vec![s("x", &["b"], &[])]), vec!["no database x>b"]),
            (plan(&["a"], vec![s("x", &[], &["y"])]), vec!["no service x>y"]),
            (
                plan(&["a", "a", "a"], vec![s("x", &[], &[]), s("x", &[], &[])]),
                vec!["two of database a", "two of service x"],
            ),
            (plan(&["a"], vec![s("x", &[], &["x"])]), vec!["cycle x>x"]),
            (
                // The way in (w) is no part of the circle and is not named.
                plan(&["a"], vec![s("w", &[], &["x"]), s("x", &[], &["y"]), s("y", &[], &["z"]), s("z", &[], &["x"])]),
                vec!["cycle x>y>z>x"],
            ),
            (
                // A diamond is no circle.
                plan(
                    &["a"],
                    vec![s("x", &[], &["y", "z"]), s("y", &[], &["w"]), s("z", &[], &["w"]), s("w", &[], &[])],
                ),
                vec![],
            ),
            (plan(&["a"], vec![s("x", &["q"], &["x", "p"])]), vec!["no database x>q", "no service x>p", "cycle x>x"]),
        ];
        for (plan, expected) in table {
            assert_eq!(problems(&plan), expected, "{plan:?}");
        }
    }

    #[test]
    fn waves_follow_the_dependencies() {
        let plan = plan(
            &["a"],
            vec![
                service("billing", &[], &["registration"]),
                service("registration", &["a"], &[]),
                service("lab", &[], &["registration"]),
                service("portal", &[], &["lab", "registration"]),
            ],
        );
        assert_eq!(plan.waves(), vec![vec!["registration"], vec!["billing", "lab"], vec!["portal"]]);
    }
}
