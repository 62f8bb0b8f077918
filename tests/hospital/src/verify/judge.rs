//! The verdict, from a ledger's entries and the records found: no I/O.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ledger::Entry;
use crate::record::{Listed, Service};

/// How many ids a verdict names of each fault.
const EXAMPLES: usize = 10;

/// What became of every write.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub attempted: u64,
    /// Writes that a service said are committed.
    pub acknowledged: u64,
    /// Acknowledged and not there.
    pub lost: u64,
    /// Acknowledged for another patient, or under another number, than is there.
    pub altered: u64,
    /// Attempted, without an answer that says whether it was done, and never acknowledged.
    pub unknown: u64,
    /// Those of `unknown` that are there.
    pub unknown_present: u64,
    /// There, and in no ledger.
    pub phantom: u64,
    /// Invoices and results whose patient is not there.
    pub orphaned: u64,
    /// Records beyond the first with the same client id.
    pub duplicated: u64,
    /// Indexed by [`Service::index`].
    pub services: [ServiceVerdict; 3],
    /// The first few faulty records, by fault.
    pub findings: Vec<Finding>,
}

/// One service's part of the verdict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceVerdict {
    pub acknowledged: u64,
    pub lost: u64,
    pub present: u64,
    /// Of the acknowledged requests, in microseconds.
    pub latency: Percentiles,
    /// Of their COMMIT alone, in microseconds.
    pub commit: Percentiles,
    /// The longest time without an acknowledged write.
    pub gap: Option<Gap>,
}

/// Between two consecutive acknowledged writes; microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub from_us: u64,
    pub to_us: u64,
}

impl Gap {
    pub fn length_us(&self) -> u64 {
        self.to_us - self.from_us
    }
}

/// Latencies in microseconds; zero without samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50_us: u64,
    pub p95_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

/// A record that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub fault: String,
    pub service: Service,
    pub client_id: Uuid,
}

impl Verdict {
    /// Whether nothing acknowledged is lost or altered, and no record is duplicated or without its
    /// patient. Phantoms do not count: anybody may have written by hand.
    pub fn is_intact(&self) -> bool {
        self.lost + self.altered + self.orphaned + self.duplicated == 0
    }

    fn find(&mut self, fault: &str, service: Service, client_id: Uuid) {
        let same = |finding: &&Finding| finding.fault == fault;
        if self.findings.iter().filter(same).count() < EXAMPLES {
            self.findings.push(Finding { fault: fault.to_owned(), service, client_id });
        }
    }
}

impl Percentiles {
    /// The nearest-rank percentiles of `samples`.
    pub fn of(mut samples: Vec<u64>) -> Self {
        samples.sort_unstable();
        let at = |percent: usize| {
            let rank = (samples.len() * percent).div_ceil(100).max(1);
            samples.get(rank - 1).copied().unwrap_or(0)
        };
        Self { p50_us: at(50), p95_us: at(95), p99_us: at(99), max_us: at(100) }
    }
}

/// What the ledgers say of one write.
#[derive(Default)]
struct Promise {
    /// The patient that was acknowledged.
    acked: Option<i64>,
    /// A request had no answer.
    unanswered: bool,
    refused: bool,
}

/// Compares ledgers with the records of a site (indexed by [`Service::index`]). With `around_us`,
/// a service's gap is the longest that ends after that moment.
pub fn judge(entries: &[Entry], found: &[Vec<Listed>; 3], around_us: Option<u64>) -> Verdict {
    let mut verdict = Verdict::default();
    for service in Service::ALL {
        let promises = promises(entries, service);
        let records = &found[service.index()];
        let present = count_present(&mut verdict, service, &promises, records);
        count_promised(&mut verdict, service, &promises, &present);
        let figures = &mut verdict.services[service.index()];
        figures.present = records.len() as u64;
        measure(figures, entries, service, around_us);
    }
    count_orphans(&mut verdict, found);
    verdict
}

fn promises(entries: &[Entry], of: Service) -> HashMap<Uuid, Promise> {
    let mut promises: HashMap<Uuid, Promise> = HashMap::new();
    for entry in entries {
        match entry {
            Entry::Attempt { service, id, .. } if *service == of => {
                promises.entry(*id).or_default();
            }
            Entry::Acked { service, id, mrn, .. } if *service == of => {
                promises.entry(*id).or_default().acked = Some(*mrn);
            }
            Entry::Unknown { service, id, .. } if *service == of => {
                promises.entry(*id).or_default().unanswered = true;
            }
            Entry::Refused { service, id, .. } if *service == of => {
                promises.entry(*id).or_default().refused = true;
            }
            _ => {}
        }
    }
    promises
}

