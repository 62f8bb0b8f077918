//! A verdict for people.

use std::fmt;

use super::judge::{Gap, Percentiles, Verdict};
use crate::record::Service;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "writes attempted     {:>10}", self.attempted)?;
        writeln!(f, "writes acknowledged  {:>10}", self.acknowledged)?;
        writeln!(f, "  lost               {:>10}", self.lost)?;
        writeln!(f, "  altered            {:>10}", self.altered)?;
        writeln!(f, "outcome unknown      {:>10}  ({} of them there)", self.unknown, self.unknown_present)?;
        writeln!(f, "records duplicated   {:>10}", self.duplicated)?;
        writeln!(f, "records orphaned     {:>10}", self.orphaned)?;
        writeln!(f, "records phantom      {:>10}", self.phantom)?;
        writeln!(f)?;
        writeln!(
            f,
            "{:<13}{:>9}{:>6}{:>9}  {:>19}  {:>19}  longest gap",
            "service", "acked", "lost", "present", "commit p50/p95 ms", "request p50/p95 ms"
        )?;
        for service in Service::ALL {
            let figures = &self.services[service.index()];
            writeln!(
                f,
                "{:<13}{:>9}{:>6}{:>9}  {:>19}  {:>19}  {}",
                service.name(),
                figures.acknowledged,
                figures.lost,
                figures.present,
                pair(&figures.commit),
                pair(&figures.latency),
                figures.gap.map_or_else(|| "-".to_owned(), describe),
            )?;
        }
        for finding in &self.findings {
            let (fault, service) = (&finding.fault, finding.service);
            writeln!(f, "{fault}: {service} record of client id {}", finding.client_id)?;
        }
        Ok(())
    }
}

fn pair(percentiles: &Percentiles) -> String {
    let milliseconds = |us: u64| us as f64 / 1000.0;
    format!("{:.1} / {:.1}", milliseconds(percentiles.p50_us), milliseconds(percentiles.p95_us))
}

fn describe(gap: Gap) -> String {
    let seconds = gap.length_us() as f64 / 1e6;
    let since = i64::try_from(gap.from_us).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    match since {
        Some(since) => format!("{seconds:.2} s from {since:.3}"),
        None => format!("{seconds:.2} s"),
    }
}
