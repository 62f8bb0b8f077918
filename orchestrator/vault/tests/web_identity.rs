//! Credentials for a cluster's tokens, from a real STS: SeaweedFS' own, which asks an issuer that the test is for its keys.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_types::base64;
use bytes::Bytes;
use common::{Fixture, ORIGIN, SYSTEM, append, create_bucket, durable, origin, s3_client, small_segments, wal};
use holdfast_test_postgres::SeaweedFS;
use holdfast_vault::store::{S3Store, Store};
use holdfast_vault::{
    ClaimError, ClaimOptions, CredentialsSource, ProbeOptions, StoreError, StoreErrorKind, Vault, VaultConfig,
    VaultError,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const BUCKET: &str = "holdfast";
/// What the operator has tokens projected for, and whom Terraform's roles trust.
const AUDIENCE: &str = "sts.amazonaws.com";
const SUBJECT: &str = "system:serviceaccount:hospital:holdfast";
/// For what comes by itself, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster's issuer of tokens: it publishes its key and signs with it, as an API server does.
struct Issuer {
    dir: TempDir,
    url: String,
}

impl Issuer {
    async fn start() -> Issuer {
        let dir = tempfile::tempdir().unwrap();
        for key in ["own", "foreign"] {
            openssl(&["genrsa", "-out", dir.path().join(key).to_str().unwrap(), "2048"], b"");
        }
        let modulus = openssl(&["rsa", "-noout", "-modulus", "-in", dir.path().join("own").to_str().unwrap()], b"");
        let modulus = String::from_utf8(modulus).unwrap().trim().replace("Modulus=", "");
        let modulus = url_safe(&hex::decode(modulus).unwrap());
        // 65537, as openssl makes them.
        let key = json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "own", "n": modulus, "e": "AQAB"});
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let discovery = json!({"issuer": url, "jwks_uri": format!("{url}/keys"),
            "id_token_signing_alg_values_supported": ["RS256"], "subject_types_supported": ["public"],
            "response_types_supported": ["id_token"]});
        tokio::spawn(publish(listener, discovery, json!({"keys": [key]})));
        Issuer { dir, url }
    }

    /// What a token of a pod says that is good for an hour.
    fn claims(&self) -> Value {
        let now = Timestamp::now().as_second();
        json!({"iss": self.url, "aud": [AUDIENCE], "sub": SUBJECT, "iat": now - 60, "exp": now + 3600})
    }

    /// Signs with the issuer's `own` key, or passes a `foreign` one off as it.
    fn sign(&self, key: &str, claims: &Value) -> String {
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": "own"});
        let text = [&header, claims].map(|part| url_safe(part.to_string().as_bytes())).join(".");
        let key = self.dir.path().join(key);
        let signature = openssl(&["dgst", "-sha256", "-sign", key.to_str().unwrap(), "-binary"], text.as_bytes());
        format!("{text}.{}", url_safe(&signature))
    }

    fn token(&self) -> String {
        self.sign("own", &self.claims())
    }

    /// One whose time was over a minute ago.
    fn expired_token(&self) -> String {
        let mut claims = self.claims();
        claims["exp"] = json!(Timestamp::now().as_second() - 60);
        self.sign("own", &claims)
    }
}

fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("this test signs tokens with openssl");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn url_safe(bytes: &[u8]) -> String {
    base64::encode(bytes).trim_end_matches('=').replace('+', "-").replace('/', "_")
}

/// Answers `/.well-known/openid-configuration` and `/keys`.
async fn publish(listener: TcpListener, discovery: Value, keys: Value) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = [&discovery, &keys].map(Value::to_string);
        tokio::spawn(async move {
            let (mut request, mut buffer) = (String::new(), [0; 4096]);
            while !request.contains("\r\n\r\n") {
                match stream.read(&mut buffer).await {
                    Ok(read @ 1..) => request += &String::from_utf8_lossy(&buffer[..read]),
                    _ => return,
                }
            }
            let body = &answer[usize::from(request.starts_with("GET /keys "))];
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ";
            let _ = stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await;
        });
    }
}

