//! What a vault costs: storage and requests from a table of prices, over what is really stored.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::VaultError;
use crate::vault::Vault;

const DAY: f64 = 24.0 * 60.0 * 60.0;
/// A month, as clouds bill it.
const MONTH_DAYS: f64 = 30.0;
/// Over how long the rate of new objects is observed.
const WINDOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const GIB: f64 = (1u64 << 30) as f64;

/// Prices. Without a file of one's own an assumption, see [`PriceTable::default`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PriceTable {
    /// What the numbers are in.
    pub currency: String,
    /// Where they come from, and of when they are.
    pub source: String,
    /// A GiB stored for a month.
    pub storage_gib_month: f64,
    /// 1000 PUTs.
    pub put_per_thousand: f64,
    /// 1000 GETs and HEADs.
    pub get_per_thousand: f64,
    /// 1000 listings.
    pub list_per_thousand: f64,
    /// 1000 deletions.
    #[serde(default)]
    pub delete_per_thousand: f64,
    /// A GiB that leaves the cloud.
    #[serde(default)]
    pub egress_gib: f64,
}

impl Default for PriceTable {
    /// An assumption, not an offer: the list prices of S3 Standard in us-east-1 as its makers published them in 2025, first
    /// 50 TB.
    fn default() -> Self {
        PriceTable {
            currency: "USD".into(),
            source: "assumption: list prices of S3 Standard in us-east-1, 2025, https://aws.amazon.com/s3/pricing/"
                .into(),
            storage_gib_month: 0.023,
            put_per_thousand: 0.005,
            get_per_thousand: 0.0004,
            list_per_thousand: 0.005,
            delete_per_thousand: 0.0,
            egress_gib: 0.09,
        }
    }
}

/// Who reads the vault all the time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Readers {
    /// Standbys that follow a database each, through a relay.
    pub relays: u32,
    /// Archivers.
    pub archivers: u32,
    /// They are outside the cloud, so that what they read is billed.
    pub outside: bool,
}

/// What one kind of object costs in a month.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CostRow {
    /// Objects there are.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Storing them for a month.
    pub storage: f64,
    /// New objects in a month, at the rate of the last days.
    pub puts_per_month: f64,
    /// Bytes of those.
    pub bytes_per_month: f64,
    /// Making them.
    pub puts: f64,
}

/// What a vault costs in a month.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CostReport {
    /// The prices used.
    pub prices: PriceTable,
    /// Who was taken to read.
    pub readers: Readers,
    /// Over how many days the rate of new objects was observed; 0: nothing was stored.
    pub observed_days: f64,
    /// By kind.
    pub kinds: BTreeMap<String, CostRow>,
    /// GETs of the readers in a month, and what they cost.
    pub gets_per_month: f64,
    /// What they cost.
    pub gets: f64,
    /// Listings of the readers in a month.
    pub lists_per_month: f64,
    /// What they cost.
    pub lists: f64,
    /// What the bytes that leave the cloud cost.
    pub egress: f64,
    /// All together.
    pub total: f64,
}

/// One object, as far as money goes.
#[derive(Clone, Copy, Debug)]
pub struct Priced {
    /// Its bytes.
    pub bytes: u64,
    /// When the store made it.
    pub stored: Option<Timestamp>,
}

/// Adds up; without I/O.
#[derive(Clone, Debug)]
pub struct Costing {
    now: Timestamp,
    kinds: BTreeMap<String, (CostRow, u64, u64)>,
    oldest: Option<Timestamp>,
}

impl Costing {
    /// Begins; `now` by the store's clock.
    pub fn new(now: Timestamp) -> Costing {
        Costing { now, kinds: BTreeMap::new(), oldest: None }
    }

    /// Adds an object of a kind.
    pub fn add(&mut self, kind: &str, object: Priced) {
        let entry = self.kinds.entry(kind.to_owned()).or_default();
        entry.0.objects += 1;
        entry.0.bytes += object.bytes;
        self.oldest = self.oldest.into_iter().chain(object.stored).min();
        let age = object.stored.and_then(|stored| Duration::try_from(self.now.duration_since(stored)).ok());
        if age.is_some_and(|age| age <= WINDOW) {
            (entry.1, entry.2) = (entry.1 + 1, entry.2 + object.bytes);
        }
    }

