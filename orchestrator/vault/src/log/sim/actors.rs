//! What the writers, takers and standbys of the simulation do.

use super::*;

impl World {
    pub(super) fn answer_writer(&mut self, index: usize, put: &Put, mine: bool, by: Option<Box<SealSummary>>) -> Check {
        let mutant = self.mutant;
        let writer = &mut self.writers[index];
        match &mut writer.phase {
            Phase::Claiming(core) if core.cursor().position() == put.at => {
                core.answered(seal_answer(mine)).map_err(|e| e.to_string())?;
            }
            Phase::Writing(core) if writer.sent.get(&put.at.start) == Some(&put.bytes) => {
                writer.sent.remove(&put.at.start);
                let mine = mine || mutant == Mutant::FlushOnExists;
                core.answered(put.at.start, if mine { ChunkAnswer::Stored } else { ChunkAnswer::Foreign(by) });
                let mut durable = core.durable();
                if core.fence().is_some() {
                    self.stats.fenced += 1;
                    writer.phase = Phase::Over;
                } else if mutant == Mutant::FlushOverHole && mine {
                    let Ok(decoded) = decode_header(&put.bytes) else { return Ok(()) };
                    if let Subject::Chunk(chunk) = decoded.header.subject {
                        durable = durable.max(chunk.end);
                    }
                }
                let commits = (durable.0 - durable.0 % RECORD) as usize;
                let instance = &self.instances[writer.instance];
                if let Some(promoted) = promoted_before(&self.store, put.at.epoch)
                    && promoted != instance.id
                {
                    return Err(format!("`{}` acknowledges after `{promoted}` was promoted", instance.id));
                }
                if commits <= instance.wal.len() {
                    self.acknowledged.push(instance.wal[..commits].to_vec());
                    self.stats.acknowledged += 1;
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn answer_taker(&mut self, index: usize, put: &Put, mine: bool) -> Check {
        let mutant = self.mutant;
        let taker = &mut self.takers[index];
        if taker.over {
            return Ok(());
        }
        if let Some((at, bytes)) = &taker.promote {
            if *at == put.at && *bytes == put.bytes {
                taker.over = true;
                let promotion = (at.start, decode_header(&put.bytes).map_err(|e| e.to_string())?);
                return if mine { self.open(promotion) } else { Ok(()) };
            }
            return Ok(());
        }
        let seal = decode_header(&put.bytes).map_err(|e| e.to_string())?;
        let Subject::Seal(seal) = seal.header.subject else { return Ok(()) };
        if seal.ahead {
            taker.core.ahead_answered(put.at, seal_answer(mine));
            if mine && mutant == Mutant::AheadCounts {
                let (epoch, sealed, lineage) = (put.at.epoch + 1, put.at.start, seal.lineage);
                taker.taken = Some(Taken { epoch, sealed, lineage, requests: 1 });
            }
        } else if taker.core.cursor().position() == put.at {
            taker.core.tail_answered(seal_answer(mine));
        }
        Ok(())
    }

    /// The standby opens: it has the log up to T, cut to the start that the promote names.
    fn open(&mut self, (sealed, promote): (Lsn, Decoded)) -> Check {
        let Subject::Seal(seal) = promote.header.subject else { return Err("promoted by no seal".into()) };
        let (_, log) = self.truth()?;
        if (log.len() as u64) < seal.next_start.0 {
            return Err(format!("opened at {} with a log that ends at {}", sealed, log.len()));
        }
        let tag = self.instances.len() as u8 + 1;
        let wal = log[..seal.next_start.0 as usize].to_vec();
        self.instances.push(Instance { id: seal.lineage.id, history: seal.lineage.history, wal, tag });
        self.stats.promoted += 1;
        Ok(())
    }

    pub(super) fn writer(&mut self) -> Check {
        if self.writers.len() < 12 && self.chance(12) {
            return self.start_writer();
        }
        let Some(index) = self.pick(self.writers.len()) else { return self.start_writer() };
        let (roll, offer) = (self.rng.random_range(0..100), self.rng.random_range(1..6));
        let epoch = self.owners_epoch(index);
        let writer = &mut self.writers[index];
        let instance = &mut self.instances[writer.instance];
        match &mut writer.phase {
            Phase::Over => Ok(()),
            Phase::Claiming(_) => self.claim(index),
            Phase::Writing(core) => {
                if roll < 30 {
                    // A time-out: the same bytes again.
                    for (start, bytes) in &writer.sent {
                        let at = Position { epoch, start: *start };
                        let put = Put { from: Actor::Writer(index), at, bytes: bytes.clone() };
                        self.net.push(put);
                    }
                    return Ok(());
                }
                instance.wal.extend(std::iter::repeat_n(instance.tag, offer));
                let Some(cut) = core.plan((instance.wal.len() as u64).saturating_sub(core.next().0).min(5)) else {
                    return Ok(());
                };
                let plain = &instance.wal[cut.start.0 as usize..cut.end.0 as usize];
                let (bytes, hash) = chunk(&writer.me, core.subject(cut), plain);
                let at = core.sent(cut, hash);
                writer.sent.insert(cut.start, bytes.clone());
                self.net.push(Put { from: Actor::Writer(index), at, bytes });
                Ok(())
            }
        }
    }

    fn owners_epoch(&self, index: usize) -> u64 {
        let nonce = self.writers[index].me.nonce();
        self.owners.iter().find(|(_, owner)| **owner == nonce).map_or(0, |(epoch, _)| *epoch)
    }

    fn start_writer(&mut self) -> Check {
        let Some(instance) = self.pick(self.instances.len()) else { return Ok(()) };
        let me = self.incarnation();
        let options = ClaimOptions { reclaim_pending: self.chance(40) };
        let cursor = self.begin();
        let server = &self.instances[instance];
        let attached = Attached {
            instance_id: if self.mutant == Mutant::AnyLineage {
                cursor.lineage().id.clone()
            } else {
                server.id.clone()
            },
            system_id: SystemId(1),
            history: if self.mutant == Mutant::AnyLineage {
                cursor.lineage().history.clone()
            } else {
                server.history.clone()
            },
            flushed: Lsn(server.wal.len() as u64),
            by: "writer".into(),
        };
        let core = ClaimCore::new(me.clone(), attached, options, cursor);
        self.writers.push(Writer { me, instance, phase: Phase::Claiming(Box::new(core)), sent: BTreeMap::new() });
        Ok(())
    }

    fn claim(&mut self, index: usize) -> Check {
        let Phase::Claiming(core) = &mut self.writers[index].phase else { return Ok(()) };
        let (at, from) = (core.cursor().position(), core.cursor().clone());
        match core.wish().map_err(|e| e.to_string())? {
            ClaimWish::Walk => {
                let (end, _) = self.walk_from(from)?;
                if let Phase::Claiming(core) = &mut self.writers[index].phase {
                    core.walked(end);
                }
            }
            ClaimWish::Put(bytes) => self.net.push(Put { from: Actor::Writer(index), at, bytes }),
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
        self.writers[index].phase = Phase::Writing(Box::new(core));
        Ok(())
    }

    fn walk_from(&self, cursor: Cursor) -> Result<(Cursor, Vec<u8>), String> {
        let start = vec![0; cursor.position().start.0 as usize];
        self.walk(cursor, start)
    }

    pub(super) fn taker(&mut self) -> Check {
        if self.takers.len() < 4 && (self.takers.is_empty() || self.chance(10)) {
            let (nonce, key_seed) = (Nonce(self.rng.random()), self.rng.random());
            let state = TakerState { nonce, key_seed, by: "taker".into(), created: now() };
            let core = TakerCore::new(&state, self.begin());
            self.takers.push(Taker { state, core, taken: None, promote: None, over: false });
        }
        let Some(index) = self.pick(self.takers.len()) else { return Ok(()) };
        if self.takers[index].over {
            return Ok(());
        }
        if self.takers[index].taken.is_some() {
            return self.promote(index);
        }
        let taker = &mut self.takers[index];
        let (at, from) = (taker.core.cursor().position(), taker.core.cursor().clone());
        let me = Actor::Taker(index);
        match taker.core.wish().map_err(|e| e.to_string())? {
            TakerWish::Walk => {
                let (end, _) = self.walk_from(from)?;
                self.takers[index].core.walked(end);
            }
            TakerWish::PutTail(bytes) => self.net.push(Put { from: me, at, bytes }),
            TakerWish::PutAhead(at, bytes) => self.net.push(Put { from: me, at, bytes }),
            TakerWish::Won(taken) => {
                self.stats.ahead_won += usize::from(from.opened_by().is_some_and(|seal| seal.ahead));
                taker.taken = Some(*taken);
            }
        }
        Ok(())
    }

    fn promote(&mut self, index: usize) -> Check {
        let me = Actor::Taker(index);
        if let Some((at, bytes)) = self.takers[index].promote.clone() {
            self.net.push(Put { from: me, at, bytes });
            return Ok(());
        }
        let Some(taken) = self.takers[index].taken.clone() else { return Ok(()) };
        if self.chance(15) {
            self.takers[index].over = true; // Aborted.
            return Ok(());
        }
        let (end, _) = self.walk_from(self.takers[index].core.cursor().clone())?;
        let start = Lsn(taken.sealed.0 - taken.sealed.0 % RECORD);
        let instance_id = format!("standby-{}", self.instances.len());
        let new_timeline = TimelineId(end.lineage().history.timeline.0 + 1);
        let promotion = Promotion { start, instance_id, new_timeline };
        if matches!(self.mutant, Mutant::NoPromote | Mutant::AheadCounts) {
            return self.open_unasked(index, &taken, start);
        }
        let taker = &mut self.takers[index];
        match promote(&taker.state, &end, &taken, &promotion) {
            Ok(PromoteWish::Put(bytes)) => {
                let at = end.position();
                taker.promote = Some((at, bytes.clone()));
                self.net.push(Put { from: me, at, bytes });
            }
            Ok(PromoteWish::Done(_)) => return Err("promoted without having put".into()),
            Err(_) => taker.over = true,
        }
        Ok(())
    }

    /// What a standby does that does not ask: it opens, and its clients are answered.
    fn open_unasked(&mut self, index: usize, taken: &Taken, start: Lsn) -> Check {
        self.takers[index].over = true;
        let (_, log) = self.truth()?;
        if (log.len() as u64) < start.0 {
            return Err(format!("opened at {start} with a log that ends at {}", log.len()));
        }
        let at = Position { epoch: taken.epoch, start: taken.sealed };
        let lost = self.store.get(&at).is_some_and(|(_, there)| there.header.nonce != self.takers[index].state.nonce);
        if lost { Err("opened though the log was reclaimed".into()) } else { Ok(()) }
    }
}

/// Who was promoted last in the epochs before one.
fn promoted_before(store: &BTreeMap<Position, (Bytes, Decoded)>, epoch: u64) -> Option<String> {
    let upto = Position { epoch, start: Lsn(0) };
    store.range(..upto).rev().find_map(|(_, (_, decoded))| match &decoded.header.subject {
        Subject::Seal(seal) if seal.seal == crate::SealKind::Promote => Some(seal.lineage.id.clone()),
        _ => None,
    })
}

fn seal_answer(mine: bool) -> SealAnswer {
    if mine { SealAnswer::Mine } else { SealAnswer::Foreign }
}

fn chunk(me: &Incarnation, subject: Subject, plain: &[u8]) -> (Bytes, Hash) {
    let (len, sha256) = (plain.len() as u64, Hash::of(plain));
    let mut header = me.header(subject);
    header.body = Some(BodyInfo { len, sha256, plain_len: len, plain_sha256: sha256, encoding: Encoding::Plain });
    let (mut bytes, hash) = encode_header(&header, me.key()).expect("a small header");
    bytes.extend_from_slice(plain);
    (bytes.into(), hash)
}