/// Passes everything on to the server and remembers it: each connection's requests and answers.
struct Wire {
    url: String,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Wire {
    async fn to(server: &SeaweedFS) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = server.endpoint().trim_start_matches("http://").to_owned();
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let remembered = heard.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass(from_client, to_server, remembered.clone()));
                tokio::spawn(pass(from_server, to_client, remembered.clone()));
            }
        });
        Wire { url, heard }
    }

    /// Each text that stands between the two, wherever that is.
    fn between(&self, before: &str, after: &str) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        let pieces = heard.iter().flat_map(|text| text.split(before).skip(1));
        pieces.filter_map(|piece| Some(piece.split_once(after)?.0.to_owned())).collect()
    }

    /// The access keys that requests were signed with. All of them carried a session's token, under the signature.
    fn keys(&self) -> BTreeSet<String> {
        let signatures = self.between("AWS4-HMAC-SHA256 Credential=", "Signature=");
        assert!(signatures.iter().all(|signed| signed.contains("x-amz-security-token")), "{signatures:?}");
        signatures.iter().map(|signed| signed.split_once('/').unwrap().0.to_owned()).collect()
    }

    /// What the STS gave last.
    fn newest_session(&self) -> CredentialsSource {
        let part = |session: &str, name: &str| {
            let (_, rest) = session.split_once(&format!("<{name}>")).unwrap();
            rest.split_once('<').unwrap().0.to_owned()
        };
        let sessions = self.between("<Credentials>", "</Credentials>");
        let newest = sessions.iter().max_by_key(|session| part(session, "Expiration")).unwrap();
        CredentialsSource::Temporary {
            access_key_id: part(newest, "AccessKeyId"),
            secret_access_key: part(newest, "SecretAccessKey"),
            session_token: part(newest, "SessionToken"),
        }
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, heard: Arc<Mutex<Vec<String>>>) {
    let mut buffer = vec![0; 64 * 1024];
    let place = {
        let mut heard = heard.lock().unwrap();
        heard.push(String::new());
        heard.len() - 1
    };
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        heard.lock().unwrap()[place] += &String::from_utf8_lossy(&buffer[..read]);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// A bucket whose server trusts a cluster's issuer, and what was said to it.
struct Site {
    weed: SeaweedFS,
    wire: Wire,
    issuer: Issuer,
}

impl Site {
    /// Sessions last so long.
    async fn start(session: &str) -> Site {
        let issuer = Issuer::start().await;
        let weed = SeaweedFS::start_with_roles(&roles(&issuer.url, session).to_string());
        create_bucket(&weed, BUCKET).await;
        let wire = Wire::to(&weed).await;
        Site { weed, wire, issuer }
    }

    /// A pod's file with this token, which is exchanged as a whole, as the kubelet does it.
    fn token_file(&self, name: &str, token: &str) -> PathBuf {
        let file = self.issuer.dir.path().join(format!("{name}.token"));
        let new = file.with_extension("new");
        fs::write(&new, token).unwrap();
        fs::rename(new, &file).unwrap();
        file
    }

    fn config(&self, role: &str, token_file: PathBuf) -> VaultConfig {
        let url = Some(self.wire.url.parse().unwrap());
        let role_arn = arn(role);
        let credentials = CredentialsSource::WebIdentity { role_arn, token_file, sts_endpoint: url.clone() };
        let config = VaultConfig { endpoint: url, prefix: "t".into(), ..VaultConfig::new(BUCKET, credentials) };
        VaultConfig { retention_days: 2, chunk_retention_days: 1, ..config }
    }
}

fn arn(role: &str) -> String {
    format!("arn:aws:iam::000000000000:role/{role}")
}

/// The server's configuration: the issuer, and the roles that its service account may take.
fn roles(issuer: &str, session: &str) -> Value {
    let trust = json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": {"Federated": "cluster"}, "Action": ["sts:AssumeRoleWithWebIdentity"],
        "Condition": {"StringEquals": {"oidc:sub": SUBJECT}},
    }]});
    let role =
        |name: &str| json!({"roleName": name, "roleArn": arn(name), "trustPolicy": trust, "attachedPolicies": [name]});
    let policy =
        |name: &str, rights: Value| json!({"name": name, "document": {"Version": "2012-10-17", "Statement": rights}});
    json!({
        "sts": {
            "tokenDuration": session, "maxSessionLength": "12h",
            "issuer": "the-store", "signingKey": base64::encode([7; 32]),
        },
        "providers": [{
            "name": "cluster", "type": "oidc", "enabled": true, "config": {"issuer": issuer, "clientId": AUDIENCE},
        }],
        "policy": {"defaultEffect": "Deny", "storeType": "memory"},
        "roleStore": {"storeType": "memory"},
        "roles": [role("writer"), role("reader")],
        "policies": [policy("writer", json!([create(), read(), list(), settings()])),
            policy("reader", json!([read(), list(), settings()]))],
    })
}