    /// The sum.
    pub fn report(self, prices: PriceTable, readers: Readers) -> CostReport {
        let age = self.oldest.map(|oldest| self.now.duration_since(oldest).as_secs_f64() / DAY).unwrap_or_default();
        // A vault of an hour says little of a month; of less, nothing.
        let observed_days = age.clamp(0.0, WINDOW.as_secs_f64() / DAY);
        let monthly =
            |count: u64| if observed_days < 1.0 / 24.0 { 0.0 } else { count as f64 * MONTH_DAYS / observed_days };
        let kinds: BTreeMap<String, CostRow> = self
            .kinds
            .into_iter()
            .map(|(kind, (row, recent, recent_bytes))| {
                let puts_per_month = monthly(recent);
                let row = CostRow {
                    storage: row.bytes as f64 / GIB * prices.storage_gib_month,
                    puts_per_month,
                    bytes_per_month: monthly(recent_bytes),
                    puts: puts_per_month / 1000.0 * prices.put_per_thousand,
                    ..row
                };
                (kind, row)
            })
            .collect();
        let log = kinds.get("log").cloned().unwrap_or_default();
        let reads = f64::from(readers.relays + readers.archivers);
        let polls = f64::from(readers.relays) * polls_per_month(RELAY_POLL, RELAY_CHECK).0
            + f64::from(readers.archivers) * polls_per_month(ARCHIVER_POLL, ARCHIVER_CHECK).0;
        let lists_per_month = f64::from(readers.relays) * polls_per_month(RELAY_POLL, RELAY_CHECK).1
            + f64::from(readers.archivers) * polls_per_month(ARCHIVER_POLL, ARCHIVER_CHECK).1;
        let gets_per_month = polls + reads * log.puts_per_month;
        let gets = gets_per_month / 1000.0 * prices.get_per_thousand;
        let lists = lists_per_month / 1000.0 * prices.list_per_thousand;
        let egress = if readers.outside { reads * log.bytes_per_month / GIB * prices.egress_gib } else { 0.0 };
        let stored: f64 = kinds.values().map(|row| row.storage + row.puts).sum();
        let total = stored + gets + lists + egress;
        CostReport {
            prices,
            readers,
            observed_days,
            kinds,
            gets_per_month,
            gets,
            lists_per_month,
            lists,
            egress,
            total,
        }
    }
}

/// The longest wait of a relay between two looks, and how often it makes sure by a listing of versions, in seconds:
/// [`crate::ReadOptions::default`].
const RELAY_POLL: f64 = 0.25;
const RELAY_CHECK: f64 = 2.0;
/// The same of an archiver.
const ARCHIVER_POLL: f64 = 10.0;
const ARCHIVER_CHECK: f64 = 60.0;

/// GETs and listings of an idle reader in a month: the most it sends.
fn polls_per_month(poll: f64, check: f64) -> (f64, f64) {
    let month = MONTH_DAYS * DAY;
    (month / poll, month / check)
}

impl Vault {
    /// Prices what stands below a path of the vault (empty for all). `progress` hears of objects counted.
    ///
    /// # Errors
    /// Whatever the store says.
    pub async fn cost(
        &self,
        path: &str,
        prices: PriceTable,
        readers: Readers,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<CostReport, VaultError> {
        let mut costing = Costing::new(self.store_time().await?);
        let mut walk = self.walk_keys(path, None);
        let mut counted = 0;
        while let Some(listed) = walk.next().await? {
            costing.add(self.kind(&listed.key).word(), Priced { bytes: listed.size, stored: listed.stored });
            counted += 1;
            progress(counted);
        }
        Ok(costing.report(prices, readers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_priced_from_what_is_there() {
        let day = |n: i64| Timestamp::from_second(n * 86_400).unwrap();
        let mut costing = Costing::new(day(30));
        // 10 GiB of segments, each GiB a day old or older; 1000 chunks in the last 5 days, 1 MiB each.
        for n in 0..10 {
            costing.add("segment", Priced { bytes: 1 << 30, stored: Some(day(29 - n)) });
        }
        for _ in 0..1000 {
            costing.add("log", Priced { bytes: 1 << 20, stored: Some(day(25)) });
        }
        costing.add("log", Priced { bytes: 0, stored: None });
        let prices = PriceTable { egress_gib: 1.0, ..PriceTable::default() };
        let readers = Readers { relays: 1, archivers: 1, outside: true };
        let report = costing.report(prices, readers);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-6 * b.abs().max(1.0);
        assert!(close(report.observed_days, 7.0), "{report:?}");
        let segment = &report.kinds["segment"];
        assert_eq!((segment.objects, segment.bytes), (10, 10 << 30));
        assert!(close(segment.storage, 0.23), "{segment:?}");
        assert!(close(segment.puts_per_month, 7.0 * 30.0 / 7.0), "seven in the last seven days: {segment:?}");
        let log = &report.kinds["log"];
        assert!(close(log.puts_per_month, 1000.0 * 30.0 / 7.0), "{log:?}");
        assert!(close(log.puts, log.puts_per_month / 1000.0 * 0.005), "{log:?}");
        assert!(close(report.gets_per_month, 30.0 * 86_400.0 * (4.0 + 0.1) + 2.0 * log.puts_per_month), "{report:?}");
        assert!(close(report.lists_per_month, 30.0 * 86_400.0 * (0.5 + 1.0 / 60.0)), "{report:?}");
        assert!(close(report.egress, 2.0 * log.bytes_per_month / GIB), "{report:?}");
        let stored: f64 = report.kinds.values().map(|row| row.storage + row.puts).sum();
        assert!(close(report.total, stored + report.gets + report.lists + report.egress), "{report:?}");
    }

    #[test]
    fn an_empty_vault_costs_nothing_to_keep() {
        let now = Timestamp::from_second(86_400).unwrap();
        let readers = Readers { relays: 0, archivers: 0, outside: true };
        let report = Costing::new(now).report(PriceTable::default(), readers);
        assert_eq!((report.total, report.observed_days), (0.0, 0.0));
    }
}
