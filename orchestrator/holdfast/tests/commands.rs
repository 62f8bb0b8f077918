//! Every subcommand of `holdfast vault` and `holdfast keys`, as a person or a program runs it: the real binary on a real S3
//! server. What it prints as JSON is what was found, and every error says what, where, and what to do, as text and as JSON.

#[path = "../../vault/tests/common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use common::{Fixture, create_bucket, s3_client_of, s3_config, small_segments};
use holdfast_test_postgres::SeaweedFS;
use holdfast_vault::{Vault, WriterKey, generate_identity};
use serde_json::{Value, json};

const BUCKET: &str = "holdfast";
/// What the good cases name.
const DATABASE: &str = "billing";

/// A subcommand: how it is called well, what that must give, and what else can be wrong with it.
struct Row {
    command: &'static str,
    /// The arguments of a good call, besides the place.
    good: fn(&Desk) -> Vec<String>,
    /// Fails unless the JSON is what the vault holds.
    gives: fn(&Desk, &Value),
    /// How a database is named; none when it takes none.
    database: Option<&'static str>,
    /// Arguments that are wrong (after those of the good call), and what the error must say.
    bad: &'static [(&'static [&'static str], &'static str)],
}

/// Where everything of a test is.
struct Desk {
    weed: SeaweedFS,
    folder: tempfile::TempDir,
    recipient: String,
}

impl Desk {
    /// A vault with one database, and what a person has besides.
    async fn new() -> Desk {
        let weed = SeaweedFS::start_with_writer();
        create_bucket(&weed, BUCKET).await;
        let vault = Vault::open(s3_config(&weed, BUCKET, "t")).unwrap();
        let mut fixture = Fixture::new(vault, small_segments()).await;
        let (secret, recipient) = generate_identity();
        fixture.identities = holdfast_vault::Identities::parse(&secret).unwrap();
        fixture.recipients = holdfast_vault::Recipients::parse(&[&recipient]).unwrap();
        fixture.protected_once().await;
        let desk = Desk { weed, folder: tempfile::tempdir().unwrap(), recipient };
        desk.write("standby.key", &secret);
        desk.write("writer.key", &WriterKey::generate().secret());
        let other = generate_identity().1;
        let manifest = json!({"kind": "Vault", "metadata": {"name": "vault", "namespace": "hospital"},
            "spec": {"writers": [], "encryption": {"recipients": [desk.recipient, other]}}});
        desk.write("vault.yaml", &manifest.to_string());
        desk.write("text", "nothing that any command reads\n");
        fs::create_dir(desk.path("empty")).unwrap();
        desk
    }

    /// What the policy of a vault's bucket says about its writer, as far as this server knows the words.
    async fn deny_the_writer(&self) {
        let policy = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Deny",
            "Principal": {"AWS": "arn:aws:iam::000000000000:user/writer"},
            "Action": ["s3:PutLifecycleConfiguration", "s3:PutBucketVersioning", "s3:PutBucketPolicy",
                "s3:DeleteObject", "s3:DeleteObjectVersion"],
            "Resource": [format!("arn:aws:s3:::{BUCKET}"), format!("arn:aws:s3:::{BUCKET}/*")]}]});
        let admin = s3_client_of(&self.weed, self.weed.access_key(), self.weed.secret_key());
        admin.put_bucket_policy().bucket(BUCKET).policy(policy.to_string()).send().await.unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// The options that name the vault.
    fn place(&self, bucket: &str) -> Vec<String> {
        ["--bucket", bucket, "--endpoint", &self.weed.endpoint(), "--prefix", "t"].map(str::to_owned).to_vec()
    }

    /// Runs it with these S3 keys. `@NAME` is a file of the desk.
    fn run(&self, keys: (&str, &str), arguments: &[String]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        for argument in arguments {
            command.arg(match argument.strip_prefix('@') {
                Some(name) => self.file(name),
                None => argument.clone(),
            });
        }
        command.env_clear().env("HOME", self.folder.path()).current_dir(self.folder.path());
        command.env("AWS_ACCESS_KEY_ID", keys.0).env("AWS_SECRET_ACCESS_KEY", keys.1);
        Ran { line: arguments.join(" "), output: command.output().unwrap() }
    }

    fn keys(&self) -> (&'static str, &'static str) {
        (self.weed.access_key(), self.weed.secret_key())
    }

    /// Runs what must fail, as text and as JSON, and looks at what both say.
    fn fails(&self, keys: (&str, &str), arguments: &[String], says: &str) {
        let text = self.run(keys, arguments);
        let json = self.run(keys, &[arguments, &words(&["-o", "json"])].concat());
        for ran in [&text, &json] {
            assert!(!ran.output.status.success(), "it went well: {ran:?}");
        }
        let parts = text.error();
        let error = json.error_as_json();
        assert_eq!(parts.map(normal), error.map(normal), "{text:?} {json:?}");
        assert!(text.stderr().contains(says), "{says:?} in {text:?}");
    }
}

