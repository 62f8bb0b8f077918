//! `holdfast vault cost`: what a vault costs in a month.

use std::path::PathBuf;

use clap::Args;
use holdfast_vault::cost::{CostReport, PriceTable, Readers};

use super::{Failed, Output, Table, Where, bytes_text, databases, print_json, progress, read_file};

/// Price a vault: what is stored, and the requests of a month at the rate of the last seven days.
///
/// Prices come from a YAML file with the fields currency, source, storageGibMonth, putPerThousand, getPerThousand,
/// listPerThousand, deletePerThousand and egressGib. Without one the list prices of S3 Standard in us-east-1 (2025) are
/// assumed, which the output says. What readers cost is the most that they send while nothing happens, and the chunks
/// that they read.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  holdfast vault cost --vault hospital -n hospital\n  \
    holdfast vault cost --prices prices.yaml --relays 4 --archivers 4 -o json --bucket vault")]
pub(crate) struct Cost {
    /// A YAML file with the prices of the store.
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// Only this database.
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Relays that follow all the time: one for each standby.
    #[arg(long, value_name = "N", default_value_t = 1)]
    relays: u32,
    /// Archivers that follow all the time: one for each standby.
    #[arg(long, value_name = "N", default_value_t = 1)]
    archivers: u32,
    /// The readers are in the same cloud and region: what they read is not billed as leaving it.
    #[arg(long)]
    same_region: bool,
}

impl Cost {
    pub(crate) async fn run(self, place: &Where) -> anyhow::Result<()> {
        let prices = self.prices()?;
        place.needs_s3()?;
        let vault = place.open().await?;
        if let Some(name) = &self.database {
            databases(&vault, Some(name)).await?;
        }
        let readers = Readers { relays: self.relays, archivers: self.archivers, outside: !self.same_region };
        let path = self.database.as_ref().map(|name| format!("db/{name}/")).unwrap_or_default();
        let bar = progress(place.output, None, "counting objects");
        let report = vault.cost(&path, prices, readers, &|counted| bar.set_position(counted)).await?;
        bar.finish_and_clear();
        if report.kinds.is_empty() {
            let to_do = "check the bucket and --prefix: `holdfast vault ls --long`";
            return Err(Failed::new("nothing stands there that could cost anything", "", to_do).into());
        }
        match place.output {
            Output::Json => print_json(&report),
            Output::Table => {
                print(&report);
                Ok(())
            }
        }
    }

    fn prices(&self) -> anyhow::Result<PriceTable> {
        let Some(path) = &self.prices else { return Ok(PriceTable::default()) };
        let failed = |why: &str| {
            let to_do = "write it as the fields that `holdfast vault cost --help` names, each with a number";
            Failed::new(format!("this is no table of prices{why}"), path.display().to_string(), to_do)
        };
        let fields: serde_json::Map<_, _> =
            serde_norway::from_str(&read_file(path, "--prices")?).map_err(|_| failed(""))?;
        let prices = serde_json::from_value(fields.into()).map_err(|error| failed(&format!(": {error}")))?;
        Ok(prices)
    }
}

fn print(report: &CostReport) {
    let money = |value: f64| format!("{value:.2}");
    let mut table = Table::new(&["KIND", "OBJECTS", "BYTES", "NEW A MONTH", "STORAGE", "PUTS"]);
    for (kind, row) in &report.kinds {
        let new = format!("{:.0}", row.puts_per_month);
        let (objects, bytes) = (row.objects.to_string(), bytes_text(row.bytes));
        table.row([kind.clone(), objects, bytes, new, money(row.storage), money(row.puts)]);
    }
    print!("{table}");
    let currency = &report.prices.currency;
    println!(
        "reading: {:.0} GETs {}, {:.0} listings {}, leaving the cloud {}",
        report.gets_per_month,
        money(report.gets),
        report.lists_per_month,
        money(report.lists),
        money(report.egress)
    );
    println!("total: {} {currency} a month", money(report.total));
    println!("prices: {}", report.prices.source);
    println!(
        "observed over {:.1} days; {} relays and {} archivers are taken to follow all the time",
        report.observed_days, report.readers.relays, report.readers.archivers
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_prices_is_read_from_yaml() {
        let text = "currency: EUR\nsource: offer 17\nstorageGibMonth: 0.01\nputPerThousand: 0\ngetPerThousand: 0\nlistPerThousand: 0\n";
        let prices: PriceTable = serde_norway::from_str(text).unwrap();
        assert_eq!((prices.currency.as_str(), prices.storage_gib_month, prices.egress_gib), ("EUR", 0.01, 0.0));
        assert!(serde_norway::from_str::<PriceTable>("currency: EUR\nstorage: 1\n").is_err(), "a misspelled price");
    }
}
