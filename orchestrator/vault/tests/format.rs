//! The container on foreign bytes: nothing panics, nothing is taken for what it is not.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use holdfast_vault::object::{
    BodyInfo, Encoding, Hash, Header, MAX_BODY_LEN, MAX_PLAIN_LEN, Nonce, ObjectError, PublicKey, Subject, decode,
    decode_header, encode_header,
};
use jiff::Timestamp;

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn header(body: &[u8]) -> Header {
    let digest = Hash::of(body);
    let len = body.len() as u64;
    Header {
        subject: Subject::Probe,
        nonce: Nonce([1; 16]),
        key: PublicKey(key().verifying_key().to_bytes()),
        created: Timestamp::UNIX_EPOCH,
        body: Some(BodyInfo { len, sha256: digest, plain_len: len, plain_sha256: digest, encoding: Encoding::Plain }),
        voucher: None,
    }
}

fn object(body: &[u8]) -> Vec<u8> {
    let (mut object, _) = encode_header(&header(body), &key()).unwrap();
    object.extend_from_slice(body);
    object
}

#[test]
fn reads_what_it_wrote_and_the_bytes_stay_the_same() {
    let bytes = Bytes::from(object(b"body"));
    let (decoded, body) = decode(&bytes).unwrap();
    assert_eq!((decoded.header, &body[..]), (header(b"body"), &b"body"[..]));
    assert_eq!(decoded.hash, Hash::of(&bytes[..decoded.body_at]));
    // Format version 1 on disk: a change here breaks every vault.
    let digest = "230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5";
    let json = format!(
        concat!(
            r#"{{"subject":{{"kind":"probe"}},"nonce":"{}","key":"{}","created":"1970-01-01T00:00:00Z","#,
            r#""body":{{"len":4,"sha256":"{}","plain_len":4,"plain_sha256":"{}","encoding":"plain"}}}}"#
        ),
        "01".repeat(16),
        hex::encode(key().verifying_key().to_bytes()),
        digest,
        digest
    );
    let front = [b"HOLDFAST\x00\x01\x00\x00", &(json.len() as u16).to_be_bytes()[..], json.as_bytes()].concat();
    assert_eq!(String::from_utf8_lossy(&bytes[..front.len()]), String::from_utf8_lossy(&front));
    assert_eq!(decoded.body_at, front.len() + 64);
}

#[test]
fn every_cut_and_every_flipped_bit_is_noticed() {
    let whole = object(b"some body");
    for len in 0..whole.len() {
        assert!(decode(&Bytes::copy_from_slice(&whole[..len])).is_err(), "cut at {len}");
    }
    for index in 0..whole.len() {
        for bit in 0..8 {
            let mut changed = whole.clone();
            changed[index] ^= 1 << bit;
            assert!(decode(&changed.into()).is_err(), "bit {bit} of byte {index}");
        }
    }
    let mut longer = whole;
    longer.push(0);
    assert!(decode(&longer.into()).is_err());
}

#[test]
fn foreign_bytes_say_what_they_are() {
    let of = |bytes: &[u8]| decode_header(bytes).unwrap_err();
    assert_eq!(of(b"PK\x03\x04 something else"), ObjectError::Magic);
    assert!(matches!(of(b"HOLD"), ObjectError::Truncated { .. }));
    let mut later = object(b"");
    later[9] = 2;
    assert_eq!(of(&later), ObjectError::Version { version: 2 });
    let mut long = object(b"");
    long[10..14].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(of(&long), ObjectError::HeaderTooLong { .. }));
    for (len, plain_len) in [(MAX_BODY_LEN + 1, 1), (1, MAX_PLAIN_LEN + 1), (u64::MAX, u64::MAX)] {
        let mut header = header(b"");
        header.body = header.body.map(|body| BodyInfo { len, plain_len, ..body });
        let (block, _) = encode_header(&header, &key()).unwrap();
        assert!(matches!(of(&block), ObjectError::BodyTooLong { .. }));
    }
    // Signed by another key than the one that it names.
    let (block, _) = encode_header(&header(b""), &SigningKey::from_bytes(&[8; 32])).unwrap();
    assert_eq!(of(&block), ObjectError::Signature);
}
