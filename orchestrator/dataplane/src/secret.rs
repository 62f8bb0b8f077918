//! Reading mounted secrets.

use std::path::Path;

/// The file's text without its last line end; the error says which file.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}
