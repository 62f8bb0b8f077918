//! Damage below the S3 server: in its own store, where Object Lock does not reach.

use serde::Deserialize;

use crate::cloud::server::{FILER_PORT, VOLUME_PORT};
use crate::error::{LabError, Result};
use crate::network::CLOUD_IP;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Folder {
    entries: Option<Vec<Version>>,
}

/// A version of an object, a folder's entry to the store.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    crtime: jiff::Timestamp,
    #[serde(rename = "chunks", default)]
    parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    file_id: String,
}

/// Works on versioned buckets, whose objects are folders of versions.
pub(super) async fn flip_a_bit(bucket: &str, key: &str) -> Result<()> {
    let http = reqwest::Client::new();
    let url = format!("http://{CLOUD_IP}:{FILER_PORT}/buckets/{bucket}/{key}.versions/");
    let answer = http.get(url).header("Accept", "application/json").send().await;
    let folder: Folder = answer
        .and_then(reqwest::Response::error_for_status)
        .map_err(|error| failed(key, &error))?
        .json()
        .await
        .map_err(|error| failed(key, &error))?;
    let versions = folder.entries.unwrap_or_default();
    let oldest = versions.iter().filter(|version| !version.parts.is_empty());
    let oldest = oldest.min_by_key(|version| version.crtime);
    let part = oldest.and_then(|version| version.parts.first());
    let part = part.ok_or_else(|| failed(key, &"it has no stored content"))?;

    let url = format!("http://{CLOUD_IP}:{VOLUME_PORT}/{}", part.file_id);
    let stored = http.get(&url).send().await.map_err(|error| failed(key, &error))?;
    let mut bytes = stored.bytes().await.map_err(|error| failed(key, &error))?.to_vec();
    let middle = bytes.len() / 2;
    let byte = bytes.get_mut(middle).ok_or_else(|| failed(key, &"it is empty"))?;
    *byte ^= 1;
    let (boundary, body) = form(&bytes);
    http.post(&url)
        .header("Content-Type", format!("multipart/form-data; boundary={boundary}"))
        .body(body)
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map(drop)
        .map_err(|error| failed(key, &error))
}

/// A form with one file in it, the only way the store takes content.
fn form(content: &[u8]) -> (&'static str, Vec<u8>) {
    let boundary = "holdfast-lab-6b1f0c2d9a7e";
    let mut body = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"part\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(content);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    (boundary, body)
}

fn failed(key: &str, why: &dyn std::fmt::Display) -> LabError {
    LabError::Store { what: format!("could not damage {key}"), message: why.to_string() }
}
