//! Objects of the vault, and what lies in them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use holdfast_vault::log::index::check_index;
use holdfast_vault::log::walk::LogFacts;
use holdfast_vault::object::{
    Decoded, Header, PublicKey, Subject, decode, decode_header, encode_header, header_block_len,
};
use holdfast_vault::{
    BackupManifest, Cursor, Hash, Identities, Lineage, Recipients, Trust, WriterKey, WriterPublic, fuzzing,
    is_valid_name,
};
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, SystemId, TimelineId};

/// The bodies of the corpus are sealed to this key, and nothing else is.
const IDENTITY: &str = "AGE-SECRET-KEY-1KCVRNPAP4X7Q4UL7QN683LH5TLCZLU62HQPJCUFWZZW5YEQU0X5QQLP997";

fn identities() -> &'static Identities {
    static IDENTITIES: OnceLock<Identities> = OnceLock::new();
    IDENTITIES.get_or_init(|| Identities::parse(IDENTITY).expect("a key of the right form"))
}

/// A whole object as a store would answer it.
pub(crate) fn object(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let length = header_block_len(data);
    match decode(&bytes) {
        Ok((decoded, body)) => {
            assert_eq!(length.ok(), Some(decoded.body_at));
            assert_eq!(decoded.header.body.map_or(0, |info| info.len), body.len() as u64);
            assert_eq!(decoded.body_at + body.len(), data.len());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The JSON of a header, signed anew: what it says passes through a whole object, and the checks of the places where it
/// may stand do not panic.
pub(crate) fn header(data: &[u8]) {
    let Ok(mut header) = serde_json::from_slice::<Header>(data) else { return };
    let key = SigningKey::from_bytes(&[7; 32]);
    header.key = PublicKey(key.verifying_key().to_bytes());
    // Its signature is over the key that was here before.
    header.voucher = None;
    let Ok((block, hash)) = encode_header(&header, &key) else { return };
    let Ok(decoded) = decode_header(&block) else { return };
    assert_eq!((&decoded.header, decoded.hash, decoded.body_at), (&header, hash, block.len()));
    if let Subject::Index(index) = &header.subject {
        let facts = Arc::new(facts(&index.database, index.system_id));
        let _ = check_index(&facts, index.n, None, &decoded);
    }
}

fn facts(database: &str, system_id: SystemId) -> LogFacts {
    LogFacts {
        database: database.to_owned(),
        system_id,
        segment_size: 1 << 24,
        origin: Lsn(1 << 24),
        trust: Trust::anyone(),
        chunk_life: Duration::from_secs(7 * 86_400),
    }
}

/// A walk along headers, one a line, from the first place of a log. What does not follow is refused and changes nothing.
/// `prev` is put right, for no mutation would find a digest.
pub(crate) fn log(data: &[u8]) {
    let mut cursor: Option<Cursor> = None;
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let Ok(mut header) = serde_json::from_slice::<Header>(line) else { continue };
        let at = cursor.get_or_insert_with(|| genesis(&header));
        match &mut header.subject {
            Subject::Chunk(chunk) => chunk.prev = at.prev().to_vec(),
            Subject::Seal(seal) if !seal.prev.is_empty() => seal.prev = at.prev().to_vec(),
            _ => {}
        }
        let before = at.clone();
        let decoded = Decoded { hash: Hash::of(line), body_at: 0, stored: None, header };
        match at.apply(&decoded) {
            Ok(_) => assert!(at.position() > before.position(), "a log only goes forward"),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                let same =
                    at.position() == before.position() && at.owner() == before.owner() && at.prev() == before.prev();
                assert!(same && at.lineage() == before.lineage(), "what is refused changes nothing");
            }
        }
    }
}

fn genesis(header: &Header) -> Cursor {
    let (database, system_id) = match &header.subject {
        Subject::Seal(seal) => (seal.database.as_str(), seal.system_id),
        _ => ("a", SystemId(1)),
    };
    let facts = Arc::new(facts(database, system_id));
    let lineage = Lineage::new("origin", &TimelineHistory::initial(TimelineId(1)));
    let at = holdfast_vault::Position { epoch: 0, start: facts.origin };
    Cursor::genesis(facts, lineage, holdfast_vault::object::Link { at, hash: Hash::of(b"identity") })
}

/// A body that says it has up to 1 MiB (the first three bytes), sealed to a key that is ours.
pub(crate) fn body(data: &[u8]) {
    if let Some((plain_len, body)) = announced(data) {
        let opened = fuzzing::open(plain_len, body, identities());
        assert!(opened.is_ok_and(|plain| plain.len() as u64 == plain_len) || plain_len <= 1 << 20);
    }
}

/// The same below the encryption: zstd that promises and does not keep.
pub(crate) fn zstd(data: &[u8]) {
    if let Some((plain_len, frame)) = announced(data)
        && let Ok(plain) = fuzzing::decompress(frame, plain_len)
    {
        assert!(plain.len() as u64 <= plain_len, "never more than was announced");
    }
}

fn announced(data: &[u8]) -> Option<(u64, &[u8])> {
    let (length, rest) = data.split_first_chunk::<3>()?;
    Some((u64::from(u32::from_be_bytes([0, length[0], length[1], length[2]])) & 0xf_ffff, rest))
}

/// JSON bodies.
pub(crate) fn documents(data: &[u8]) {
    if let Ok(manifest) = serde_json::from_slice::<BackupManifest>(data) {
        let again = serde_json::to_vec(&manifest).expect("it came from JSON");
        assert_eq!(serde_json::from_slice::<BackupManifest>(&again).ok(), Some(manifest));
    }
    let _ = serde_json::from_slice::<holdfast_vault::Identity>(data);
    let _ = serde_json::from_slice::<serde_json::Value>(data);
}

/// Keys of people and keys of the bucket, as text.
pub(crate) fn keys(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Identities::parse(text);
    let _ = Recipients::parse(&text.lines().collect::<Vec<_>>());
    let _ = WriterKey::parse(text);
    if let Ok(key) = text.parse::<WriterPublic>() {
        assert_eq!(key.to_string().parse::<WriterPublic>().ok(), Some(key));
    }
    let _ = is_valid_name(text);
    fuzzing::key(text);
}
