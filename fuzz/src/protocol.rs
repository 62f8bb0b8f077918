//! The replication protocol, from both ends.

use bytes::Bytes;
use holdfast_protocol::fuzzing;

/// What a server sends to our client.
pub(crate) fn client(data: &[u8]) {
    fuzzing::from_server(&Bytes::copy_from_slice(data));
}

/// What a client sends to our server.
pub(crate) fn server(data: &[u8]) {
    fuzzing::from_client(&Bytes::copy_from_slice(data));
}
