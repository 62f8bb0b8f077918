//! What a role asks of the store, counted.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_vault::{Traffic, Vault};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;

/// The requests of a role, over all the times that it opened its vault. Cheap to clone; all clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreMetrics(Arc<Mutex<Opened>>);

#[derive(Debug, Default)]
struct Opened {
    /// By those that were opened before.
    before: Traffic,
    now: Option<Vault>,
}

impl StoreMetrics {
    /// Registers the counters, which take the registry's prefix.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// From now on the role asks through this vault.
    pub(crate) fn opened(&self, vault: &Vault) {
        let mut opened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = opened.now.replace(vault.clone()) {
            opened.before = opened.before + old.traffic();
        }
    }

    fn traffic(&self) -> Traffic {
        let opened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        opened.before + opened.now.as_ref().map(Vault::traffic).unwrap_or_default()
    }
}

impl Collector for StoreMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let traffic = self.traffic();
        for (name, help, value) in [
            ("store_gets", "GETs of objects", traffic.gets),
            ("store_gets_hedged", "GETs sent twice because the answer took too long", traffic.gets_hedged),
            ("store_gets_hedged_won", "Of these, the ones that the second answered", traffic.gets_hedges_won),
            ("store_gets_failed", "GETs that failed", traffic.gets_failed),
            ("store_gets_throttled", "Of these, the ones told to slow down", traffic.gets_throttled),
            ("store_puts", "PUTs of objects", traffic.puts),
            ("store_puts_hedged", "PUTs sent twice because the answer took too long", traffic.hedged),
            ("store_puts_hedged_won", "Of these, the ones that the second answered", traffic.hedges_won),
            ("store_puts_failed", "PUTs that failed", traffic.failed),
            ("store_puts_throttled", "Of these, the ones told to slow down", traffic.throttled),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}
