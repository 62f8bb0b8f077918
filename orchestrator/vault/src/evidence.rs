//! Evidence: what was tried and found, signed and locked in the vault itself, so that it outlives the site that found it.

use jiff::Timestamp;
use serde_json::Value;

use crate::error::VaultError;
use crate::fetch::{self, damaged, retrying};
use crate::object::{ObjectError, Subject, decode_stored, encode_plain};
use crate::store::ListRequest;
use crate::trust::WriterPublic;
use crate::vault::{Vault, check_name};

/// One piece of evidence, as read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// Where it stands.
    pub key: String,
    /// When, by its maker's clock.
    pub created: Timestamp,
    /// When, by the store's clock.
    pub stored: Option<Timestamp>,
    /// The writer key that vouches for it; none when its site has none.
    pub writer: Option<WriterPublic>,
    /// What it says.
    pub body: Value,
}

impl Vault {
    /// Stores evidence of one kind (`lock-probe`, ...): a name that can stand in a key. Gives the object's key. No patient
    /// data and no secrets belong in it.
    pub async fn put_evidence(&self, kind: &str, body: &Value) -> Result<String, VaultError> {
        check_name("evidence", kind)?;
        let me = self.incarnation().await?;
        let header = me.header(Subject::Evidence { about: kind.to_owned() });
        let key = self.keys.evidence(kind, header.created, header.nonce);
        let text = serde_json::to_vec(body).map_err(|e| bad_body(&key, &e))?;
        let (object, _) = encode_plain(header, &text, me.key()).map_err(damaged(&key))?;
        // `Exists` is its own, by an earlier request: nobody else knows the nonce in the key.
        fetch::create_until_known(&*self.store, &key, object).await?;
        Ok(key)
    }

    /// The newest pieces of evidence of one kind, at most so many, the newest at the end. By a listing: a hint.
    pub async fn evidence(&self, kind: &str, newest: usize) -> Result<Vec<Evidence>, VaultError> {
        check_name("evidence", kind)?;
        let mut found = Vec::new();
        for key in self.evidence_keys(kind, newest).await? {
            if let Some(evidence) = self.read_evidence(kind, &key).await? {
                found.push(evidence);
            }
        }
        Ok(found)
    }

    async fn evidence_keys(&self, kind: &str, newest: usize) -> Result<Vec<String>, VaultError> {
        let (folder, mut after) = (self.keys.evidence_folder(kind), String::new());
        let mut keys: Vec<String> = Vec::new();
        loop {
            let request = || ListRequest { prefix: &folder, after: &after, limit: 1000, folders: false };
            let page = retrying(|| self.store.list(request())).await?;
            keys.extend(page.entries.into_iter().map(|entry| entry.key));
            keys.drain(..keys.len().saturating_sub(newest.max(1)));
            match keys.last() {
                Some(last) if page.more && *last > after => after = last.clone(),
                _ => break,
            }
        }
        keys.truncate(newest);
        Ok(keys)
    }

    async fn read_evidence(&self, kind: &str, key: &str) -> Result<Option<Evidence>, VaultError> {
        let Some(object) = fetch::oldest(&*self.store, key).await? else { return Ok(None) };
        let (decoded, body) = decode_stored(&object).map_err(damaged(key))?;
        self.trust.check(&decoded).map_err(damaged(key))?;
        let header = &decoded.header;
        let belongs = header.subject == Subject::Evidence { about: kind.to_owned() }
            && self.keys.evidence(kind, header.created, header.nonce) == key;
        if !belongs {
            let reason = "it is not the evidence that was stored here".to_owned();
            return Err(damaged(key)(ObjectError::Misplaced { reason }));
        }
        let body = serde_json::from_slice(&body).map_err(|e| bad_body(key, &e))?;
        let (created, writer) = (header.created, decoded.writer());
        Ok(Some(Evidence { key: key.to_owned(), created, stored: decoded.stored, writer, body }))
    }
}

fn bad_body(key: &str, error: &serde_json::Error) -> VaultError {
    damaged(key)(ObjectError::Header { reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;
    use serde_json::json;
    use std::sync::Arc;

    #[tokio::test]
    async fn evidence_reads_back_newest_last_and_only_where_it_belongs() {
        let store = Arc::new(MemoryStore::default());
        let vault = Vault::with_store(store.clone(), "b", "p");
        let mut keys = Vec::new();
        for n in 0..3 {
            keys.push(vault.put_evidence("lock-probe", &json!({ "n": n })).await.unwrap());
        }
        assert!(keys[0].starts_with("p/v1/evidence/lock-probe/2"), "{keys:?}");
        let all = vault.evidence("lock-probe", 10).await.unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(vault.evidence("lock-probe", 2).await.unwrap(), all[1..]);
        assert!(vault.evidence("lock-probe", 0).await.unwrap().is_empty());
        assert!(vault.evidence("other", 10).await.unwrap().is_empty());
        assert!(vault.put_evidence("../x", &json!(1)).await.is_err());
        // Sound evidence under another's name.
        let object = vault.store.get(&keys[0]).await.unwrap().unwrap();
        let moved = format!("{}x", keys[0]);
        vault.store.create(&moved, object.bytes, crate::store::Lock::Long).await.unwrap();
        let error = vault.evidence("lock-probe", 10).await.unwrap_err();
        assert!(error.to_string().contains(&moved), "{error}");
    }
}
