//! Which keys a vault in fact depends on: who vouches for its objects, and who can open them. Read from headers and age
//! stanzas, so that it needs no word of anybody's configuration.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::catalogue::{KeyKind, ListedKey};
use crate::error::VaultError;
use crate::fetch::retrying;
use crate::object::{Decoded, Encoding, Subject, decode_header, header_block_len};
use crate::seal::{Identities, stanzas};
use crate::store::Object;
use crate::trust::{Trust, WriterPublic};
use crate::vault::Vault;

/// Bytes that hold nearly every header and the age header behind it.
const FRONT: u64 = 8192;

/// How much to look at.
#[derive(Clone, Copy, Debug)]
pub struct CensusOptions {
    /// Of chunks, segments and parts of backups, one in so many is read, and the first and the last of each folder. 1
    /// reads all. Everything else is always read.
    pub one_in: u64,
}

impl Default for CensusOptions {
    fn default() -> Self {
        CensusOptions { one_in: 100 }
    }
}

/// The objects that one writer key vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SignerUse {
    /// The key; none: nobody vouches for these.
    pub writer: Option<WriterPublic>,
    /// Its name in the list of trusted writers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Objects looked at.
    pub objects: u64,
    /// Of these, the ones that do not count by the list of trusted writers.
    pub untrusted: u64,
    /// When the store made the first and the last of them.
    pub stored: Option<(Timestamp, Timestamp)>,
}

/// Encrypted objects that the same keys open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecipientUse {
    /// What they are: `chunk`, `segment` or `backup part`.
    pub kind: &'static str,
    /// To how many keys they are encrypted.
    pub recipients: usize,
    /// The public keys of the given identities that open them. An age file does not name its recipients: whether a key
    /// opens it is tried.
    pub opened_by: Vec<String>,
    /// Objects looked at.
    pub objects: u64,
    /// When the store made the first and the last of them.
    pub stored: Option<(Timestamp, Timestamp)>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyCensus {
    /// Who vouches.
    pub signers: Vec<SignerUse>,
    /// Who can open.
    pub recipients: Vec<RecipientUse>,
    /// Objects in the vault, and how many of them were looked at.
    pub objects: u64,
    /// Objects looked at.
    pub looked_at: u64,
    /// Keys of objects whose header could not be read.
    pub unreadable: Vec<String>,
}

type Stored = Option<(Timestamp, Timestamp)>;

/// Counts. Without I/O.
struct Counter<'a> {
    trust: &'a Trust,
    identities: Option<&'a Identities>,
    signers: BTreeMap<Option<String>, SignerUse>,
    recipients: BTreeMap<(&'static str, usize, Vec<String>), (u64, Stored)>,
}

fn widen(stored: &mut Stored, at: Option<Timestamp>) {
    let Some(at) = at else { return };
    let (first, last) = stored.unwrap_or((at, at));
    *stored = Some((first.min(at), last.max(at)));
}

/// What is encrypted, in a word; these carry no voucher of their own.
fn sealed_kind(subject: &Subject, kind: &KeyKind) -> Option<&'static str> {
    match (subject, kind) {
        (Subject::Chunk(_), _) => Some("chunk"),
        (Subject::BackupPart { .. }, _) => Some("backup part"),
        (_, KeyKind::Segment { .. }) => Some("segment"),
        _ => None,
    }
}

impl Counter<'_> {
    fn count(&mut self, kind: &KeyKind, decoded: &Decoded, body: &[u8]) {
        let sealed = sealed_kind(&decoded.header.subject, kind);
        let encrypted = decoded.header.body.is_some_and(|body| body.encoding == Encoding::AgeZstd);
        if let (Some(what), true) = (sealed, encrypted) {
            let opened_by = self.identities.map(|identities| identities.which_open(body)).unwrap_or_default();
            let (objects, stored) = self.recipients.entry((what, stanzas(body), opened_by)).or_default();
            *objects += 1;
            widen(stored, decoded.stored);
        }
        if !matches!(decoded.header.subject, Subject::Chunk(_) | Subject::BackupPart { .. } | Subject::Probe) {
            self.count_signer(decoded);
        }
    }

    fn count_signer(&mut self, decoded: &Decoded) {
        let writer = decoded.writer();
        let name = writer.and_then(|writer| self.trust.entry(writer)).map(|entry| entry.name.clone());
        let new = SignerUse { writer, name, objects: 0, untrusted: 0, stored: None };
        let signer = self.signers.entry(writer.map(|writer| writer.to_string())).or_insert(new);
        signer.objects += 1;
        signer.untrusted += u64::from(self.trust.check(decoded).is_err());
        widen(&mut signer.stored, decoded.stored);
    }
}

/// Which objects of a folder are read: the first, the last and one in so many of what is encrypted; all of the rest.
struct Choice {
    one_in: u64,
    folder: String,
    n: u64,
    /// The last key seen, when it was not chosen.
    passed: Option<ListedKey>,
}

