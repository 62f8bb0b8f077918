//! Vault: a bucket with Object Lock, and the keys to it.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::common::{Problem, SecretReference, date_time};
use crate::condition::{Condition, Conditioned};

/// The retention of chunks where the spec says none, in days.
const DEFAULT_CHUNK_RETENTION_DAYS: u32 = 7;

/// Annotation of a Vault: each new value makes the operator probe the lock at once, e.g.
/// `kubectl annotate --overwrite vault hospital holdfast.dev/check-now="$(date)"`.
pub const CHECK_NOW_ANNOTATION: &str = "holdfast.dev/check-now";

/// Annotation of a Vault: each new value makes the operator begin a pass over everything that is stored, at once or after
/// the pass that is under way, e.g. `kubectl annotate --overwrite vault hospital holdfast.dev/verify-now="$(date)"`.
pub const VERIFY_NOW_ANNOTATION: &str = "holdfast.dev/verify-now";

/// Where the databases' log and backups are stored, and who can decrypt them.
///
/// The bucket must have versioning and Object Lock. What is stored is never overwritten, and nobody
/// can delete it before its retention has passed. Deleting a Vault object deletes nothing in the bucket.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "Vault",
    plural = "vaults",
    namespaced,
    status = "VaultStatus",
    shortname = "hfv",
    category = "holdfast",
    derive = "PartialEq",
    doc = "A bucket with Object Lock, the credentials for it, and the keys that its content is encrypted to.",
    validation = Rule::new("size(self.metadata.name) <= 52").message("the name of a Vault has at most 52 characters"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Lock", type_ = "string", description = "Whether a lock was tried and held", json_path = ".status.conditions[?(@.type==\"LockEnforced\")].status"),
    printcolumn(name = "Intact", type_ = "string", description = "Whether everything that is stored was found sound", json_path = ".status.conditions[?(@.type==\"Intact\")].status"),
    printcolumn(name = "Escrow", type_ = "string", description = "Whether more than one key can decrypt", json_path = ".status.conditions[?(@.type==\"EscrowConfigured\")].status"),
    printcolumn(name = "Bucket", type_ = "string", json_path = ".spec.bucket"),
    printcolumn(name = "Retention", type_ = "integer", description = "Days", json_path = ".spec.retentionDays"),
    printcolumn(name = "Checked", type_ = "date", json_path = ".status.lastChecked"),
    printcolumn(name = "Verified", type_ = "date", priority = 1, description = "When the last pass over everything ended", json_path = ".status.verification.lastCompleted"),
    printcolumn(name = "Message", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type==\"Ready\")].message")
)]
#[x_kube(
    validation = Rule::new("self.bucket == oldSelf.bucket").message("bucket cannot change: what is stored stays where it is; create another Vault").field_path(".bucket"),
    validation = Rule::new("self.prefix == oldSelf.prefix").message("prefix cannot change: what is stored stays where it is; create another Vault").field_path(".prefix"),
    validation = Rule::new("self.retentionDays >= oldSelf.retentionDays").message("retentionDays can only grow").field_path(".retentionDays"),
    validation = Rule::new("!has(self.chunkRetentionDays) || self.chunkRetentionDays <= self.retentionDays").message("chunkRetentionDays must not be above retentionDays").field_path(".chunkRetentionDays"),
    validation = Rule::new("!has(oldSelf.chunkRetentionDays) || (has(self.chunkRetentionDays) && self.chunkRetentionDays >= oldSelf.chunkRetentionDays)").message("chunkRetentionDays can only grow").field_path(".chunkRetentionDays")
)]
#[serde(rename_all = "camelCase")]
pub struct VaultSpec {
    /// URL of the S3 service, e.g. `https://s3.example.org`. Left out: AWS, by region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = r"^https?://[^/\s]+/?$"))]
    pub endpoint: Option<String>,
    /// Region of the bucket.
    #[serde(default = "default_region")]
    #[schemars(length(min = 1, max = 64))]
    pub region: String,
    /// Name of the bucket. It must exist, with versioning and Object Lock.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))]
    pub bucket: String,
    /// Everything is stored under this prefix, so that several hospitals can share a bucket.
    /// No slash at either end; empty for none.
    #[serde(default)]
    #[schemars(length(max = 256), regex(pattern = r"^$|^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$"))]
    pub prefix: String,
    /// What the store knows this site by: a Secret with keys, or a role that the cluster's service accounts may take.
    pub credentials: VaultCredentials,
    /// The proxy that the store is reached through. Left out: none, or the one that the environment of the operator names,
    /// for the operator alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// How the store's certificate is checked. Left out: by the authorities of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// For how many days every object but a chunk of the log is locked from the moment it is stored. It can grow, never
    /// shrink.
    #[schemars(range(min = 1, max = 36500))]
    pub retention_days: u32,
    /// For how many days a chunk of the log is locked. WAL segments, which are locked for `retentionDays`, take the
    /// place of chunks within that time. It can grow, never shrink. Left out: 7, or `retentionDays` if that is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 36500))]
    pub chunk_retention_days: Option<u32>,
    /// To whom everything is encrypted before it leaves the site.
    pub encryption: Encryption,
    /// Whose objects are believed: the writer keys of all sites, this one's among them. List them in the Vaults of all
    /// sites before the first database is protected: what was stored before without a key does not count afterwards.
    /// Empty: everybody who can write to the bucket is believed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub writers: Vec<Writer>,
    /// Secret with the key `writer` (`HOLDFAST-WRITER-KEY-1...`): this site's writer key, which vouches for what the site
    /// stores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing: Option<SecretReference>,
    /// A prefix of the same bucket that belongs to somebody else, such as another hospital's, or a database's that another
    /// site writes (`<prefix>/v1/db/pharmacy/`). The lock probe tries to read from it, and must be refused. Left out: nothing
    /// is tried there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*/?$"))]
    pub foreign_prefix: Option<String>,
    /// How the operator proves again and again that what is stored can be restored.
    #[serde(default)]
    pub verification: Verification,
}

