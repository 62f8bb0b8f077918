//! One database in a vault.

use std::sync::Arc;

use holdfast_wal::record::RecordScanner;
use holdfast_wal::{Lsn, is_valid_segment_size};
use tokio::sync::OnceCell;

use crate::backup::{self, BackupList, BackupManifest, BackupMeta, BackupReader, BackupWriter};
use crate::error::VaultError;
use crate::fetch::{self, damaged};
use crate::keys::{DatabaseKeys, Position};
use crate::log::LogAccess;
use crate::log::errors::{ClaimError, ReadError, TakeoverError};
use crate::log::index::{Archived, IndexWritten, StoredIndex};
use crate::log::reader::LogReader;
use crate::log::takeover::TakeoverOptions;
use crate::log::types::{
    Attached, ClaimOptions, Identity, ORIGIN, Promoted, Promotion, ReadEvent, ReadOptions, Taken, TakerState, Tip,
};
use crate::log::walk::{Cursor, LogFacts};
use crate::log::writing::LogWriter;
use crate::object::{Lineage, Link, ObjectError, Subject, decode_stored, encode_plain};
use crate::seal::{Identities, Recipients};
use crate::vault::Vault;

/// One database in a vault: its identity, its log, its base backups. Cheap to clone.
#[derive(Clone)]
pub struct DatabaseVault {
    pub(crate) vault: Vault,
    pub(crate) name: String,
    pub(crate) keys: DatabaseKeys,
    /// Read once: it never changes.
    identity: Arc<OnceCell<(Identity, Link)>>,
}

impl std::fmt::Debug for DatabaseVault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseVault").field("name", &self.name).finish_non_exhaustive()
    }
}

impl DatabaseVault {
    pub(crate) fn new(vault: Vault, name: &str) -> DatabaseVault {
        let keys = vault.keys.database(name);
        DatabaseVault { vault, name: name.to_owned(), keys, identity: Arc::default() }
    }

    /// The database's name in the vault.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says which database the name stands for. The first one decides; the same system again is fine and gives what
    /// is stored.
    ///
    /// # Errors
    /// [`VaultError::OtherSystem`] when the name belongs to another system.
    pub async fn register(&self, identity: Identity) -> Result<Identity, VaultError> {
        let given = identity.system_id;
        if let Some(stored) = self.identity().await? {
            return self.same_system(stored, given);
        }
        let key = self.keys.identity();
        check_identity(&identity).map_err(damaged(&key))?;
        let me = self.vault.incarnation().await?;
        let body = serde_json::to_vec(&identity).map_err(|e| bad_body(&key, &e))?;
        let header = me.header(Subject::Identity { database: self.name.clone() });
        let (object, _) = encode_plain(header, &body, me.key()).map_err(damaged(&key))?;
        fetch::create_until_known(&*self.vault.store, &key, object).await?;
        let stored = self.identity().await?.ok_or_else(|| self.unknown())?;
        self.same_system(stored, given)
    }

    fn same_system(&self, stored: Identity, given: holdfast_wal::SystemId) -> Result<Identity, VaultError> {
        if stored.system_id == given {
            return Ok(stored);
        }
        Err(VaultError::OtherSystem { name: self.name.clone(), stored: stored.system_id, given })
    }

    fn unknown(&self) -> VaultError {
        VaultError::UnknownDatabase { name: self.name.clone() }
    }

