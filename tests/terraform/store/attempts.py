"""What each role tries on a real store, and what must come of it."""

import base64
import dataclasses
import datetime
import hashlib

ROOT = "hospital/v1"
BILLING = f"{ROOT}/db/hospital-billing"
CLINIC = f"{ROOT}/db/clinic-records"
CHUNK = "log/0000000000000001/0000000001000000"

# Objects that lie in each bucket before the attempts, put by the administrator without a lock: whatever keeps them is the policy.
PREPARED = [
    f"{BILLING}/{CHUNK}", f"{BILLING}/identity", f"{BILLING}/backup/b1/manifest", f"{BILLING}/segment/1/0000000001000000",
    f"{BILLING}/index/0000000000000001", f"{CLINIC}/{CHUNK}", f"{ROOT}/evidence/lock-probe/1", f"{ROOT}/plan/hospital/1",
    f"{ROOT}/run/r1/00000000",
]
# As above, but in GOVERNANCE mode: the right to bypass is all that keeps it from being deleted.
GOVERNED = f"{BILLING}/log/0000000000000001/0000000002000000"


@dataclasses.dataclass
class Attempt:
    """One request. `send(client, versions)` makes it; `versions` are the ids of the prepared objects, by key."""

    role: str
    name: str
    send: object
    secure: bool = True


