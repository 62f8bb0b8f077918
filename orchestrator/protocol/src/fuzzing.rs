//! Parsers that are not public, for `fuzz/`. No other caller; not part of the interface.

use bytes::Bytes;
use futures::executor::block_on;

use crate::frame::{Frame, FrameReader};
use crate::message::{ReceiverMessage, SenderMessage};
use crate::{client, server};

/// Small, so that a length above it is soon found.
const LIMIT: usize = 64 * 1024;

/// Messages that came from a server, each read as everything that a client may take it for.
pub fn from_server(bytes: &Bytes) {
    for frame in frames(bytes) {
        let _ = SenderMessage::read(frame.body.clone());
        client::fuzz_read(&frame.body);
    }
}

/// What came from a client: start-up packets, then messages.
pub fn from_client(bytes: &Bytes) {
    let mut reader = FrameReader::new(&bytes[..], LIMIT);
    while let Ok(Some(packet)) = block_on(reader.next_untagged()) {
        assert!(packet.len() <= LIMIT);
        server::fuzz_read(&packet);
    }
    for frame in frames(bytes) {
        let _ = ReceiverMessage::read(frame.body.clone());
        server::fuzz_read(&frame.body);
    }
}

fn frames(bytes: &Bytes) -> Vec<Frame> {
    let mut reader = FrameReader::new(&bytes[..], LIMIT);
    let mut frames = Vec::new();
    while let Ok(Some(frame)) = block_on(reader.next()) {
        assert!(frame.body.len() <= LIMIT);
        frames.push(frame);
    }
    frames
}