    /// Which database the name stands for; `None` when it was never registered.
    pub async fn identity(&self) -> Result<Option<Identity>, VaultError> {
        match self.identity_link().await {
            Ok((identity, _)) => Ok(Some(identity.clone())),
            Err(VaultError::UnknownDatabase { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn identity_link(&self) -> Result<&(Identity, Link), VaultError> {
        self.identity.get_or_try_init(|| self.read_identity()).await
    }

    async fn read_identity(&self) -> Result<(Identity, Link), VaultError> {
        let key = self.keys.identity();
        let object = fetch::oldest(&*self.vault.store, &key).await?.ok_or_else(|| self.unknown())?;
        let (decoded, body) = decode_stored(&object).map_err(damaged(&key))?;
        self.vault.trust.check(&decoded).map_err(damaged(&key))?;
        if decoded.header.subject != (Subject::Identity { database: self.name.clone() }) {
            let reason = "it is not the identity of this database".to_owned();
            return Err(damaged(&key)(ObjectError::Misplaced { reason }));
        }
        let identity: Identity = serde_json::from_slice(&body).map_err(|e| bad_body(&key, &e))?;
        check_identity(&identity).map_err(damaged(&key))?;
        let at = Position { epoch: 0, start: identity.origin };
        Ok((identity, Link { at, hash: decoded.hash }))
    }

    pub(crate) async fn access(&self) -> Result<LogAccess, VaultError> {
        let (identity, link) = self.identity_link().await?;
        let facts = LogFacts {
            database: self.name.clone(),
            system_id: identity.system_id,
            segment_size: identity.segment_size,
            origin: identity.origin,
            trust: self.vault.trust.clone(),
            chunk_life: self.vault.chunk_life,
        };
        Ok(LogAccess {
            store: self.vault.store.clone(),
            keys: self.keys.clone(),
            facts: Arc::new(facts),
            genesis: (Lineage::new(ORIGIN, &identity.history), *link),
        })
    }

    /// Claims the log for the attached server: from here on no other writer's chunk counts.
    pub async fn claim(
        &self,
        attached: &Attached,
        recipients: &Recipients,
        options: ClaimOptions,
    ) -> Result<LogWriter, ClaimError> {
        let (identity, _) = self.identity_link().await?;
        self.same_system(identity.clone(), attached.system_id)?;
        let me = self.vault.incarnation().await?;
        self.access().await?.claim(me, attached, recipients, options).await
    }

    /// Where the log ends now. Opens nothing.
    pub async fn tip(&self) -> Result<Tip, VaultError> {
        Ok(Tip::of(&self.access().await?.end().await?))
    }

    /// Where the log ends now for who only reads it: before the first object by a writer who is not believed, if it comes to one,
    /// with the error that names it. Whoever stole a key put it there; what stands before it is restored all the same.
    pub async fn believed_tip(&self) -> Result<(Tip, Option<VaultError>), VaultError> {
        let (end, refused) = self.access().await?.believed_end().await?;
        Ok((Tip::of(&end), refused))
    }

    /// Reads the log from a position on. The first WAL begins exactly there.
    ///
    /// # Errors
    /// [`VaultError::UnknownDatabase`]; all else comes from [`LogReader::next`].
    pub async fn reader(
        &self,
        identities: Identities,
        from: Lsn,
        options: ReadOptions,
    ) -> Result<LogReader, VaultError> {
        Ok(LogReader::new(self.access().await?, identities, from, options))
    }

    /// The newest index of the log, found by asking for the next until there is none; `None` when the log has none.
    pub async fn newest_index(&self) -> Result<Option<StoredIndex>, VaultError> {
        self.access().await?.newest_index().await
    }

    /// Reads the log as the archiver does: from where the segments end that `index` names (from the log's beginning
    /// without one), everything, however old. [`LogReader::place`] says where the reader stands, to be written down in
    /// the next index.
    pub async fn archive_reader(
        &self,
        identities: Identities,
        index: Option<&StoredIndex>,
        options: ReadOptions,
    ) -> Result<LogReader, VaultError> {
        let access = self.access().await?;
        let from = match index.and_then(|index| index.index.archived.as_ref()) {
            Some(place) => Cursor::from_place(access.facts.clone(), place).map_err(damaged(&self.keys.indexes()))?,
            None => access.genesis(),
        };
        Ok(LogReader::archiving(access, identities, from, options))
    }

    /// Writes the next index: the chain stands at `place`, and all WAL before `archived` is in segment objects. Both are
    /// places of one [`LogReader`] that began at `before`, which is the newest index that its maker knows.
    ///
    /// Only the maker of the newest index may say more: with [`IndexWritten::Lost`], begin again at the one given. Until
    /// it is written, nothing that it covers is deleted.
    pub async fn write_index(
        &self,
        before: Option<&StoredIndex>,
        place: &Cursor,
        archived: Option<Archived<'_>>,
    ) -> Result<IndexWritten, VaultError> {
        let me = self.vault.incarnation().await?;
        self.access().await?.write_index(&me, before, place, archived).await
    }

    /// Takes the log over: when it returns, the log ends at [`Taken::sealed`] and no writer that is alive anywhere
    /// can have anything acknowledged beyond it. Repeated with the same state it finds its own seal again.
    pub async fn takeover(&self, state: &TakerState, options: &TakeoverOptions) -> Result<Taken, TakeoverError> {
        let state = state.vouched(self.vault.trusted_writer().await?.as_ref());
        self.access().await?.takeover(&state, options).await
    }

    /// The point of no return: when it returns, the standby may open. Repeated with the same state it finds its own
    /// promote again.
    ///
    /// # Errors
    /// [`TakeoverError::Lost`]: the standby must not open.
    pub async fn promote(
        &self,
        state: &TakerState,
        taken: &Taken,
        promotion: &Promotion,
    ) -> Result<Promoted, TakeoverError> {
        let state = state.vouched(self.vault.trusted_writer().await?.as_ref());
        self.access().await?.promote(&state, taken, promotion).await
    }

    /// The end of the last complete WAL record at or below `upto`. `from` is the start or the end of some record at
    /// or below it, such as the standby's replay position; the log is read from there to `upto`, and on into the newest epoch, since
    /// only there it is sure that no promotion has cut off what was read.
    pub async fn floor(&self, identities: Identities, from: Lsn, upto: Lsn) -> Result<Lsn, ReadError> {
        let access = self.access().await?;
        let segment_size = access.facts.segment_size;
        if from >= upto {
            return Ok(from);
        }
        let newest = access.believed_end().await?.0.position().epoch;
        let mut scanner = RecordScanner::new(from, segment_size, false);
        let mut reader = LogReader::new(access, identities, from, ReadOptions::default());
        let mut reached = false;
        loop {
            let event = match reader.next().await {
                // The believed log ends here. Any other error may hide a cut.
                Err(ReadError::Vault(error)) if reached && error.is_untrusted() => return Ok(scanner.complete_end()),
                event => event?,
            };
            match event {
                ReadEvent::Wal { start, data, .. } => {
                    let want = (upto.saturating_sub(start)).min(data.len() as u64) as usize;
                    if let Err(error) = scanner.push(&data[..want]) {
                        let reason = format!("the WAL in it does not read as records: {error}");
                        let key = format!("{} around {start}", self.keys.log());
                        return Err(VaultError::Damaged { key, error: ObjectError::Misplaced { reason } }.into());
                    }
                    reached |= start.checked_add(data.len() as u64).is_none_or(|end| end >= upto);
                    if reached && reader.place().is_some_and(|place| place.position().epoch >= newest) {
                        return Ok(scanner.complete_end());
                    }
                }
                // The new line goes on where the old site's last complete record ended.
                ReadEvent::Cut { to, .. } if to < upto => {
                    (scanner, reached) = (RecordScanner::new(to, segment_size, false), false);
                }
                ReadEvent::AtEnd { tip, .. } if tip < upto => return Err(ReadError::EndsBefore { tip, upto }),
                ReadEvent::AtEnd { .. } => return Ok(scanner.complete_end()),
                _ => {}
            }
        }
    }

    /// Begins a base backup.
    pub async fn begin_backup(&self, meta: BackupMeta, recipients: Recipients) -> Result<BackupWriter, VaultError> {
        let (identity, _) = self.identity_link().await?;
        let me = self.vault.incarnation().await?;
        BackupWriter::new(self.clone(), identity.system_id, me, meta, &recipients)
    }

    /// All complete base backups, the one that the store has last at the end. One whose manifest does not count is left out
    /// and reported in the process's log.
    pub async fn backups(&self) -> Result<Vec<BackupManifest>, VaultError> {
        Ok(backup::list(self).await?.complete)
    }

    /// The same, and what was left out.
    pub async fn backup_list(&self) -> Result<BackupList, VaultError> {
        backup::list(self).await
    }

    /// Reads a base backup: its plain parts in order.
    pub fn read_backup(&self, manifest: &BackupManifest, identities: Identities) -> BackupReader {
        BackupReader::new(self.clone(), manifest.clone(), identities)
    }
}

fn check_identity(identity: &Identity) -> Result<(), ObjectError> {
    let bad = |reason: String| Err(ObjectError::Misplaced { reason });
    if !is_valid_segment_size(identity.segment_size) {
        return bad(format!("a WAL segment size of {} bytes", identity.segment_size));
    }
    if !identity.origin.is_valid() || identity.origin.segment_offset(identity.segment_size) != 0 {
        return bad(format!("the log's origin {} is not the start of a segment", identity.origin));
    }
    Ok(())
}

fn bad_body(key: &str, error: &serde_json::Error) -> VaultError {
    VaultError::Damaged { key: key.to_owned(), error: ObjectError::Header { reason: error.to_string() } }
}
