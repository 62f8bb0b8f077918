//! Configuration files, and the archive that a backup is.

use holdfast_dataplane::config::{AgentConfig, ArchiverConfig, RelayConfig, RestoreConfig};
use holdfast_dataplane::fuzzing;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A role's configuration.
pub(crate) fn config(data: &[u8]) {
    round::<AgentConfig>(data);
    round::<ArchiverConfig>(data);
    round::<RelayConfig>(data);
    round::<RestoreConfig>(data);
}

fn round<T: Serialize + DeserializeOwned>(data: &[u8]) {
    if let Ok(config) = serde_json::from_slice::<T>(data) {
        let text = serde_json::to_vec(&config).expect("it came from JSON");
        assert!(serde_json::from_slice::<T>(&text).is_ok());
    }
}

/// A tar archive: nothing is written outside of its folder.
pub(crate) fn tar(data: &[u8]) {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
    let into = folder.path().join("data");
    std::fs::create_dir(&into).expect("a folder");
    fuzzing::unpack(data, &into);
    let beside = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(beside, 1, "only the data directory");
}
