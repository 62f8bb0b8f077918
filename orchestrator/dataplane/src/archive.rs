//! How a base backup lies in the vault: PostgreSQL's own tar archive, then its manifest as entries of a folder that no
//! data directory has. One stream, cut into parts.

use std::io;

/// The manifest's pieces, in order, are files in here.
pub(crate) const MANIFEST_FOLDER: &str = ".holdfast-backup-manifest";

/// One piece of the manifest as a tar entry. Pieces keep memory bounded: an entry's size comes before its content.
pub(crate) fn manifest_entry(index: u32, piece: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_path(format!("{MANIFEST_FOLDER}/{index:08}"))?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o600);
    header.set_size(piece.len() as u64);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::with_capacity(piece.len() + 2048));
    builder.append(&header, piece)?;
    builder.into_inner()
}