// The rights that `terraform/modules/vault-policy` gives to who protects `billing`, and to who reads it.

fn create() -> Value {
    let folders = ["db/billing/identity", "db/billing/log/*", "db/billing/backup/*", "probe/*", "evidence/*"];
    let objects = folders.map(|folder| format!("arn:aws:s3:::{BUCKET}/t/v1/{folder}"));
    json!({"Effect": "Allow", "Action": ["s3:PutObject", "s3:PutObjectRetention"], "Resource": objects})
}

const READ: [&str; 3] = ["db/billing/*", "probe/*", "evidence/*"];

fn read() -> Value {
    let objects = READ.map(|folder| format!("arn:aws:s3:::{BUCKET}/t/v1/{folder}"));
    let actions = ["s3:GetObject", "s3:GetObjectRetention", "s3:GetObjectVersion"];
    json!({"Effect": "Allow", "Action": actions, "Resource": objects})
}

fn list() -> Value {
    let prefixes = READ.map(|folder| format!("t/v1/{folder}"));
    json!({
        "Effect": "Allow", "Action": ["s3:ListBucket", "s3:ListBucketVersions"],
        "Resource": [format!("arn:aws:s3:::{BUCKET}")], "Condition": {"StringLike": {"s3:prefix": prefixes}},
    })
}

