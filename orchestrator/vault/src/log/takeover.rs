//! Carries a takeover and a promote to the store.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::VaultError;
use crate::fetch::{self, damaged};
use crate::keys::Position;
use crate::log::access::{LogAccess, Sure, TAKER_STEPS};
use crate::log::claim::SealAnswer;
use crate::log::errors::TakeoverError;
use crate::log::open::Near;
use crate::log::taker::{PromoteWish, TakerCore, TakerWish, promote, promoted};
use crate::log::types::{Promoted, Promotion, SealSummary, Taken, TakerState};
use crate::object::{ObjectError, SealKind, decode_stored_header};

/// How to take over.
#[derive(Clone, Copy, Debug)]
pub struct TakeoverOptions {
    /// After so long without winning, [`TakeoverError::NotYet`]: the caller looks around and calls again.
    pub patience: Duration,
}

impl Default for TakeoverOptions {
    fn default() -> Self {
        TakeoverOptions { patience: Duration::from_secs(30) }
    }
}

impl LogAccess {
    pub(crate) async fn takeover(&self, state: &TakerState, options: &TakeoverOptions) -> Result<Taken, TakeoverError> {
        let started = Instant::now();
        let Near { cursor, mut known, .. } = self.near_end().await?;
        let mut core = TakerCore::new(state, cursor);
        // After a foreign object, absence is believed only when the key has no versions at all.
        let mut sure = Sure::No;
        loop {
            let tail = core.cursor().position();
            let key = self.key(tail);
            match core.wish().map_err(damaged(&key))? {
                TakerWish::Won(taken) => return Ok(*taken),
                TakerWish::Walk => {
                    core.walked(self.walk_on(&mut known, core.cursor().clone(), sure, TAKER_STEPS).await?);
                }
                TakerWish::Look => core.looked(self.look(&mut known, core.cursor().clone()).await?),
                TakerWish::PutTail(object) => {
                    let answer = self.put_seal(tail, &object).await?;
                    sure = if answer == SealAnswer::Foreign { Sure::Yes } else { Sure::No };
                    core.tail_answered(answer);
                }
                TakerWish::PutAhead(at, object) => {
                    let answer = self.put_seal(at, &object).await?;
                    core.ahead_answered(at, answer);
                }
            }
            if started.elapsed() > options.patience && core.lost() > 0 {
                return Err(TakeoverError::NotYet { attempts: core.lost() });
            }
        }
    }

    pub(crate) async fn promote(
        &self,
        state: &TakerState,
        taken: &Taken,
        promotion: &Promotion,
    ) -> Result<Promoted, TakeoverError> {
        if let Some(answer) = self.decided(state, taken).await? {
            return answer;
        }
        let mut lost = 0;
        loop {
            // The second time around, the walk from the newest index must meet the promote.
            let end = self.end().await?;
            let (at, object) = match promote(state, &end, taken, promotion)? {
                PromoteWish::Done(promoted) => return Ok(promoted),
                PromoteWish::Put(at, object) => (at, object),
            };
            if self.put_seal(at, &object).await? == SealAnswer::Foreign {
                if let Some(answer) = self.decided(state, taken).await? {
                    return answer;
                }
                lost += 1;
            }
            if lost > 1 {
                return Err(TakeoverError::NotYet { attempts: lost });
            }
        }
    }

    /// What the one key that decides (the first of the pending epoch) says already. A promote stands there only if
    /// its maker had met its own takeover on a walk.
    pub(crate) async fn decided(
        &self,
        state: &TakerState,
        taken: &Taken,
    ) -> Result<Option<Result<Promoted, TakeoverError>>, VaultError> {
        let at = Position { epoch: taken.epoch, start: taken.sealed };
        let key = self.key(at);
        let Some(object) = fetch::oldest(&*self.store, &key).await? else { return Ok(None) };
        let decoded = decode_stored_header(&object).map_err(damaged(&key))?;
        self.facts.trust.check(&decoded).map_err(damaged(&key))?;
        let Some(by) = SealSummary::of_object(&decoded).filter(|by| by.at == at) else {
            let reason = "no seal that belongs here, in an epoch that holds nothing else".to_owned();
            return Err(damaged(&key)(ObjectError::Misplaced { reason }));
        };
        let mine = by.nonce == state.nonce && by.kind == SealKind::Promote;
        Ok(Some(if mine { Ok(promoted(&by)) } else { Err(TakeoverError::Lost { by: Box::new(by) }) }))
    }
}