/// Numbers differ from one run to the next: times and nonces.
fn normal(text: String) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// A run that has ended.
#[derive(Debug)]
struct Ran {
    line: String,
    output: Output,
}

impl Ran {
    fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    fn json(&self) -> Value {
        let json = serde_json::from_slice(&self.output.stdout);
        json.unwrap_or_else(|error| panic!("{}: {error}: {self:?}", self.line))
    }

    /// What, where, and what to do, as text.
    fn error(&self) -> [String; 3] {
        let stderr = self.stderr();
        let text = stderr.strip_prefix("holdfast: ").unwrap_or_else(|| panic!("{}: {stderr}", self.line));
        let (what, rest) =
            text.split_once("\n  where: ").unwrap_or_else(|| panic!("{}: no place: {stderr}", self.line));
        let (place, to_do) = rest.split_once("\n  what to do: ").unwrap_or_else(|| panic!("{}: {stderr}", self.line));
        let parts = [what, place, to_do].map(|part| part.trim().to_owned());
        assert!(parts.iter().all(|part| !part.is_empty()), "{}: {stderr}", self.line);
        parts
    }

    /// The same from the one line on standard error that is JSON.
    fn error_as_json(&self) -> [String; 3] {
        let error: Value = serde_json::from_str(&self.stderr()).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        ["what", "where", "toDo"].map(|name| error["error"][name].as_str().unwrap_or_default().to_owned())
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn count(value: &Value) -> usize {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}")).len()
}

const NOTHING: fn(&Desk) -> Vec<String> = |_| Vec::new();

const VAULT: &[Row] = &[
    Row {
        command: "check",
        good: NOTHING,
        gives: |_, json| {
            let outcomes: BTreeSet<_> =
                json["attempts"].as_array().unwrap().iter().map(|a| a["outcome"].as_str()).collect();
            assert!(outcomes.contains(&Some("refused")) && !outcomes.contains(&Some("harmful")), "{json:#}");
            assert!(json["evidence"].as_str().unwrap().starts_with("t/v1/evidence/"), "{json:#}");
        },
        database: None,
        bad: &[(&["--store", "file:///"], "cannot be used with")],
    },
    Row {
        command: "compact",
        good: |desk| words(&["--identity", "@standby.key", "--recipient", &desk.recipient]),
        gives: |_, json| {
            let done = &json["databases"][0];
            assert_eq!((&done["database"], count(&json["problems"])), (&json!(DATABASE), 0), "{json:#}");
            assert!(done["archived"].is_string() && done["index"].is_u64(), "{json:#}");
        },
        database: Some("--database"),
        bad: &[(&["--recipient", "age1x"], "age1x"), (&["--identity", "@absent"], "cannot be used multiple times")],
    },
    Row {
        command: "conformance",
        good: |_| words(&["--only", "list-is-sorted"]),
        gives: |_, json| {
            assert_eq!(json["verdict"], "suitable", "{json:#}");
            let found = &json["findings"][0];
            assert_eq!((&found["name"], count(&json["findings"])), (&json!("list-is-sorted"), 1), "{json:#}");
        },
        database: None,
        bad: &[(&["--only", "no-such-check"], "no-such-check"), (&["--list"], "cannot be used with")],
    },
    Row {
        command: "copy",
        good: |desk| words(&["--to", &format!("file://{}", desk.file("copy"))]),
        gives: |desk, json| {
            assert!(json["copied"].as_u64().unwrap() > 5 && count(&json["problems"]) == 0, "{json:#}");
            assert!(desk.path("copy/t/v1/db/billing/identity").is_file());
        },
        database: Some("--database"),
        bad: &[(&["--parallel", "x"], "--parallel")],
    },
    Row {
        command: "cost",
        good: NOTHING,
        gives: |_, json| {
            assert!(json["kinds"]["backup part"]["objects"] == 3, "{json:#}");
            assert!(json["total"].as_f64().unwrap() > 0.0 && json["prices"]["currency"] == "USD", "{json:#}");
        },
        database: Some("--database"),
        bad: &[(&["--prices", "@absent"], "cannot read"), (&["--prices", "@text"], "no table of prices")],
    },
    Row {
        command: "hold",
        good: |_| words(&["--days", "3"]),
        gives: |_, json| {
            let number = |name: &str| json[name].as_u64().unwrap();
            assert!(number("extended") > 5 && number("failed") == 0 && json["until"].is_string(), "{json:#}");
        },
        database: Some("--database"),
        bad: &[(&["--rolling"], "cannot be used with"), (&["--until", "2020-01-01"], "cannot be used with")],
    },
    Row {
        command: "janitor",
        good: |_| words(&["--trust-anyone", "--dry-run"]),
        gives: |_, json| {
            let sweep = &json["databases"][0];
            assert_eq!((&sweep["database"], &sweep["dryRun"]), (&json!(DATABASE), &json!(true)), "{json:#}");
            assert!(count(&json["problems"]) == 0 && count(&sweep["tampered"]) == 0 && count(&sweep["rows"]) > 2);
        },
        database: Some("--database"),
        bad: &[(&["--writers", "@absent"], "cannot read"), (&["--writers", "@text"], "no list of writers")],
    },
    Row {
        command: "ls",
        good: NOTHING,
        gives: |_, json| {
            assert_eq!((&json[0]["database"], &json[0]["backups"]), (&json!(DATABASE), &json!(1)), "{json:#}");
            assert_eq!(json[0]["newestBackup"], "a", "{json:#}");
            assert!(json[0]["tip"].is_string() && json[0]["oldestRestorable"]["lsn"].is_string(), "{json:#}");
        },
        database: Some(""),
        bad: &[(&["db/nothing/"], "nothing stands there"), (&["--limit", "x"], "--limit")],
    },
    Row {
        command: "show",
        good: |_| words(&["a"]),
        gives: |_, json| {
            assert_eq!((&json["database"], &json["parts"]), (&json!(DATABASE), &json!(3)), "{json:#}");
        },
        database: None,
        bad: &[(&["another"], "another"), (&["--output", "xml"], "xml")],
    },
    Row {
        command: "verify",
        good: |_| words(&["--identity", "@standby.key"]),
        gives: |_, json| {
            assert_eq!((&json[0]["database"], count(&json[0]["findings"])), (&json!(DATABASE), 0), "{json:#}");
            assert!(
                json[0]["totals"]["opened"].as_u64().unwrap() > 5 && count(&json[0]["restorable"]) == 1,
                "{json:#}"
            );
            assert_eq!(count(&json[1]["shared"]["findings"]), 0, "{json:#}");
        },
        database: Some(""),
        bad: &[
            (&["--sample", "300"], "300"),
            (&["billing", "--resume", "@text"], "not where a scrub stood"),
            (&["--budget-requests", "9"], "--resume"),
            (&["--ca-file", "@absent"], "cannot read"),
        ],
    },
];

const KEYS: &[Row] = &[
    Row {
        command: "escrow",
        good: |_| words(&["@standby.key", "--out", "@sheet.html"]),
        gives: |desk, json| {
            assert_eq!((&json["kind"], &json["publicKey"]), (&json!("age"), &json!(desk.recipient)), "{json:#}");
            assert!(fs::read_to_string(desk.path("sheet.html")).unwrap().contains("AGE-SECRET-KEY-"));
        },
        database: None,
        // What was good once is refused: a key is never overwritten.
        bad: &[(&[], "never overwritten")],
    },
    Row {
        command: "list",
        good: |desk| [desk.place(BUCKET), words(&["--identity", "@standby.key"])].concat(),
        gives: |desk, json| {
            let opened: BTreeSet<_> =
                json["recipients"].as_array().unwrap().iter().map(|r| &r["openedBy"][0]).map(|k| k.as_str()).collect();
            assert_eq!(opened, BTreeSet::from([Some(desk.recipient.as_str())]), "{json:#}");
            assert_eq!((count(&json["unreadable"]), count(&json["signers"])), (0, 1), "{json:#}");
        },
        database: None,
        bad: &[(&["--one-in", "0"], "--one-in"), (&["--writers", "@absent"], "cannot read")],
    },
    Row {
        command: "new",
        good: |_| words(&["age", "--out", "@new.key"]),
        gives: |desk, json| {
            let public = json["publicKey"].as_str().unwrap();
            assert!(public.starts_with("age1") && json["secret"].is_null(), "{json:#}");
            assert!(fs::read_to_string(desk.path("new.key")).unwrap().contains(public));
        },
        database: None,
        bad: &[(&[], "never overwritten"), (&["more"], "unexpected argument 'more'")],
    },
    Row {
        command: "revoke",
        good: |desk| words(&["age", &desk.recipient, "--file", "@vault.yaml"]),
        gives: |desk, json| {
            let left = &json["patch"]["spec"]["encryption"]["recipients"];
            assert!(count(left) == 1 && left[0] != desk.recipient.as_str() && count(&json["steps"]) == 2, "{json:#}");
        },
        database: None,
        bad: &[(&["--file", "@text"], "cannot be used multiple times")],
    },
    Row {
        command: "rotate",
        good: |_| words(&["writer", "@writer.key", "--name", "north", "--file", "@vault.yaml"]),
        gives: |_, json| {
            assert_eq!(json["patch"]["spec"]["writers"][0]["name"], "north", "{json:#}");
            assert_eq!((count(&json["steps"]), &json["written"]), (4, &json!(false)), "{json:#}");
        },
        database: None,
        bad: &[(&["--replaces", "age1x"], "cannot be used with")],
    },
    Row {
        command: "show",
        good: |_| words(&["@standby.key"]),
        gives: |desk, json| {
            assert_eq!((&json["hasPrivateKey"], count(&json["keys"])), (&json!(true), 1), "{json:#}");
            assert_eq!(json["keys"][0]["publicKey"], desk.recipient.as_str(), "{json:#}");
        },
        database: None,
        bad: &[(&["--svg", "/proc/none/x"], "cannot write")],
    },
];

/// What fails without a good call before it.
const ALONE: &[(&[&str], &str)] = &[
    (&["vault", "ls"], "no vault is named"),
    (&["vault", "ls", "--store", "file:///nowhere/at/all"], "/nowhere/at/all"),
    (&["vault", "ls", "--store", "what://ever"], "what://ever"),
    (&["vault", "ls", "--vault", "v", "-n", "hospital"], "no cluster"),
    (&["vault", "ls", "--bucket", "b", "--writer", "mistyped"], "mistyped"),
    (&["vault", "copy", "--bucket", "b", "--to", "ftp://x"], "ftp://x"),
    (&["vault", "hold", "--bucket", "b", "--until", "tomorrow"], "tomorrow"),
    (&["vault", "janitor", "--bucket", "b"], "no writers are named"),
    (&["vault", "lst"], "lst"),
    (&["keys", "rotate", "writer", "@writer.key", "--file", "@vault.yaml"], "--name"),
    (&["keys", "rotate", "writer", "@writer.key", "--name", "n", "--file", "@text"], "no Vault in it"),
    (&["keys", "rotate", "age", "age1x", "--file", "@vault.yaml"], "age1x"),
    (&["keys", "rotate", "age", "@writer.key", "--file", "@vault.yaml"], "no age key"),
    (&["keys", "revoke", "writer", "nobody", "--after", "now", "--file", "@vault.yaml"], "nobody"),
    (&["keys", "revoke", "writer", "nobody", "--after", "noon", "--file", "@vault.yaml"], "noon"),
    (&["keys", "revoke", "age", "@standby.key", "--file", "@absent"], "cannot read"),
    (&["keys", "show", "@absent"], "no key can be read there"),
    (&["keys", "show", "@text"], "identity"),
    (&["keys", "escrow", "@standby.key", "--out", "@absent/x"], "cannot write"),
    (&["keys", "new", "something"], "something"),
];

/// The subcommands that the binary itself names in its help.
fn named_in_help(desk: &Desk, group: &str) -> BTreeSet<String> {
    let help = desk.run(("", ""), &words(&[group, "--help"]));
    let text = String::from_utf8_lossy(&help.output.stdout).into_owned();
    let list = text.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    let lines = list.unwrap_or_else(|| panic!("{help:?}")).lines();
    // A name begins in the third column; longer descriptions are wrapped far to the right.
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_prints_json_and_says_what_is_wrong_where_and_what_to_do() {
    let desk = Desk::new().await;
    for (group, rows) in [("vault", VAULT), ("keys", KEYS)] {
        let rows: BTreeSet<String> = rows.iter().map(|row| row.command.to_owned()).collect();
        assert_eq!(named_in_help(&desk, group), rows, "a subcommand of `holdfast {group}` without a row here");
    }
    desk.deny_the_writer().await;
    for row in VAULT {
        let line = |place: &[String], more: &[String]| {
            [&words(&["vault", row.command]), (row.good)(&desk).as_slice(), place, more].concat()
        };
        let place = desk.place(BUCKET);
        // Only with a writer's rights is there nothing wrong with what the credentials may do.
        let keys = if row.command == "check" { ("writer", "writer-secret") } else { desk.keys() };
        let good = desk.run(keys, &line(&place, &words(&["-o", "json"])));
        assert!(good.output.status.success() && good.stderr().is_empty(), "{good:?}");
        (row.gives)(&desk, &good.json());

        desk.fails(desk.keys(), &line(&desk.place("absent"), &[]), "bucket");
        desk.fails(("stranger", "secret"), &line(&place, &[]), "not accepted");
        desk.fails(desk.keys(), &line(&[], &[]), "no vault is named");
        let folder = format!("file://{}", desk.file("empty"));
        desk.fails(desk.keys(), &line(&words(&["--store", &folder]), &[]), &folder[7..]);
        desk.fails(desk.keys(), &line(&place, &words(&["--nonsense"])), "--nonsense");
        if let Some(option) = row.database {
            let named = [option, "absent"].into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>();
            desk.fails(desk.keys(), &line(&place, &words(&named)), "there is no database `absent`");
        }
        row.bad.iter().for_each(|(more, says)| desk.fails(desk.keys(), &line(&place, &words(more)), says));
    }
    for row in KEYS {
        let line =
            |more: &[&str]| [&words(&["keys", row.command]), (row.good)(&desk).as_slice(), &words(more)].concat();
        let good = desk.run(desk.keys(), &line(&["-o", "json"]));
        assert!(good.output.status.success() && good.stderr().is_empty(), "{good:?}");
        (row.gives)(&desk, &good.json());
        desk.fails(desk.keys(), &line(&["--nonsense"]), "--nonsense");
        row.bad.iter().for_each(|(more, says)| desk.fails(desk.keys(), &line(more), says));
    }
    ALONE.iter().for_each(|(line, says)| desk.fails(desk.keys(), &words(line), says));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_repeats_no_secret_and_a_store_that_is_away_is_told_from_a_wrong_one() {
    let mut desk = Desk::new().await;
    let secret = fs::read_to_string(desk.path("standby.key")).unwrap();
    let place = desk.place(BUCKET);
    for option in ["--writers", "--prices"] {
        let ran = desk.run(desk.keys(), &[words(&["vault", "cost", option, "@standby.key"]), place.clone()].concat());
        let [what, place, _] = ran.error();
        assert!(!what.contains(secret.trim()) && place.ends_with("standby.key"), "{ran:?}");
    }
    let ran = desk.run(desk.keys(), &words(&["keys", "show", secret.trim()]));
    assert!(!ran.stderr().contains(secret.trim()), "{ran:?}");
    desk.weed.kill();
    desk.fails(desk.keys(), &[words(&["vault", "ls"]), place].concat(), "give the command again");
}
