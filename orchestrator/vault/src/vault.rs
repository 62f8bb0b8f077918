//! A vault as a whole.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::VaultConfig;
use crate::database::DatabaseVault;
use crate::error::VaultError;
use crate::fetch;
use crate::journal::RunJournal;
use crate::keys::{Keys, is_valid_name};
use crate::log::incarnation::Incarnation;
use crate::object::{ObjectError, Subject, decode, encode_plain};
use crate::store::{Created, S3Store, Store};

/// A bucket and a prefix in it. Cheap to clone.
#[derive(Clone)]
pub struct Vault {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: Keys,
    pub(crate) bucket: String,
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
        Ok(Vault::with_store(Arc::new(S3Store::new(config)?), bucket, &prefix))
    }

    /// A vault in any store.
    pub fn with_store(store: Arc<dyn Store>, bucket: impl Into<String>, prefix: &str) -> Vault {
        Vault { store, keys: Keys::new(prefix), bucket: bucket.into() }
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
        let me = Incarnation::random();
        let header = me.header(Subject::Plan { name: name.into(), hash: hash.into() });
        let (object, _) = encode_plain(header, &body, me.key()).map_err(fetch::damaged(&key))?;
        if fetch::create_until_known(&*self.store, &key, object).await? == Created::Stored {
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
        let (decoded, body) = decode(&object.bytes).map_err(fetch::damaged(&key))?;
        let wanted = Subject::Plan { name: name.into(), hash: hash.into() };
        if decoded.header.subject != wanted {
            let reason = "it is not this plan".to_owned();
            return Err(VaultError::Damaged { key, error: ObjectError::Misplaced { reason } });
        }
        Ok(Some(body))
    }
}

fn check_name(what: &'static str, name: &str) -> Result<(), VaultError> {
    if is_valid_name(name) {
        return Ok(());
    }
    Err(VaultError::BadName { what, name: name.to_owned() })
}
