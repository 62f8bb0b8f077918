//! What the takers of the simulation do, and the standbys that they promote.

use super::*;
use crate::log::access::{Sure, TAKER_STEPS};
use crate::log::taker::{PromoteWish, TakerWish, promote};
use crate::log::types::{Promoted, Promotion};
use crate::object::{Subject, decode_header};

impl World {
    pub(super) fn answer_taker(&mut self, index: usize, put: &Put, created: Created) -> Check {
        // Not listed: where chunks vanish with their keys, so may what was put behind a marker. No answer.
        let answered = done(self.access.seal_answered(put.at, &put.bytes, created)).map_err(told)?;
        let Some(answer) = answered else { return Ok(()) };
        let taker = &mut self.takers[index];
        if taker.over {
            return Ok(());
        }
        if let Some((at, bytes)) = &taker.promote {
            if *at == put.at && *bytes == put.bytes {
                let stored = answer != crate::log::claim::SealAnswer::Foreign;
                // The next walk must meet it; what was lost, the next look tells.
                taker.promote = None;
                let believed = on(Mutant::SleepingPromoter) || on(Mutant::PromoteAtOther) || on(Mutant::AheadCounts);
                if stored && believed {
                    return self.open_as(index, put.at, &put.bytes);
                }
            }
            return Ok(());
        }
        let Subject::Seal(seal) = decode_header(&put.bytes).map_err(told)?.header.subject else { return Ok(()) };
        if seal.ahead {
            taker.core.ahead_answered(put.at, answer);
        } else if taker.core.cursor().position() == put.at {
            taker.core.tail_answered(answer);
        }
        Ok(())
    }

    pub(super) fn taker(&mut self) -> Check {
        let living: Vec<usize> = (0..self.takers.len()).filter(|index| !self.takers[*index].over).collect();
        // In some worlds who was promoted gets to write first.
        let due = self.lean.kind != Kind::TakingOver || self.truth.is_written();
        if due && self.takers.len() < self.lean.takers && (living.is_empty() || self.chance(10)) {
            return self.start_taker();
        }
        let Some(index) = self.pick(living.len()).map(|index| living[index]) else { return Ok(()) };
        if self.takers[index].taken.is_some() {
            return self.go_over(index);
        }
        let access = self.access.clone();
        let taker = &mut self.takers[index];
        let (at, from) = (taker.core.cursor().position(), taker.core.cursor().clone());
        let me = Actor::Taker(index);
        match taker.core.wish().map_err(told)? {
            TakerWish::Walk => {
                let end = done(access.walk_on(&mut taker.known, from, Sure::Yes, TAKER_STEPS));
                if let Some(end) = self.unless_waiting(end)? {
                    self.takers[index].core.walked(end);
                }
            }
            TakerWish::Look => {
                let end = done(access.look(&mut taker.known, from));
                if let Some(end) = self.unless_waiting(end)? {
                    self.takers[index].core.looked(end);
                }
            }
            TakerWish::PutTail(bytes) => self.send(me, at, bytes),
            TakerWish::PutAhead(at, bytes) => self.send(me, at, bytes),
            TakerWish::Won(taken) => {
                self.stats.ahead_won += usize::from(from.opened_by().is_some_and(|seal| seal.ahead));
                taker.taken = Some(*taken);
            }
        }
        Ok(())
    }

    fn start_taker(&mut self) -> Check {
        let Some(near) = self.near_end()? else { return Ok(()) };
        let (nonce, key_seed, created) = (Nonce(self.rng.random()), self.rng.random(), self.clock());
        let state = TakerState { nonce, key_seed, by: "taker".into(), created, voucher: None };
        let core = TakerCore::new(&state, near.cursor);
        let standby = self.rng.random_range(0..self.standbys.len());
        let standby = (standby, self.standbys[standby].life);
        self.takers.push(Taker { state, core, known: near.known, standby, taken: None, promote: None, over: false });
        Ok(())
    }

