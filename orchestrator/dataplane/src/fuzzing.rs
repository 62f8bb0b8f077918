//! Parsers that are not public, for `fuzz/`. No other caller; not part of the interface.

use std::path::Path;

/// Unpacks a backup's archive into an empty directory and compares it with the manifest in it.
pub fn unpack(archive: &[u8], into: &Path) {
    crate::restore::fuzz_unpack(archive, into);
}
