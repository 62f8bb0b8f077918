//! Listings of keys and of versions.

use s3s::S3Result;
use s3s::dto::{
    CommonPrefix, DeleteMarkerEntry, ETag, ListObjectVersionsInput, ListObjectVersionsOutput, ListObjectsV2Input,
    ListObjectsV2Output, Object, ObjectVersion, ObjectVersionStorageClass, Timestamp,
};

use crate::bucket::{Bucket, Version, World};
use crate::fault::Fault;
use crate::operations::last_modified;

const MAX_KEYS: i32 = 1000;

/// A line of a listing of keys.
enum Line {
    Key(Box<Object>),
    Folder(String),
}

impl Line {
    fn place(&self) -> &str {
        match self {
            Line::Key(object) => object.key.as_deref().unwrap_or_default(),
            Line::Folder(folder) => folder,
        }
    }
}

fn page_size(asked: Option<i32>) -> usize {
    asked.unwrap_or(MAX_KEYS).clamp(0, MAX_KEYS) as usize
}

/// The keys that are not hidden by a delete marker, a page of them.
pub(crate) fn keys(bucket: &Bucket, input: &ListObjectsV2Input, world: &World) -> S3Result<ListObjectsV2Output> {
    let prefix = if world.on(Fault::PrefixIgnored) { "" } else { input.prefix.as_deref().unwrap_or_default() };
    let token = input.continuation_token.as_deref().or(input.start_after.as_deref()).unwrap_or_default();
    let from_start = input.continuation_token.is_none() && world.on(Fault::StartAfterIgnored);
    let after = if from_start { "" } else { token };
    let delimiter = input.delimiter.as_deref().filter(|_| !world.on(Fault::FoldersMissing));
    let size = page_size(input.max_keys);
    let mut lines: Vec<Line> = Vec::new();
    let mut more = false;
    for (key, versions) in bucket.visible(Fault::StaleLists, world) {
        let Some(newest) = versions.last().filter(|version| !version.is_marker()) else { continue };
        if !key.starts_with(prefix) {
            continue;
        }
        let line = line_of(key, newest, prefix, delimiter, world);
        let repeated = lines.last().is_some_and(|last| last.place() == line.place());
        if repeated || line.place() <= after || (matches!(line, Line::Folder(_)) && after.starts_with(line.place())) {
            continue;
        }
        if lines.len() == size {
            more = true;
            break;
        }
        lines.push(line);
    }
    let next = lines.last().filter(|_| more).map(|line| line.place().to_owned());
    if world.on(Fault::ListsDropKeys) {
        lines.pop();
    }
    if world.on(Fault::UnsortedLists) {
        lines.reverse();
    }
    Ok(output(input, lines, next))
}

fn line_of(key: &str, version: &Version, prefix: &str, delimiter: Option<&str>, world: &World) -> Line {
    let folder = delimiter.and_then(|delimiter| {
        let end = key[prefix.len()..].find(delimiter)? + prefix.len() + delimiter.len();
        Some(key[..end].to_owned())
    });
    match folder {
        Some(folder) => Line::Folder(folder),
        None => Line::Key(Box::new(Object {
            key: Some(key.to_owned()),
            size: Some(version.body.as_ref().map_or(0, |body| body.len() as i64)),
            last_modified: Some(last_modified(version, world)),
            e_tag: Some(ETag::Strong(version.etag())),
            ..Object::default()
        })),
    }
}

fn output(input: &ListObjectsV2Input, lines: Vec<Line>, next: Option<String>) -> ListObjectsV2Output {
    let (mut contents, mut folders) = (Vec::new(), Vec::new());
    for line in lines {
        match line {
            Line::Key(object) => contents.push(*object),
            Line::Folder(folder) => folders.push(CommonPrefix { prefix: Some(folder) }),
        }
    }
    ListObjectsV2Output {
        name: Some(input.bucket.clone()),
        prefix: input.prefix.clone(),
        max_keys: input.max_keys,
        key_count: Some((contents.len() + folders.len()) as i32),
        is_truncated: Some(next.is_some()),
        next_continuation_token: next,
        contents: Some(contents),
        common_prefixes: Some(folders),
        delimiter: input.delimiter.clone(),
        ..ListObjectsV2Output::default()
    }
}