/// Counts what is there and should not be; returns each client id's patient.
fn count_present(
    verdict: &mut Verdict,
    service: Service,
    promises: &HashMap<Uuid, Promise>,
    records: &[Listed],
) -> HashMap<Uuid, i64> {
    let mut present = HashMap::with_capacity(records.len());
    for record in records {
        if present.insert(record.client_id, record.mrn).is_some() {
            verdict.duplicated += 1;
            verdict.find("duplicated", service, record.client_id);
        } else if !promises.contains_key(&record.client_id) {
            verdict.phantom += 1;
            verdict.find("phantom", service, record.client_id);
        }
    }
    present
}

fn count_promised(
    verdict: &mut Verdict,
    service: Service,
    promises: &HashMap<Uuid, Promise>,
    present: &HashMap<Uuid, i64>,
) {
    for (id, promise) in promises {
        verdict.attempted += 1;
        match (promise.acked, present.get(id)) {
            (Some(acked), Some(mrn)) => {
                verdict.acknowledged += 1;
                verdict.services[service.index()].acknowledged += 1;
                if acked != *mrn {
                    verdict.altered += 1;
                    verdict.find("altered", service, *id);
                }
            }
            (Some(_), None) => {
                verdict.acknowledged += 1;
                verdict.lost += 1;
                let figures = &mut verdict.services[service.index()];
                figures.acknowledged += 1;
                figures.lost += 1;
                verdict.find("lost", service, *id);
            }
            // Refused outright and never left unanswered: certainly not written.
            (None, None) if promise.refused && !promise.unanswered => {}
            (None, there) => {
                verdict.unknown += 1;
                verdict.unknown_present += u64::from(there.is_some());
            }
        }
    }
}

fn count_orphans(verdict: &mut Verdict, found: &[Vec<Listed>; 3]) {
    let patients: HashSet<i64> = found[Service::Registration.index()].iter().map(|record| record.mrn).collect();
    for service in [Service::Billing, Service::Lab] {
        for record in &found[service.index()] {
            if !patients.contains(&record.mrn) {
                verdict.orphaned += 1;
                verdict.find("orphaned", service, record.client_id);
            }
        }
    }
}

fn measure(figures: &mut ServiceVerdict, entries: &[Entry], of: Service, around_us: Option<u64>) {
    let mut times = Vec::new();
    let mut latencies = Vec::new();
    let mut commits = Vec::new();
    for entry in entries {
        if let Entry::Acked { service, at_us, latency_us, commit_us, .. } = entry
            && *service == of
        {
            times.push(*at_us);
            latencies.push(*latency_us);
            commits.push(*commit_us);
        }
    }
    times.sort_unstable();
    figures.latency = Percentiles::of(latencies);
    figures.commit = Percentiles::of(commits);
    figures.gap = longest_gap(&times, around_us.unwrap_or(0));
}

