//! Who may connect: everybody, or who knows the password (SCRAM-SHA-256, RFC 5802 and 7677).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use postgres_protocol::authentication::sasl::SCRAM_SHA_256;
use postgres_protocol::password::scram_sha_256;
use sha2::{Digest, Sha256};

use crate::frame::Cursor;

/// How a standby proves that it may follow.
#[derive(Clone)]
pub enum Authentication {
    /// Whoever reaches the port may. For a network that only standbys reach.
    Trust,
    /// The password of whatever user connects, by SCRAM-SHA-256: it never crosses the network.
    Password(String),
}

impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Authentication::Trust => "Trust",
            Authentication::Password(_) => "Password(hidden)",
        })
    }
}

/// The server's side of one SCRAM exchange.
pub(super) struct ScramServer {
    salt: String,
    iterations: String,
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

/// What was said so far, between the client's two messages.
pub(super) struct Challenge {
    gs2_header: String,
    nonce: String,
    client_first_bare: String,
    server_first: String,
}

impl ScramServer {
    /// `None` only when the verifier cannot be made, which a password cannot cause.
    pub(super) fn new(password: &str) -> Option<ScramServer> {
        // SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>
        let verifier = scram_sha_256(password.as_bytes());
        let mut parts = verifier.split('$').skip(1);
        let (iterations, salt) = parts.next()?.split_once(':')?;
        let (stored, server) = parts.next()?.split_once(':')?;
        let key = |text: &str| STANDARD.decode(text).ok()?.try_into().ok();
        Some(ScramServer {
            salt: salt.into(),
            iterations: iterations.into(),
            stored_key: key(stored)?,
            server_key: key(server)?,
        })
    }

    /// Reads `SASLInitialResponse` and makes the answer, whose `server_first` is to be sent.
    pub(super) fn challenge(&self, response: Bytes) -> Option<Challenge> {
        let mut cursor = Cursor(response);
        let mechanism = cursor.cstr()?;
        let length = cursor.i32()?;
        let message = cursor.bytes(usize::try_from(length).ok()?)?;
        let message = std::str::from_utf8(&message).ok().filter(|_| mechanism == SCRAM_SHA_256)?;
        // The client may know channel binding and see that we do not (y), or not know it (n).
        let gs2_header = ["n,,", "y,,"].into_iter().find(|header| message.starts_with(header))?;
        let client_first_bare = &message[gs2_header.len()..];
        let client_nonce = attribute(client_first_bare, 'r').filter(|nonce| !nonce.is_empty())?;
        let nonce = format!("{client_nonce}{}", STANDARD.encode(rand::random::<[u8; 18]>()));
        let server_first = format!("r={nonce},s={},i={}", self.salt, self.iterations);
        Some(Challenge {
            gs2_header: gs2_header.into(),
            client_first_bare: client_first_bare.into(),
            nonce,
            server_first,
        })
    }

    /// Reads `SASLResponse`; the answer, to be sent, proves that this end knows the password too.
    pub(super) fn verify(&self, challenge: &Challenge, response: &[u8]) -> Option<String> {
        let message = std::str::from_utf8(response).ok()?;
        let (without_proof, proof) = message.rsplit_once(",p=")?;
        let binding = STANDARD.encode(&challenge.gs2_header);
        let same_exchange =
            attribute(without_proof, 'c') == Some(&binding) && attribute(without_proof, 'r') == Some(&challenge.nonce);
        let proof: [u8; 32] = STANDARD.decode(proof).ok().filter(|_| same_exchange)?.try_into().ok()?;
        let exchange = format!("{},{},{without_proof}", challenge.client_first_bare, challenge.server_first);

        let mut client_key = sign(&self.stored_key, &exchange)?;
        client_key.iter_mut().zip(proof).for_each(|(key, proof)| *key ^= proof);
        let stored_key: [u8; 32] = Sha256::digest(client_key).into();
        // Compared without a shortcut, so that time tells nothing.
        let difference = stored_key.iter().zip(self.stored_key).fold(0, |all, (a, b)| all | (a ^ b));
        let signature = sign(&self.server_key, &exchange)?;
        (difference == 0).then(|| format!("v={}", STANDARD.encode(signature)))
    }
}

impl Challenge {
    pub(super) fn message(&self) -> &str {
        &self.server_first
    }
}

/// The list of mechanisms for `AuthenticationSASL`.
pub(super) fn put_mechanisms(out: &mut BytesMut) {
    crate::frame::put_cstr(out, SCRAM_SHA_256);
    crate::frame::put_cstr(out, "");
}

fn sign(key: &[u8; 32], text: &str) -> Option<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(text.as_bytes());
    Some(mac.finalize().into_bytes().into())
}

fn attribute(message: &str, name: char) -> Option<&str> {
    message.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

    use super::*;
    use crate::frame::put_cstr;

    fn initial(scram: &ScramSha256) -> Bytes {
        let mut out = BytesMut::new();
        put_cstr(&mut out, SCRAM_SHA_256);
        out.put_u32(scram.message().len() as u32);
        out.put_slice(scram.message());
        out.freeze()
    }

    /// The exchange with the client's side of another author.
    fn log_in(theirs: &str, ours: &str) -> Option<bool> {
        let server = ScramServer::new(ours)?;
        let mut client = ScramSha256::new(theirs.as_bytes(), ChannelBinding::unrequested());
        let challenge = server.challenge(initial(&client))?;
        client.update(challenge.message().as_bytes()).ok()?;
        let signature = server.verify(&challenge, client.message())?;
        Some(client.finish(signature.as_bytes()).is_ok())
    }

    #[test]
    fn the_right_password_and_no_other() {
        assert_eq!(log_in("correct horse", "correct horse"), Some(true));
        assert_eq!(log_in("wrong", "correct horse"), None);
        assert_eq!(log_in("", "correct horse"), None);
    }

    #[test]
    fn a_proof_of_another_exchange_is_refused() {
        let server = ScramServer::new("secret").unwrap();
        let mut client = ScramSha256::new(b"secret", ChannelBinding::unrequested());
        let first = server.challenge(initial(&client)).unwrap();
        let second = server.challenge(initial(&client)).unwrap();
        client.update(first.message().as_bytes()).unwrap();
        assert!(server.verify(&second, client.message()).is_none());
        assert!(server.verify(&first, client.message()).is_some());
    }

    #[test]
    fn nonsense_is_refused() {
        let server = ScramServer::new("secret").unwrap();
        let client = ScramSha256::new(b"secret", ChannelBinding::unrequested());
        let whole = initial(&client);
        for length in 0..whole.len() {
            assert!(server.challenge(whole.slice(..length)).is_none(), "{length}");
        }
        let challenge = server.challenge(whole).unwrap();
        for response in [&b""[..], b"\xff", b"c=biws", b"c=biws,r=x,p=AAAA", b",p="] {
            assert!(server.verify(&challenge, response).is_none());
        }
    }
}