/// All versions, newest first within a key, a page of them.
pub(crate) fn versions(
    bucket: &Bucket,
    input: &ListObjectVersionsInput,
    world: &World,
) -> S3Result<ListObjectVersionsOutput> {
    let prefix = input.prefix.as_deref().unwrap_or_default();
    let key_marker = input.key_marker.as_deref().unwrap_or_default();
    let id_marker = input.version_id_marker.as_deref().filter(|id| !id.is_empty());
    let size = page_size(input.max_keys);
    let mut output = ListObjectVersionsOutput {
        name: Some(input.bucket.clone()),
        prefix: input.prefix.clone(),
        is_truncated: Some(false),
        ..ListObjectVersionsOutput::default()
    };
    let (mut real, mut markers) = (Vec::new(), Vec::new());
    'all: for (key, versions) in bucket.visible(Fault::StaleVersionLists, world) {
        if !key.starts_with(prefix) || key.as_str() < key_marker || (key == key_marker && id_marker.is_none()) {
            continue;
        }
        let mut skipping = id_marker.filter(|_| key == key_marker);
        for (version, latest) in shown(&versions, world) {
            if let Some(id) = skipping {
                skipping = (version.id != id).then_some(id);
                continue;
            }
            if real.len() + markers.len() == size {
                output.is_truncated = Some(true);
                break 'all;
            }
            output.next_key_marker = Some(key.clone());
            output.next_version_id_marker = Some(version.id.clone());
            match version.is_marker() {
                true => markers.push(marker_entry(key, version, latest, world)),
                false => real.push(entry(key, version, latest, world)),
            }
        }
    }
    if output.is_truncated == Some(false) {
        (output.next_key_marker, output.next_version_id_marker) = (None, None);
    }
    (output.versions, output.delete_markers) = (Some(real), Some(markers));
    Ok(output)
}

/// The versions of one key as they are listed, each with whether it is the newest.
fn shown<'a>(versions: &[&'a Version], world: &World) -> Vec<(&'a Version, bool)> {
    let last = versions.len().saturating_sub(1);
    let mut shown: Vec<_> = versions.iter().enumerate().map(|(n, version)| (*version, n == last)).rev().collect();
    if world.on(Fault::MarkerHidesVersions) && shown.first().is_some_and(|(version, _)| version.is_marker()) {
        shown.truncate(1);
    }
    if world.on(Fault::VersionListsCut) {
        shown.truncate(1);
    }
    if world.on(Fault::MarkersNotListed) {
        shown.retain(|(version, _)| !version.is_marker());
    }
    if world.on(Fault::VersionOrderLies) {
        shown.reverse();
        let last = shown.len();
        shown.iter_mut().enumerate().for_each(|(n, line)| line.1 = n == 0 && last > 0);
    }
    shown
}

fn listed_time(version: &Version, world: &World) -> Timestamp {
    if world.on(Fault::LastModifiedDiffers) {
        let later = version.at + std::time::Duration::from_secs(7200);
        return Timestamp::from(std::time::SystemTime::from(later));
    }
    last_modified(version, world)
}

fn entry(key: &str, version: &Version, latest: bool, world: &World) -> ObjectVersion {
    ObjectVersion {
        key: Some(key.to_owned()),
        version_id: Some(version.id.clone()),
        is_latest: Some(latest),
        size: Some(version.body.as_ref().map_or(0, |body| body.len() as i64)),
        last_modified: Some(listed_time(version, world)),
        e_tag: Some(ETag::Strong(version.etag())),
        storage_class: Some(ObjectVersionStorageClass::from_static(ObjectVersionStorageClass::STANDARD)),
        ..ObjectVersion::default()
    }
}

fn marker_entry(key: &str, version: &Version, latest: bool, world: &World) -> DeleteMarkerEntry {
    DeleteMarkerEntry {
        key: Some(key.to_owned()),
        version_id: Some(version.id.clone()),
        is_latest: Some(latest),
        last_modified: Some(listed_time(version, world)),
        ..DeleteMarkerEntry::default()
    }
}