impl VaultSpec {
    /// For how many days a chunk is locked: what the spec says, else 7; never more than the retention.
    pub fn chunk_retention_days(&self) -> u32 {
        self.chunk_retention_days.unwrap_or(DEFAULT_CHUNK_RETENTION_DAYS).min(self.retention_days)
    }
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

/// What the store knows this site by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.secretName) != has(self.webIdentity)").message("credentials are either secretName or webIdentity")
)]
#[serde(rename_all = "camelCase")]
pub struct VaultCredentials {
    /// Secret with the keys `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, and `AWS_SESSION_TOKEN` when they are lent for a
    /// while. What changes in it counts within minutes and without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// A role that is taken with the tokens that the cluster gives its pods, so that there is no key to keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web_identity: Option<WebIdentity>,
}

/// A role for service accounts. The tokens are for the audience `sts.amazonaws.com` and worth nothing at the API server. The
/// role must trust the operator's service account (`holdfast-system/holdfast-operator`) and that of the pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebIdentity {
    /// The role, e.g. `arn:aws:iam::123456789012:role/hospital-primary-writer`.
    #[schemars(
        length(min = 1, max = 2048),
        regex(pattern = r"^arn:[a-z0-9-]+:iam::[0-9]*:role/[A-Za-z0-9_+=,.@/-]+$")
    )]
    pub role_arn: String,
    /// The service account of this namespace that agents, relays, archivers and restores run as. It must exist.
    #[serde(default = "default_service_account")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: String,
    /// URL of the service that trades tokens for credentials. Left out: that of AWS in the vault's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = r"^https?://[^/\s]+(/\S*)?$"))]
    pub sts_endpoint: Option<String>,
}

fn default_service_account() -> String {
    "default".to_owned()
}

/// A way out of the site. The operator and every pod that it makes for this Vault take it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proxy {
    /// Where it is, e.g. `http://proxy.hospital.example:3128`. It sees the store's name and, where the endpoint is `http`,
    /// everything.
    #[schemars(length(max = 1024), regex(pattern = r"^https?://[^/\s@]+/?$"))]
    pub url: String,
    /// Hosts that are reached without it: names, domains (`.example.org`), addresses and networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub no_proxy: Vec<String>,
}

/// TLS to the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Certificates (PEM) of authorities that the store's certificate may come from, besides those of the image.
    #[schemars(length(min = 1, max = 65536))]
    #[x_kube(validation = Rule::new("self.contains('-----BEGIN CERTIFICATE-----')").message("caBundle is PEM: it begins with -----BEGIN CERTIFICATE-----"))]
    pub ca_bundle: String,
}

/// Encryption in the age format: writers hold public keys only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// Public keys (`age1...`). Name at least two: the standby site's, and one whose private half lies
    /// in a safe, so that one lost key does not lose the data.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = Rule::new("self.all(r, r.startsWith('age1'))").message("a recipient is an age public key; it begins with age1"))]
    #[schemars(inner(length(min = 4, max = 128)))]
    pub recipients: Vec<String>,
    /// Secret with the key `identity` (`AGE-SECRET-KEY-1...`): the private key of one recipient. The
    /// standby site needs it; the primary site must not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<SecretReference>,
}

