//! A vault as a whole.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::config::{DEFAULT_CHUNK_RETENTION_DAYS, VaultConfig};
use crate::database::DatabaseVault;
use crate::error::VaultError;
use crate::fetch::{self, retrying};
use crate::journal::RunJournal;
use crate::keys::{Keys, is_valid_name};
use crate::log::incarnation::Incarnation;
use crate::object::{ObjectError, Subject, decode_stored, encode_plain};
use crate::store::{S3Store, Store, Traffic, UrlStore};
use crate::trust::{Trust, WriterKey, WriterSource};

/// Where nothing else is said.
const CHUNK_LIFE: Duration = Duration::from_secs(DEFAULT_CHUNK_RETENTION_DAYS as u64 * 24 * 60 * 60);

/// A bucket and a prefix in it. Cheap to clone.
#[derive(Clone)]
pub struct Vault {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: Keys,
    pub(crate) bucket: String,
    /// Whose objects are believed.
    pub(crate) trust: Trust,
    /// How long a chunk is locked at least.
    pub(crate) chunk_life: Duration,
    /// Vouches for what is written; none in a site without a writer key.
    writer: Option<WriterSource>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl Vault {
    /// Prepares the access to a vault; sends no request. Fails when the configuration or the credentials' files
    /// cannot be used.
    pub fn open(config: VaultConfig) -> Result<Vault, VaultError> {
        let (bucket, prefix) = (config.bucket.clone(), config.prefix.clone());
        let trust = if config.writers.is_empty() { Trust::anyone() } else { Trust::only(config.writers.clone()) };
        let chunk_life = config.chunk_retention();
        let writer = config.writer_key_file.clone().map(WriterSource::File);
        let (store, bucket): (Arc<dyn Store>, _) = match &config.url {
            Some(url) => (Arc::new(UrlStore::open(url)?), url.to_string()),
            None => (Arc::new(S3Store::new(config)?), bucket),
        };
        let vault = Vault::with_store(store, bucket, &prefix).with_trust(trust);
        Ok(Vault { writer, chunk_life, ..vault })
    }

    /// A vault in any store.
    pub fn with_store(store: Arc<dyn Store>, bucket: impl Into<String>, prefix: &str) -> Vault {
        let (keys, trust) = (Keys::new(prefix), Trust::anyone());
        Vault { store, keys, bucket: bucket.into(), trust, writer: None, chunk_life: CHUNK_LIFE }
    }

    /// The same vault, whose chunks live so long: what stands in the configuration of a real one. All who use a vault
    /// must agree on it.
    pub fn with_chunk_life(self, chunk_life: Duration) -> Vault {
        Vault { chunk_life, ..self }
    }

    /// The same vault, believing these writers.
    pub fn with_trust(self, trust: Trust) -> Vault {
        Vault { trust, ..self }
    }

    /// The same vault; what is written to it is vouched for by this key.
    pub fn with_writer_key(self, key: WriterKey) -> Vault {
        Vault { writer: Some(WriterSource::Key(key)), ..self }
    }

    /// What was sent to the store through this vault and its clones.
    pub fn traffic(&self) -> Traffic {
        self.store.traffic()
    }

    /// Whose objects are believed.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The key that vouches for what is written now; none without one. Read from its file each time.
    pub fn writer_key(&self) -> Result<Option<WriterKey>, VaultError> {
        self.writer.as_ref().map(WriterSource::key).transpose()
    }

    /// The writer key to write with. Nothing is written that readers with the same list would not believe: an
    /// unbelievable seal would end the log for good.
    ///
    /// # Errors
    /// [`VaultError::WriterNotTrusted`].
    pub(crate) async fn trusted_writer(&self) -> Result<Option<WriterKey>, VaultError> {
        let key = self.writer_key()?;
        let public = key.as_ref().map(WriterKey::public);
        let limited = public.and_then(|public| self.trust.entry(public)).is_some_and(|entry| entry.not_after.is_some());
        // The store's own time, and only where it matters: what is put next is stored about then.
        let now = if limited { retrying(|| self.store.bucket()).await?.now } else { None };
        self.trust.admits(public, now).map_err(|distrust| VaultError::WriterNotTrusted { distrust })?;
        Ok(key)
    }

    /// A new incarnation, vouched for.
    ///
    /// # Errors
    /// [`VaultError::WriterNotTrusted`].
    pub(crate) async fn incarnation(&self) -> Result<Incarnation, VaultError> {
        Ok(Incarnation::random().vouched(self.trusted_writer().await?.as_ref()))
    }

    /// One database in the vault; sends no request.
    pub fn database(&self, name: &str) -> Result<DatabaseVault, VaultError> {
        check_name("a database", name)?;
        Ok(DatabaseVault::new(self.clone(), name))
    }

    /// The journal of one run; sends no request.
    pub fn journal(&self, run: &str) -> Result<RunJournal, VaultError> {
        check_name("a run", run)?;
        Ok(RunJournal::new(self.clone(), run))
    }

    /// Stores a plan (and its runbook) under its hash. Storing the same again is fine.
    pub async fn put_plan(&self, name: &str, hash: &str, body: Bytes) -> Result<(), VaultError> {
        check_name("a plan", name)?;
        check_name("a plan's hash", hash)?;
        let key = self.keys.plan(name, hash);
        let me = self.incarnation().await?;
        let header = me.header(Subject::Plan { name: name.into(), hash: hash.into() });
        let (object, _) = encode_plain(header, &body, me.key()).map_err(fetch::damaged(&key))?;
        if fetch::create_until_known(&*self.store, &key, object).await?.is_stored() {
            return Ok(());
        }
        match self.plan(name, hash).await? {
            Some(stored) if stored == body => Ok(()),
            _ => Err(VaultError::Damaged {
                key,
                error: ObjectError::Misplaced { reason: "another plan is stored under this hash".into() },
            }),
        }
    }

    /// Reads a plan.
    pub async fn plan(&self, name: &str, hash: &str) -> Result<Option<Bytes>, VaultError> {
        let key = self.keys.plan(name, hash);
        let Some(object) = fetch::oldest(&*self.store, &key).await? else { return Ok(None) };
        let (decoded, body) = decode_stored(&object).map_err(fetch::damaged(&key))?;
        self.trust.check(&decoded).map_err(fetch::damaged(&key))?;
        let wanted = Subject::Plan { name: name.into(), hash: hash.into() };
        if decoded.header.subject != wanted {
            let reason = "it is not this plan".to_owned();
            return Err(VaultError::Damaged { key, error: ObjectError::Misplaced { reason } });
        }
        Ok(Some(body))
    }
}

pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), VaultError> {
    if is_valid_name(name) {
        return Ok(());
    }
    Err(VaultError::BadName { what, name: name.to_owned() })
}