    /// The log is taken: feeds the standby up to there, and promotes it.
    fn go_over(&mut self, index: usize) -> Check {
        if let Some((at, bytes)) = self.takers[index].promote.clone() {
            self.send(Actor::Taker(index), at, bytes);
            return Ok(());
        }
        let Some(taken) = self.takers[index].taken.clone() else { return Ok(()) };
        if self.chance(10) {
            self.takers[index].over = true; // Aborted.
            return Ok(());
        }
        let standby = self.takers[index].standby;
        self.read_on(standby.0)?;
        if self.standbys[standby.0].life != standby.1 && !on(Mutant::ReplayedCut) {
            self.takers[index].over = true; // It received what was cut: it is rebuilt.
            return Ok(());
        }
        if self.standbys[standby.0].log.len() < taken.sealed.0 as usize {
            return Ok(()); // It has not received everything yet.
        }
        self.promote(index, &taken)
    }

    fn promote(&mut self, index: usize, taken: &Taken) -> Check {
        let access = self.access.clone();
        let state = self.takers[index].state.clone();
        let start = Lsn(taken.sealed.0 - taken.sealed.0 % RECORD);
        let taken = &self.aim(index, taken);
        match done(access.decided(&state, taken)).map_err(told)? {
            Some(Ok(promoted)) => return self.open(index, promoted),
            Some(Err(_)) => {
                self.takers[index].over = true;
                return Ok(());
            }
            None => {}
        }
        let instance_id = format!("standby-{}", self.instances.len());
        if on(Mutant::NoPromote) {
            let at = Position { epoch: taken.epoch, start: taken.sealed };
            self.truth.open(at, state.nonce);
            self.takers[index].over = true;
            return Ok(());
        }
        let end = match on(Mutant::SleepingPromoter) {
            true => done(access.walk(self.takers[index].core.cursor().clone(), Sure::Yes)),
            false => done(access.end()),
        };
        let Some(end) = self.unless_waiting(end)? else { return Ok(()) };
        let new_timeline = TimelineId(end.lineage().history.timeline.0 + 1);
        let promotion = Promotion { start, instance_id, new_timeline };
        match promote(&state, &end, taken, &promotion) {
            Ok(PromoteWish::Put(at, bytes)) => {
                self.takers[index].promote = Some((at, bytes.clone()));
                self.send(Actor::Taker(index), at, bytes);
            }
            Ok(PromoteWish::Done(promoted)) => return self.open(index, promoted),
            Err(_) => self.takers[index].over = true,
        }
        Ok(())
    }

    /// What the promote is for: what was taken. A mutant has replayed to there too, and puts it at its other seal.
    fn aim(&self, index: usize, taken: &Taken) -> Taken {
        let other = self.takers[index].core.other().filter(|other| other.epoch == taken.epoch);
        other.filter(|_| on(Mutant::PromoteAtOther)).unwrap_or(taken).clone()
    }

    fn open_as(&mut self, index: usize, at: Position, promote: &Bytes) -> Check {
        let Subject::Seal(seal) = decode_header(promote).map_err(told)?.header.subject else { return Ok(()) };
        let (standby, life) = self.takers[index].standby;
        if self.standbys[standby].life != life {
            self.takers[index].over = true; // Another one stands in its place.
            return Ok(());
        }
        self.open(index, Promoted { epoch: at.epoch + 1, start: seal.next_start, lineage: seal.lineage })
    }

    /// The standby opens: it has what it received, up to the start that the promote names.
    fn open(&mut self, index: usize, promoted: Promoted) -> Check {
        let Some(taken) = &self.takers[index].taken else { return Err("opened without having taken".into()) };
        let taken = self.aim(index, taken);
        let taker = &mut self.takers[index];
        taker.over = true;
        let (standby, nonce) = (taker.standby.0, taker.state.nonce);
        let at = Position { epoch: taken.epoch, start: taken.sealed };
        self.truth.open(at, nonce);
        self.truth.advance(&self.access, &self.store, self.hostile)?;
        let (start, received) = (promoted.start.0 as usize, &self.standbys[standby].log);
        if received.len() < start || received[..start] != self.truth.log[..start.min(self.truth.log.len())] {
            return Err(format!("opened at {start} with {received:?}, and the log is {:?}", self.truth.log));
        }
        let (wal, tag) = (received[..start].to_vec(), self.instances.len() as u8 + 1);
        let Promoted { lineage, .. } = promoted;
        self.instances.push(Instance { id: lineage.id, history: lineage.history, wal, tag });
        // Its place is taken by a new one.
        self.rebuild(standby);
        self.stats.promoted += 1;
        Ok(())
    }
}
