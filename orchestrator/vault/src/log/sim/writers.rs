//! What the writers of the simulation do.

use super::*;
use crate::log::access::Sure;
use crate::log::claim::{ClaimWish, SealAnswer};
use crate::log::storing::what_stands;
use crate::log::types::{Attached, ClaimOptions, StoredStretch};
use crate::log::walk::Cursor;
use crate::log::writer::{ChunkAnswer, Cut};
use crate::object::{BodyInfo, Chunk, Encoding, Subject, decode_header, encode_header};

impl World {
    pub(super) fn answer_writer(&mut self, index: usize, put: &Put, created: Created) -> Check {
        match &mut self.writers[index].phase {
            Phase::Claiming(core, _) if core.cursor().position() == put.at => {
                let answered = done(self.access.seal_answered(put.at, &put.bytes, created)).map_err(told)?;
                let Some(answer): Option<SealAnswer> = answered else { return Ok(()) };
                core.answered(answer).map_err(told)
            }
            Phase::Writing(_) => self.answer_chunk(index, put, created),
            _ => Ok(()),
        }
    }

    fn answer_chunk(&mut self, index: usize, put: &Put, created: Created) -> Check {
        let writer = &mut self.writers[index];
        let Phase::Writing(core) = &mut writer.phase else { return Ok(()) };
        let sent = writer.sent.get(&put.at.start);
        // Of a chunk that was cut anew, the answer for the first bytes is taken for one for the second.
        if sent.is_none() || (sent != Some(&put.bytes) && !on(Mutant::RecutOnRetry)) {
            return Ok(());
        }
        let ours = sent.cloned().unwrap_or_default();
        let answer = match created {
            Created::Stored { at } => ChunkAnswer::Stored { at },
            Created::Exists => done(what_stands(&self.access, &put.key, &ours)).map_err(told)?,
        };
        writer.sent.remove(&put.at.start);
        core.answered(put.at.start, answer);
        if core.fence().is_some() || core.expired() {
            self.stats.fenced += usize::from(core.fence().is_some());
            self.stats.expired += usize::from(core.expired());
            writer.phase = Phase::Over;
            return Ok(());
        }
        let commits = (core.durable().0 - core.durable().0 % RECORD) as usize;
        let instance = &self.instances[writer.instance];
        if commits <= instance.wal.len() {
            self.truth.advance(&self.access, &self.store, self.hostile)?;
            self.truth.acknowledge(instance.wal[..commits].to_vec(), writer.epoch, &instance.id)?;
            self.stats.acknowledged += 1;
        }
        Ok(())
    }

    pub(super) fn writer(&mut self) -> Check {
        let over = |writer: &Writer| matches!(writer.phase, Phase::Over);
        let living: Vec<usize> = (0..self.writers.len()).filter(|index| !over(&self.writers[*index])).collect();
        if self.writers.len() < 20 && (living.is_empty() || self.chance(12)) {
            return self.start_writer();
        }
        let recent = if self.chance(70) { living.len().min(3) } else { living.len() };
        let Some(back) = self.pick(recent) else { return Ok(()) };
        let index = living[living.len() - 1 - back];
        match &self.writers[index].phase {
            Phase::Over => Ok(()),
            Phase::Claiming(..) => self.claim(index),
            Phase::Writing(_) => self.write(index),
        }
    }

    fn write(&mut self, index: usize) -> Check {
        let (again, offer) = (self.chance(30), self.rng.random_range(1..6));
        if again {
            return self.send_again(index);
        }
        let writer = &mut self.writers[index];
        let Phase::Writing(core) = &mut writer.phase else { return Ok(()) };
        let instance = &mut self.instances[writer.instance];
        instance.wal.extend(std::iter::repeat_n(instance.tag, offer));
        let behind = (instance.wal.len() as u64).saturating_sub(core.next().0).min(5);
        let Some(cut) = core.plan(behind) else { return Ok(()) };
        let plain = &instance.wal[cut.start.0 as usize..cut.end.0 as usize];
        let (bytes, hash) = chunk(&writer.me, core.subject(cut), plain);
        let at = core.sent(cut, hash);
        writer.sent.insert(cut.start, bytes.clone());
        self.send(Actor::Writer(index), at, bytes);
        Ok(())
    }

    /// A time-out: the same bytes again.
    fn send_again(&mut self, index: usize) -> Check {
        if on(Mutant::RecutOnRetry) {
            self.cut_anew(index)?;
        }
        let epoch = self.writers[index].epoch;
        for (start, bytes) in self.writers[index].sent.clone() {
            self.send(Actor::Writer(index), Position { epoch, start }, bytes);
        }
        Ok(())
    }

    /// The last chunk under way gets more bytes.
    fn cut_anew(&mut self, index: usize) -> Check {
        let writer = &mut self.writers[index];
        let Phase::Writing(core) = &mut writer.phase else { return Ok(()) };
        let Some((start, bytes)) = writer.sent.iter().next_back() else { return Ok(()) };
        let Subject::Chunk(first) = decode_header(bytes).map_err(told)?.header.subject else { return Ok(()) };
        let wal = &self.instances[writer.instance].wal;
        let end = Lsn((first.end.0 + 2).min(start.segment_end(SEGMENT).0));
        if end <= first.end || wal.len() < end.0 as usize || core.next() != first.end {
            return Ok(());
        }
        let cut = Cut { start: *start, end, timeline: first.timeline };
        let subject = Subject::Chunk(Chunk { end, ..first });
        let (bytes, hash) = chunk(&writer.me, subject, &wal[start.0 as usize..end.0 as usize]);
        core.recut(cut, hash);
        writer.sent.insert(cut.start, bytes);
        Ok(())
    }