impl Choice {
    /// The next key of the listing; what is to be read because of it, in order.
    fn next(&mut self, key: ListedKey, kind: &KeyKind) -> [Option<ListedKey>; 2] {
        let folder = key.key.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut last = None;
        if folder != self.folder {
            last = self.passed.take();
            (self.folder, self.n) = (folder.to_owned(), 0);
        }
        let many = matches!(kind, KeyKind::Log { .. } | KeyKind::BackupPart { .. } | KeyKind::Segment { .. });
        let chosen = !many || self.n.is_multiple_of(self.one_in.max(1));
        self.n += 1;
        self.passed = if chosen { None } else { Some(key.clone()) };
        [last, chosen.then_some(key)]
    }
}

impl Vault {
    /// Finds out which keys the vault depends on. `seen` is told of each key of the listing, for a progress bar.
    pub async fn key_census(
        &self,
        identities: Option<&Identities>,
        options: CensusOptions,
        mut seen: impl FnMut(&str),
    ) -> Result<KeyCensus, VaultError> {
        let mut counter =
            Counter { trust: &self.trust, identities, signers: BTreeMap::new(), recipients: BTreeMap::new() };
        let mut choice = Choice { one_in: options.one_in, folder: String::new(), n: 0, passed: None };
        let mut census = KeyCensus::default();
        let mut walk = self.walk_keys("", None);
        while let Some(key) = walk.next().await? {
            seen(&key.key);
            let kind = self.kind(&key.key);
            // What a probe left is no part of the vault, and not all of it has a header.
            if kind == KeyKind::Probe {
                continue;
            }
            census.objects += 1;
            for chosen in choice.next(key, &kind).into_iter().flatten() {
                self.look_at(&mut counter, &mut census, &chosen).await?;
            }
        }
        if let Some(last) = choice.passed.take() {
            self.look_at(&mut counter, &mut census, &last).await?;
        }
        census.signers = counter.signers.into_values().collect();
        let recipient = |((kind, recipients, opened_by), (objects, stored))| RecipientUse {
            kind,
            recipients,
            opened_by,
            objects,
            stored,
        };
        census.recipients = counter.recipients.into_iter().map(recipient).collect();
        Ok(census)
    }

    async fn look_at(
        &self,
        counter: &mut Counter<'_>,
        census: &mut KeyCensus,
        key: &ListedKey,
    ) -> Result<(), VaultError> {
        // Only delete markers: nothing to look at.
        let Some(version) = &key.version else { return Ok(()) };
        census.looked_at += 1;
        let Some(object) = self.front_of(key, version).await? else { return Ok(()) };
        match decode_header(&object.bytes) {
            Ok(decoded) => {
                let decoded = decoded.stored_at(object.last_modified.or(key.stored));
                counter.count(&self.kind(&key.key), &decoded, &object.bytes[decoded.body_at..]);
            }
            Err(_) => census.unreadable.push(key.key.clone()),
        }
        Ok(())
    }

    /// The front of the oldest version, with its header in it.
    async fn front_of(&self, key: &ListedKey, version: &str) -> Result<Option<Object>, VaultError> {
        if !key.tampered()
            && let Some(object) = retrying(|| self.store.get_front(&key.key, FRONT)).await?
        {
            let whole = object.bytes.len() as u64 >= object.total_len;
            if whole || header_block_len(&object.bytes).is_ok_and(|len| len + 2048 <= object.bytes.len()) {
                return Ok(Some(object));
            }
        }
        Ok(retrying(|| self.store.get_version(&key.key, version)).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Position;
    use holdfast_wal::Lsn;

    fn key(key: &str) -> ListedKey {
        let (version, stored) = (Some("1".into()), None);
        ListedKey { key: key.into(), version, size: 1, stored, newer_versions: 0, delete_markers: 0 }
    }

    #[test]
    fn of_many_the_first_the_last_and_some_between_are_read() {
        let log = KeyKind::Log { database: "a".into(), at: Position { epoch: 1, start: Lsn(0) } };
        let mut choice = Choice { one_in: 4, folder: String::new(), n: 0, passed: None };
        let mut read = Vec::new();
        for n in 0..7 {
            read.extend(choice.next(key(&format!("log/1/{n}")), &log).into_iter().flatten());
        }
        read.extend(choice.next(key("log/2/0"), &log).into_iter().flatten());
        for n in 0..3 {
            read.extend(choice.next(key(&format!("run/r/{n}")), &KeyKind::Plan).into_iter().flatten());
        }
        let read: Vec<_> = read.iter().map(|key| key.key.as_str()).collect();
        assert_eq!(read, ["log/1/0", "log/1/4", "log/1/6", "log/2/0", "run/r/0", "run/r/1", "run/r/2"]);
    }
}