fn longest_gap(times: &[u64], ends_after: u64) -> Option<Gap> {
    times
        .windows(2)
        .map(|pair| Gap { from_us: pair[0], to_us: pair[1] })
        .filter(|gap| gap.to_us > ends_after)
        .max_by_key(Gap::length_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTRATION: usize = 0;
    const BILLING: usize = 1;

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn attempt(service: Service, n: u128) -> Entry {
        Entry::Attempt { at_us: 0, service, id: id(n) }
    }

    fn acked(service: Service, n: u128, mrn: i64, at_us: u64) -> Entry {
        Entry::Acked { at_us, service, id: id(n), mrn, latency_us: 10 * at_us, commit_us: at_us, site: 0 }
    }

    fn unknown(service: Service, n: u128) -> Entry {
        Entry::Unknown { at_us: 0, service, id: id(n), site: 0, why: "time-out".to_owned() }
    }

    fn refused(service: Service, n: u128) -> Entry {
        Entry::Refused { at_us: 0, service, id: id(n), site: 0, why: "unknown_patient".to_owned() }
    }

    fn row(id_: i64, n: u128, mrn: i64) -> Listed {
        Listed { id: id_, client_id: id(n), mrn }
    }

    /// A patient (client id 1, number 1) and an invoice of it (client id 2), both acknowledged.
    fn healthy() -> (Vec<Entry>, [Vec<Listed>; 3]) {
        let entries = vec![
            attempt(Service::Registration, 1),
            acked(Service::Registration, 1, 1, 100),
            attempt(Service::Billing, 2),
            acked(Service::Billing, 2, 1, 200),
        ];
        (entries, [vec![row(1, 1, 1)], vec![row(1, 2, 1)], vec![]])
    }

    #[test]
    fn what_is_acknowledged_and_there_is_intact() {
        let (entries, found) = healthy();
        let verdict = judge(&entries, &found, None);
        assert_eq!((verdict.attempted, verdict.acknowledged), (2, 2));
        assert!(verdict.is_intact());
        assert_eq!(verdict.findings, []);
        assert_eq!(verdict.phantom + verdict.unknown, 0);
    }

    #[test]
    fn an_acknowledged_record_that_is_missing_is_lost() {
        let (entries, mut found) = healthy();
        found[BILLING].clear();
        let verdict = judge(&entries, &found, None);
        assert_eq!(verdict.lost, 1);
        assert_eq!(verdict.services[BILLING].lost, 1);
        assert_eq!(verdict.findings[0].client_id, id(2));
        assert!(!verdict.is_intact());
    }

    #[test]
    fn a_record_that_names_another_patient_is_altered() {
        let (entries, mut found) = healthy();
        found[REGISTRATION].push(row(2, 9, 2));
        found[BILLING][0].mrn = 2;
        let verdict = judge(&entries, &found, None);
        assert_eq!((verdict.altered, verdict.orphaned), (1, 0));
        assert!(!verdict.is_intact());
    }

    #[test]
    fn an_invoice_without_its_patient_is_orphaned() {
        let (mut entries, mut found) = healthy();
        entries.drain(..2);
        found[REGISTRATION].clear();
        let verdict = judge(&entries, &found, None);
        assert_eq!((verdict.lost, verdict.orphaned), (0, 1));
        assert!(!verdict.is_intact());
    }

    #[test]
    fn a_record_that_is_there_twice_is_duplicated() {
        let (entries, mut found) = healthy();
        found[BILLING].push(row(2, 2, 1));
        let verdict = judge(&entries, &found, None);
        assert_eq!((verdict.duplicated, verdict.phantom), (1, 0));
        assert!(!verdict.is_intact());
    }

    #[test]
    fn a_record_that_nobody_attempted_is_a_phantom() {
        let (entries, mut found) = healthy();
        found[BILLING].push(row(2, 3, 1));
        let verdict = judge(&entries, &found, None);
        assert_eq!(verdict.phantom, 1);
        assert!(verdict.is_intact());
    }

    #[test]
    fn an_unanswered_write_is_unknown_whether_it_is_there_or_not() {
        let (mut entries, mut found) = healthy();
        entries.extend([
            attempt(Service::Lab, 3),
            unknown(Service::Lab, 3),
            // The load generator was killed before it had an answer.
            attempt(Service::Lab, 4),
        ]);
        found[Service::Lab.index()].push(row(1, 3, 1));
        let verdict = judge(&entries, &found, None);
        assert_eq!((verdict.unknown, verdict.unknown_present), (2, 1));
        assert!(verdict.is_intact());
    }

    #[test]
    fn a_retry_that_was_acknowledged_settles_an_unanswered_attempt() {
        let (mut entries, found) = healthy();
        entries.insert(2, unknown(Service::Billing, 2));
        let verdict = judge(&entries, &found, None);
        assert_eq!((verdict.unknown, verdict.acknowledged), (0, 2));
    }

    #[test]
    fn a_refused_write_is_neither_unknown_nor_lost() {
        let (mut entries, found) = healthy();
        entries.extend([attempt(Service::Lab, 3), refused(Service::Lab, 3)]);
        let verdict = judge(&entries, &found, None);
        assert_eq!((verdict.attempted, verdict.unknown, verdict.lost), (3, 0, 0));
    }

    #[test]
    fn the_gap_is_the_longest_silence_after_the_failure() {
        let at = |at_us| acked(Service::Registration, at_us as u128, 1, at_us);
        let entries: Vec<_> = [100, 900, 1000, 1400, 1500].map(at).into();
        let gap = |around| {
            let verdict = judge(&entries, &Default::default(), around);
            verdict.services[REGISTRATION].gap
        };
        let between = |from_us, to_us| Some(Gap { from_us, to_us });
        assert_eq!(gap(None), between(100, 900));
        assert_eq!(gap(Some(950)), between(1000, 1400));
        assert_eq!(gap(Some(1500)), None);
    }

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let percentiles = Percentiles::of((1..=200).rev().collect());
        let expected = Percentiles { p50_us: 100, p95_us: 190, p99_us: 198, max_us: 200 };
        assert_eq!(percentiles, expected);
        assert_eq!(Percentiles::of(vec![]), Percentiles::default());
    }
}