/// A site's writer key, as readers know it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Writer {
    /// A name for it: which site's key, and from when.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
    pub name: String,
    /// The public key, as `holdfast keys show` prints it.
    #[schemars(length(min = 74, max = 74), regex(pattern = r"^holdfast-writer1[ac-hj-np-z02-9]{58}$"))]
    pub public_key: String,
    /// Revokes the key: what the store says that it stored after this time does not count. Left out: the key is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub not_after: Option<Timestamp>,
}

/// Passes over everything that is stored: each object's header, signature, place in its chain, versions and lock, and of
/// some or all objects the body, which is decrypted and decompressed where the Vault has an `encryption.identity`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// Begin no pass, and stop the one that is under way.
    #[serde(default)]
    pub suspend: bool,
    /// Hours from the beginning of one pass to the beginning of the next. A pass that takes longer is followed by the next
    /// at once.
    #[serde(default = "default_verification_hours")]
    #[schemars(range(min = 1, max = 720))]
    pub interval_hours: u32,
    /// Of how many objects the body and the lock are read, in per cent; chosen anew in each pass. Headers and versions are
    /// always looked at. While something is wrong every body is read, so that bad luck does not hide it again. Left out:
    /// 100 where the Vault has an `encryption.identity`, else 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub sample_percent: Option<u32>,
    /// How much is read in a second, in MiB (2^20 bytes), on the average of some seconds. Many stores charge for reading.
    #[serde(default = "default_verification_rate")]
    #[schemars(range(min = 1, max = 10240))]
    pub mebibytes_per_second: u32,
}

impl Default for Verification {
    fn default() -> Self {
        Self {
            suspend: false,
            interval_hours: default_verification_hours(),
            sample_percent: None,
            mebibytes_per_second: default_verification_rate(),
        }
    }
}

fn default_verification_hours() -> u32 {
    24
}

fn default_verification_rate() -> u32 {
    16
}

/// What the passes over everything that is stored have found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerificationStatus {
    /// When the last pass began. Later than `lastCompleted`: it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub started: Option<Timestamp>,
    /// When the last complete pass ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub last_completed: Option<Timestamp>,
    /// The value of the annotation `holdfast.dev/verify-now` that the last pass answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<String>,
    /// Objects that were looked at, in all parts.
    #[serde(default)]
    pub objects: i64,
    /// Bytes that were read, in all parts.
    #[serde(default)]
    pub bytes: i64,
    /// What is wrong, in all parts: how many findings.
    #[serde(default)]
    pub findings: i64,
    /// Each database in the vault that these credentials may read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub databases: Vec<VerifiedPart>,
    /// Journals, plans and evidence, which belong to no database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<VerifiedPart>,
    /// The key of the object of evidence that the last complete pass left in the vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// Why it left none, when it did not: these credentials may only read, for example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence_problem: Option<String>,
    /// Why the pass does not go on. It is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// What was found in a part of a vault.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedPart {
    /// The database's name in the vault.
    pub name: String,
    /// When all of it had been looked at. Earlier than the beginning of the pass: what follows is of an earlier pass, or of
    /// what has been looked at so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub completed: Option<Timestamp>,
    /// Objects that were looked at.
    #[serde(default)]
    pub objects: i64,
    /// Of these, objects whose body was read.
    #[serde(default)]
    pub bodies: i64,
    /// Bytes that were read.
    #[serde(default)]
    pub bytes: i64,
    /// How many findings there are.
    #[serde(default)]
    pub findings: i64,
    /// What is worst: which object, what is wrong with it, which moments cannot be restored for it, what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst: Option<Problem>,
}

/// What was found out about the bucket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VaultStatus {
    /// `metadata.generation` of the spec that was checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When the bucket was checked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub last_checked: Option<Timestamp>,
    /// When the lock was probed last: everything tried that whoever stole the credentials would try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub last_probed: Option<Timestamp>,
    /// The value of the annotation `holdfast.dev/check-now` that the last probe answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_answered: Option<String>,
    /// Key of the object in the vault that records the last probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// The store's clock minus this site's, in seconds. Holdfast relies on neither; certificates do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_skew_seconds: Option<i64>,
    /// What the passes over everything that is stored have found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<VerificationStatus>,
    /// Ready, LockEnforced, ClockInSync, EscrowConfigured, KeysApart, WritersTrusted, Intact.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    pub conditions: Vec<Condition>,
}

impl Conditioned for VaultStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    fn set_conditions(&mut self, conditions: Vec<Condition>) {
        self.conditions = conditions;
    }
}