    fn start_writer(&mut self) -> Check {
        let newest = self.instances.len() - 1;
        let Some(any) = self.pick(self.instances.len()) else { return Ok(()) };
        let instance = if self.chance(self.lean.newest) { newest } else { any };
        if on(Mutant::RestartWithoutSeal) && self.chance(50) {
            return self.go_on(instance);
        }
        let Some(near) = self.near_end()? else { return Ok(()) };
        let me = self.incarnation();
        let options = ClaimOptions { reclaim_pending: self.chance(self.lean.reclaim) };
        let server = &self.instances[instance];
        let attached = Attached {
            instance_id: server.id.clone(),
            system_id: SystemId(1),
            history: server.history.clone(),
            flushed: Lsn(server.wal.len() as u64),
            by: "writer".into(),
        };
        let core = ClaimCore::new(me.clone(), attached, options, near.cursor);
        let phase = Phase::Claiming(Box::new(core), Box::new(near.known));
        self.writers.push(Writer { me, instance, phase, epoch: 0, sent: BTreeMap::new() });
        Ok(())
    }

    /// A restart in the epoch of the writer before it, on whatever timeline the server is now.
    fn go_on(&mut self, instance: usize) -> Check {
        let Some(near) = self.near_end()? else { return Ok(()) };
        let end = done(self.access.walk(near.cursor, Sure::Yes));
        let Some(end) = self.unless_waiting(end)? else { return Ok(()) };
        let before = self.writers.iter().find(|writer| end.owner() == Some(writer.me.owner()));
        let Some(before) = before.filter(|before| self.instances[before.instance].id == self.instances[instance].id)
        else {
            return Ok(());
        };
        let (me, epoch) = (before.me.clone(), end.position().epoch);
        let fits = self.instances[instance].wal.len() as u64 >= end.position().start.0;
        if let Some(core) = WriterCore::resumed(&end, 2).filter(|_| fits) {
            let phase = Phase::Writing(Box::new(core));
            self.writers.push(Writer { me, instance, phase, epoch, sent: BTreeMap::new() });
        }
        Ok(())
    }

    fn claim(&mut self, index: usize) -> Check {
        let access = self.access.clone();
        let Phase::Claiming(core, known) = &mut self.writers[index].phase else { return Ok(()) };
        let (at, from) = (core.cursor().position(), core.cursor().clone());
        match core.wish().map_err(told)? {
            ClaimWish::Walk => {
                let end = done(access.walk_on(known, from, Sure::Yes, u32::MAX));
                let end = self.unless_waiting(end)?;
                if let (Some(end), Phase::Claiming(core, _)) = (end, &mut self.writers[index].phase) {
                    core.walked(end);
                }
            }
            ClaimWish::Look(after) => {
                let end = done(access.look(known, *after));
                let end = self.unless_waiting(end)?;
                if let (Some(end), Phase::Claiming(core, _)) = (end, &mut self.writers[index].phase) {
                    core.looked(end);
                }
            }
            ClaimWish::Put(bytes) => self.send(Actor::Writer(index), at, bytes),
            ClaimWish::Refused(_) => self.writers[index].phase = Phase::Over,
            ClaimWish::Won(cursor) => return self.won(index, &cursor),
        }
        Ok(())
    }

    fn won(&mut self, index: usize, cursor: &Cursor) -> Check {
        let (epoch, nonce) = (cursor.position().epoch, self.writers[index].me.nonce());
        if let Some(other) = self.owners.insert(epoch, nonce)
            && other != nonce
        {
            return Err(format!("epoch {epoch} has two owners"));
        }
        let core = WriterCore::new(cursor, 2).ok_or("the winner owns nothing")?;
        if !self.recycled && !on(Mutant::NoOverlap) && !self.overlaps(index, cursor)? {
            self.stats.differed += 1;
            self.writers[index].phase = Phase::Over;
            return Ok(());
        }
        let writer = &mut self.writers[index];
        (writer.phase, writer.epoch) = (Phase::Writing(Box::new(core)), epoch);
        Ok(())
    }
}

impl World {
    /// Rule 12: whether the server still has, byte for byte, what is stored last.
    fn overlaps(&self, index: usize, won: &Cursor) -> Result<bool, String> {
        let wal = &self.instances[self.writers[index].instance].wal;
        let stored = done(self.access.stretches(won, 2 * RECORD)).map_err(told)?;
        let has = |stretch: &StoredStretch| wal.get(stretch.start.0 as usize..stretch.end.0 as usize);
        Ok(stored.iter().all(|stretch| has(stretch).is_some_and(|bytes| Hash::of(bytes) == stretch.plain_sha256)))
    }
}

fn chunk(me: &Incarnation, subject: Subject, plain: &[u8]) -> (Bytes, Hash) {
    let (len, sha256) = (plain.len() as u64, Hash::of(plain));
    let mut header = me.header(subject);
    header.body = Some(BodyInfo { len, sha256, plain_len: len, plain_sha256: sha256, encoding: Encoding::Plain });
    let (mut bytes, hash) = encode_header(&header, me.key()).expect("a small header");
    bytes.extend_from_slice(plain);
    (bytes.into(), hash)
}