def in_days(days):
    return (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


def lock(days=90, mode="COMPLIANCE"):
    return {"x-amz-object-lock-mode": mode, "x-amz-object-lock-retain-until-date": in_days(days)}


def put(key, **headers):
    headers = {"if-none-match": "*", **lock(), **{name.replace("_", "-"): value for name, value in headers.items()}}
    return lambda client, versions: client.request("PUT", key, headers=headers, body=b"sealed")


def get(key):
    return lambda client, versions: client.request("GET", key)


def get_version(key):
    return lambda client, versions: client.request("GET", key, query={"versionId": versions[key]})


def retention_of(key):
    return lambda client, versions: client.request("GET", key, query={"retention": "", "versionId": versions[key]})


def list_objects(prefix):
    query = {"list-type": "2"} if prefix is None else {"list-type": "2", "prefix": prefix}
    return lambda client, versions: client.request("GET", query=query)


def list_versions(prefix):
    return lambda client, versions: client.request("GET", query={"versions": "", "prefix": prefix})


def ask(setting):
    return lambda client, versions: client.request("GET", query={setting: ""})


def delete(key, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda client, versions: client.request("DELETE", key, query={"versionId": versions[key]}, headers=headers)


def mark_deleted(key):
    return lambda client, versions: client.request("DELETE", key)


def delete_batch(*keys):
    def send(client, versions):
        objects = "".join(f"<Object><Key>{key}</Key><VersionId>{versions[key]}</VersionId></Object>" for key in keys)
        return with_digest(client, "POST", "", "delete", f"<Delete>{objects}</Delete>")
    return send


def configure(setting, document):
    return lambda client, versions: with_digest(client, "PUT", "", setting, document)


def extend(key, days, mode="COMPLIANCE"):
    text = f"<Retention><Mode>{mode}</Mode><RetainUntilDate>{in_days(days)}</RetainUntilDate></Retention>"
    return lambda client, versions: with_digest(client, "PUT", key, "retention", text, versionId=versions[key])


def hold(key):
    text = "<LegalHold><Status>ON</Status></LegalHold>"
    return lambda client, versions: with_digest(client, "PUT", key, "legal-hold", text, versionId=versions[key])


def with_digest(client, method, key, setting, text, **query):
    body = text.encode()
    digest = base64.b64encode(hashlib.md5(body).digest()).decode()
    return client.request(method, key, query={setting: "", **query}, headers={"content-md5": digest}, body=body)


SUSPEND = "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>"
EXPIRE = ("<LifecycleConfiguration><Rule><ID>x</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter>"
          "<Expiration><Days>1</Days></Expiration></Rule></LifecycleConfiguration>")
SHORT_LOCK = ("<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>"
              "<Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>")
NO_DEFAULT_LOCK = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"
CORS = ("<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin></CORSRule>"
        "</CORSConfiguration>")
TAGS = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"
ENCRYPTION = ("<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256"
              "</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>")
PUBLIC = ("<PublicAccessBlockConfiguration><BlockPublicAcls>false</BlockPublicAcls><BlockPublicPolicy>false"
          "</BlockPublicPolicy></PublicAccessBlockConfiguration>")
OPEN = '{"Version":"2012-10-17","Statement":[{"Sid":"X","Effect":"Allow","Principal":"*","Action":"s3:*","Resource":"*"}]}'

# A customer's key is 32 bytes, sent with its digest.
KEY = b"k" * 32
CUSTOMER_KEY = {
    "x_amz_server_side_encryption_customer_algorithm": "AES256",
    "x_amz_server_side_encryption_customer_key": base64.b64encode(KEY).decode(),
    "x_amz_server_side_encryption_customer_key_MD5": base64.b64encode(hashlib.md5(KEY).digest()).decode(),
}


def settings_of(role):
    """Attempts to change the bucket itself. (SeaweedFS lets no bucket policy grant a change of the ownership: nothing to try.)"""
    return [
        Attempt(role, "suspend versioning", configure("versioning", SUSPEND)),
        Attempt(role, "put a lifecycle rule", configure("lifecycle", EXPIRE)),
        Attempt(role, "change the Object Lock configuration", configure("object-lock", SHORT_LOCK)),
        Attempt(role, "put a CORS rule", configure("cors", CORS)),
        Attempt(role, "tag the bucket", configure("tagging", TAGS)),
        Attempt(role, "change the encryption", configure("encryption", ENCRYPTION)),
        Attempt(role, "open the public access block", configure("publicAccessBlock", PUBLIC)),
        Attempt(role, "put a bucket policy", configure("policy", OPEN)),
        Attempt(role, "delete the bucket policy", lambda client, _: client.request("DELETE", query={"policy": ""})),
        Attempt(role, "delete the bucket", lambda client, _: client.request("DELETE")),
    ]


def destruction_of(role):
    """Attempts on what is stored. None of these objects is locked but one, so the store itself would let them through."""
    return [
        Attempt(role, "delete a version", delete(f"{BILLING}/{CHUNK}")),
        Attempt(role, "delete versions in a batch", delete_batch(f"{BILLING}/{CHUNK}", f"{BILLING}/identity")),
        Attempt(role, "put a delete marker", mark_deleted(f"{BILLING}/identity")),
        Attempt(role, "bypass governance", delete(GOVERNED, x_amz_bypass_governance_retention="true")),
        Attempt(role, "put a legal hold", hold(f"{BILLING}/{CHUNK}")),
    ]


WRITER = "writer/primary"

FORBIDDEN = destruction_of(WRITER) + settings_of(WRITER) + [
    Attempt(WRITER, "read another database", get(f"{CLINIC}/{CHUNK}")),
    Attempt(WRITER, "read a version of another database", get_version(f"{CLINIC}/{CHUNK}")),
    Attempt(WRITER, "list another database", list_objects(f"{CLINIC}/")),
    Attempt(WRITER, "list versions of another database", list_versions(f"{CLINIC}/")),
    Attempt(WRITER, "list the whole bucket", list_objects(None)),
    Attempt(WRITER, "list all databases", list_objects(f"{ROOT}/db/")),
    Attempt(WRITER, "write into another database", put(f"{CLINIC}/log/0000000000000001/0000000009000000")),
    Attempt(WRITER, "write a segment, which the standby site does", put(f"{BILLING}/segment/1/0000000009000000")),
    Attempt(WRITER, "write an index, which the standby site does", put(f"{BILLING}/index/0000000000000009")),
    Attempt(WRITER, "write a plan, which the standby site does", put(f"{ROOT}/plan/hospital/9")),
    Attempt(WRITER, "write a journal, which the standby site does", put(f"{ROOT}/run/r9/00000000")),
    Attempt(WRITER, "read a journal", get(f"{ROOT}/run/r1/00000000")),
    Attempt(WRITER, "write outside of the vault", put("elsewhere/object")),
    Attempt(WRITER, "lock another database's object", extend(f"{CLINIC}/{CHUNK}", 30)),
    Attempt(WRITER, "encrypt with a key of its own", put(f"{BILLING}/log/0000000000000001/000000000A000000", **CUSTOMER_KEY)),
    Attempt(WRITER, "encrypt with a KMS key", put(f"{BILLING}/log/0000000000000001/000000000B000000",
                                                  x_amz_server_side_encryption="aws:kms")),
    Attempt(WRITER, "store in an archive class", put(f"{BILLING}/log/0000000000000001/000000000C000000",
                                                     x_amz_storage_class="GLACIER")),
    Attempt(WRITER, "write without TLS", put(f"{BILLING}/log/0000000000000001/000000000D000000"), secure=False),
    Attempt(WRITER, "read without TLS", get(f"{BILLING}/{CHUNK}"), secure=False),
    Attempt("writer/clinic", "read another database", get(f"{BILLING}/{CHUNK}")),
    Attempt("writer/standby", "delete a version", delete(f"{BILLING}/segment/1/0000000001000000")),
    Attempt("writer/standby", "put a delete marker", mark_deleted(f"{ROOT}/run/r1/00000000")),
    *destruction_of("reader/people"), *settings_of("reader/people"),
    Attempt("reader/people", "write", put(f"{BILLING}/log/0000000000000001/000000000E000000")),
    Attempt("reader/people", "lock", extend(f"{BILLING}/{CHUNK}", 30)),
    Attempt("reader/billing", "read another database", get(f"{CLINIC}/{CHUNK}")),
    Attempt("reader/billing", "list another database", list_objects(f"{CLINIC}/")),
    *destruction_of("auditor"), *settings_of("auditor"),
    Attempt("auditor", "read a chunk", get(f"{BILLING}/{CHUNK}")),
    Attempt("auditor", "read a version of a chunk", get_version(f"{BILLING}/{CHUNK}")),
    Attempt("auditor", "write evidence", put(f"{ROOT}/evidence/lock-probe/9")),
    Attempt("auditor", "lock", extend(f"{BILLING}/{CHUNK}", 30)),
    *settings_of("janitor"),
    Attempt("janitor", "put a delete marker", mark_deleted(f"{BILLING}/{CHUNK}")),
    Attempt("janitor", "delete an identity", delete(f"{BILLING}/identity")),
    Attempt("janitor", "delete an index", delete(f"{BILLING}/index/0000000000000001")),
    Attempt("janitor", "delete a plan", delete(f"{ROOT}/plan/hospital/1")),
    Attempt("janitor", "delete a journal", delete(f"{ROOT}/run/r1/00000000")),
    Attempt("janitor", "delete evidence", delete(f"{ROOT}/evidence/lock-probe/1")),
    Attempt("janitor", "bypass governance", delete(GOVERNED, x_amz_bypass_governance_retention="true")),
    Attempt("janitor", "read", get(f"{BILLING}/{CHUNK}")),
    Attempt("janitor", "list", list_objects(f"{BILLING}/")),
    Attempt("janitor", "list versions", list_versions(f"{BILLING}/")),
    Attempt("janitor", "write", put(f"{BILLING}/log/0000000000000001/000000000F000000")),
    Attempt("janitor", "lock", extend(f"{BILLING}/{CHUNK}", 30)),
]

READS = [
    ("read", get(f"{BILLING}/{CHUNK}")),
    ("read a version", get_version(f"{BILLING}/{CHUNK}")),
    ("list a database", list_objects(f"{BILLING}/")),
    ("list versions of a key", list_versions(f"{BILLING}/{CHUNK}")),
]
QUESTIONS = [("ask for versioning", ask("versioning")), ("ask for the lock", ask("object-lock"))]


def permitted_to(role, *cases):
    return [Attempt(role, name, send) for name, send in cases]


# In this order: the janitor's deletions come last.
PERMITTED = [
    *permitted_to(WRITER, *READS, *QUESTIONS, ("see a lock", retention_of(GOVERNED))),
    *permitted_to(WRITER, *[(f"create {place}", put(f"{ROOT}/{place}")) for place in [
        "db/hospital-registration/identity", "db/hospital-registration/log/0000000000000000/0000000000000000",
        "db/hospital-registration/backup/b2/00000000", "db/hospital-registration/backup/b2/manifest", "probe/p1",
        "evidence/lock-probe/2", "conformance/c1/a"]]),
    *permitted_to(WRITER, ("lock for longer", extend(f"{BILLING}/backup/b1/manifest", 120))),
    *permitted_to("writer/standby", *READS, *QUESTIONS, ("read a journal", get(f"{ROOT}/run/r1/00000000"))),
    *permitted_to("writer/standby", *[(f"create {place}", put(f"{ROOT}/{place}")) for place in [
        "db/hospital-billing/log/0000000000000002/0000000002000000", "db/hospital-billing/segment/1/0000000002000000",
        "db/hospital-billing/index/0000000000000002", "plan/hospital/2", "run/r2/00000000"]]),
    *permitted_to("reader/people", *READS, *QUESTIONS, ("see a lock", retention_of(GOVERNED)),
                  ("list all databases", list_objects(f"{ROOT}/db/")), ("read a plan", get(f"{ROOT}/plan/hospital/1"))),
    *permitted_to("reader/billing", *READS, *QUESTIONS),
    *permitted_to("auditor", *READS[2:], *QUESTIONS, ("see a lock", retention_of(GOVERNED)),
                  ("read evidence", get(f"{ROOT}/evidence/lock-probe/1")), ("read a journal", get(f"{ROOT}/run/r1/00000000")),
                  ("ask for the policy", ask("policy"))),
    *permitted_to("janitor", ("delete a chunk whose lock has ended", delete(f"{BILLING}/{CHUNK}")),
                  ("delete a segment whose lock has ended", delete(f"{BILLING}/segment/1/0000000001000000"))),
]
