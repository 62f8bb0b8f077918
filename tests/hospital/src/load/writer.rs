//! One writer: a patient, an invoice, a result, again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::client::{Answer, Client};
use super::stats::Meter;
use super::{Clock, LoadError};
use crate::ledger::{Entry, Ledger};
use crate::record::Service;

/// The rest after every site was tried in vain.
const REST: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub(super) struct Writer {
    pub(super) client: Arc<Client>,
    pub(super) ledger: Ledger,
    pub(super) meter: Arc<Meter>,
    pub(super) clock: Clock,
    /// Patients still to be registered by all writers together; `None` for no end.
    pub(super) budget: Option<Arc<AtomicU64>>,
    pub(super) pause: Duration,
    pub(super) stop: CancellationToken,
}

impl Writer {
    pub(super) async fn work(self) -> Result<(), LoadError> {
        while !self.stop.is_cancelled() && self.take_from_budget() {
            if let Some(mrn) = self.write(Service::Registration, None).await? {
                self.write(Service::Billing, Some(mrn)).await?;
                self.write(Service::Lab, Some(mrn)).await?;
            }
            if !self.pause.is_zero() {
                self.rest(self.pause).await;
            }
        }
        Ok(())
    }

    fn take_from_budget(&self) -> bool {
        let Some(budget) = &self.budget else {
            return true;
        };
        let take = |left: u64| left.checked_sub(1);
        budget.try_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Writes one record, with the same id at whichever site works, until it is acknowledged,
    /// refused for good, or the load stops. Returns the record's patient when acknowledged.
    async fn write(&self, service: Service, mrn: Option<i64>) -> Result<Option<i64>, LoadError> {
        if self.stop.is_cancelled() {
            return Ok(None);
        }
        let id = Uuid::new_v4();
        let at_us = self.clock.now_us();
        let attempt = Entry::Attempt { at_us, service, id };
        self.ledger.append(attempt).await?;
        for attempt in 1.. {
            let site = self.client.site(service);
            let answer = self.client.send(site, service, id, mrn).await;
            let at_us = self.clock.now_us();
            match answer {
                Answer::Acked { stored, latency_us } => {
                    let mrn = stored.mrn;
                    self.ledger
                        .append(Entry::Acked { at_us, service, id, mrn, latency_us, commit_us: stored.commit_us, site })
                        .await?;
                    return Ok(Some(mrn));
                }
                Answer::Refused { why } => {
                    self.meter.failed(service, &why);
                    let entry = Entry::Refused { at_us, service, id, site, why };
                    self.ledger.append(entry).await?;
                    return Ok(None);
                }
                Answer::NotDone { why } => self.meter.failed(service, &why),
                Answer::Unknown { why } => {
                    self.meter.failed(service, &why);
                    let entry = Entry::Unknown { at_us, service, id, site, why };
                    self.ledger.append(entry).await?;
                }
            }
            self.client.leave(service, site);
            if attempt % self.client.sites() == 0 {
                self.rest(REST).await;
            }
            if self.stop.is_cancelled() {
                break;
            }
        }
        Ok(None)
    }

    async fn rest(&self, time: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(time) => {}
        }
    }
}