fn settings() -> Value {
    let actions = ["s3:GetBucketObjectLockConfiguration", "s3:GetBucketVersioning", "s3:GetLifecycleConfiguration"];
    json!({"Effect": "Allow", "Action": actions, "Resource": [format!("arn:aws:s3:::{BUCKET}")]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_does_what_it_was_given_and_nothing_else() {
    let site = Site::start("1h").await;
    let token = site.token_file("pod", &site.issuer.token());
    let writing = Fixture::new(Vault::open(site.config("writer", token.clone())).unwrap(), small_segments()).await;
    let end = writing.protected_once().await;
    let read = writing.read(ORIGIN, end).await;
    assert_eq!(read, wal(ORIGIN, (end.0 - ORIGIN.0) as usize, 7));
    assert_eq!(site.wire.keys().len(), 1, "one session serves all requests");

    let others = s3_client(&site.weed).put_object().bucket(BUCKET).key("other/v1/db/lab/identity");
    others.body(Bytes::from_static(b"x").into()).send().await.unwrap();
    let other = ProbeOptions { other_prefix: Some("other/".into()) };
    let probe = writing.vault.probe_lock(&other).await.unwrap();
    let not_refused = probe.attempts.iter().filter(|tried| tried.outcome.name() != "refused");
    let not_refused: Vec<_> = not_refused.map(|tried| (tried.attempt.name(), tried.outcome.name())).collect();
    // As for a writer with keys, but that a role's rights do end at its prefix.
    let expected = [("overwrite", "harmless"), ("put-unlocked", "limit"), ("expiring-rules", "harmless")];
    assert_eq!(not_refused, expected, "{probe:#?}");

    // The same account in another role: it reads, and what it may not do is named.
    let reading = Vault::open(site.config("reader", token)).unwrap().database("billing").unwrap();
    assert_eq!(reading.identity().await.unwrap().unwrap().system_id, SYSTEM);
    let error = reading.claim(&origin(), &writing.recipients, ClaimOptions::default()).await.unwrap_err();
    let ClaimError::Vault(VaultError::Store(error)) = error else { panic!("{error}") };
    assert_eq!((error.kind, error.operation), (StoreErrorKind::Denied, "PutObject"), "{error}");
    assert!(error.target.starts_with("holdfast/t/v1/db/billing/log/"), "{error}");
    assert!(error.hint().contains("grant these credentials this operation"), "{}", error.hint());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_is_followed_by_another_without_a_restart() {
    // The client wants another one in the last five to ten seconds of each.
    let site = Site::start("12s").await;
    let token = site.token_file("pod", &site.issuer.token());
    let config = site.config("writer", token);
    let fixture = Fixture::new(Vault::open(config.clone()).unwrap(), small_segments()).await;
    let (start, writer) = fixture.writer().await;
    let mut end = append(&writer, start, 4096, 4096, 1).await;
    durable(&writer, end).await;
    // Somebody listened, and has what a session of the writer's was given: it is good until that ends.
    let key = "t/v1/db/billing/identity";
    let stolen = until(async || {
        let credentials = site.wire.newest_session();
        let store = S3Store::new(VaultConfig { credentials, ..config.clone() }).unwrap();
        store.get(key).await.ok().flatten().map(|_| store)
    })
    .await;

    // Nobody exchanged the file in time: the next session is refused, and commits wait.
    site.token_file("pod", &site.issuer.expired_token());
    let refused = |error: &VaultError| error.reason() == "BadCredentials";
    let error = until(async || fixture.vault.check().await.err().filter(refused)).await;
    assert!(error.to_string().contains("400 ExpiredToken"), "{error}");
    end = append(&writer, end, 4096, 4096, 1).await;
    fixture.vault.check().await.unwrap_err();
    assert!(writer.state().borrow().durable < end);

    // Somebody does: everything goes on by itself, and so it does at the end of each session.
    site.token_file("pod", &site.issuer.token());
    let known = site.wire.keys();
    durable(&writer, end).await;
    until(async || {
        end = append(&writer, end, 4096, 4096, 1).await;
        durable(&writer, end).await;
        (site.wire.keys().len() >= known.len() + 2).then_some(())
    })
    .await;
    assert_eq!(fixture.read(start, end).await, wal(start, (end.0 - start.0) as usize, 1));
    writer.close().await;

    let refused = |error: &StoreError| error.kind == StoreErrorKind::Credentials;
    until(async || stolen.get(key).await.err().filter(refused)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_believed_is_told_with_what_to_do() {
    let site = Site::start("1h").await;
    let issuer = &site.issuer;
    let changed = |name: &str, value: Value| {
        let mut claims = issuer.claims();
        claims[name] = value;
        issuer.sign("own", &claims)
    };
    for (name, role, token, said) in [
        ("issuer", "writer", changed("iss", json!("http://127.0.0.1:9")), "403 AccessDenied"),
        ("audience", "writer", changed("aud", json!(["https://kubernetes.default.svc"])), "invalid token audience"),
        ("expired", "writer", issuer.expired_token(), "400 ExpiredToken"),
        ("account", "writer", changed("sub", json!("system:serviceaccount:kitchen:default")), "403 AccessDenied"),
        ("signature", "writer", issuer.sign("foreign", &issuer.claims()), "signature is invalid"),
        ("nonsense", "writer", "no token at all".to_owned(), "403 AccessDenied"),
        ("role", "janitor", issuer.token(), "role not found: janitor"),
    ] {
        let config = site.config(role, site.token_file(name, &token));
        let error = Vault::open(config).unwrap().check().await.unwrap_err();
        let text = error.to_string();
        for part in [BUCKET, &site.wire.url, &arn(role), said] {
            assert!(text.contains(part), "{name}: no {part} in: {text}");
        }
        assert_eq!(error.reason(), "BadCredentials", "{name}");
        assert!(error.hint().contains("this cluster's issuer, the audience"), "{}", error.hint());
        assert!(!text.contains(&token) && !text.contains("not enabled"), "{name}: {text}");
    }
    assert!(site.wire.keys().is_empty(), "no request without credentials");
}

/// Asks until there is an answer.
async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            match ask().await {
                Some(answer) => return answer,
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    timeout(PATIENCE, asking).await.expect("in time")
}
