//! How to recover without the operator, with the `holdfast` binary, PostgreSQL and the vault.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Page;
use super::text::probe_text;
use crate::execution::plan_of;

/// The section.
pub(super) fn section(page: &Page) -> String {
    let mut text = "## 6. By hand, without the operator\n\n\
        Needs: the `holdfast` binary, PostgreSQL of the source's version, the bucket's credentials, one private key\n\
        (`AGE-SECRET-KEY-1...`, also the one in the safe). Works on any machine that reaches the bucket; Kubernetes is not needed.\n\
        First make sure that no operator carries this plan out: `kubectl -n holdfast-system scale deployment --all --replicas 0`.\n\n"
        .to_owned();
    text.push_str(&files(page));
    for (n, database) in page.spec.databases.iter().enumerate() {
        text.push_str(&database_steps(page, n, &database.name, &database.standby));
    }
    text.push_str(&service_steps(page));
    text
}

fn vault_config(page: &Page) -> Value {
    let Some((_, vault)) = &page.vault else {
        return json!("the Vault of this plan does not exist; see the bucket's plan/ folder");
    };
    let mut config = json!({
        "region": vault.region, "bucket": vault.bucket, "prefix": vault.prefix,
        "retentionDays": vault.retention_days,
        "chunkRetentionDays": vault.chunk_retention_days(), "credentials": { "directory": "/root/recover/credentials" },
    });
    if let Some(endpoint) = &vault.endpoint {
        config["endpoint"] = json!(endpoint);
    }
    if !vault.writers.is_empty() {
        config["writers"] = json!(vault.writers);
    }
    if vault.signing.is_some() {
        config["writerKeyFile"] = json!("/root/recover/writer.key");
    }
    config
}

fn files(page: &Page) -> String {
    let vault = vault_config(page);
    // Without it, nobody would believe what is stored from here on.
    let signs = page.vault.as_ref().is_some_and(|(_, vault)| vault.signing.is_some());
    let writer = if signs { "    cp WRITERKEYFILE writer.key && chmod 600 writer.key\n" } else { "" };
    format!(
        "Files, once:\n\n\
         \x20   mkdir -p /root/recover/credentials /root/recover/database && cd /root/recover\n\
         \x20   printf %s ID     > credentials/AWS_ACCESS_KEY_ID\n\
         \x20   printf %s SECRET > credentials/AWS_SECRET_ACCESS_KEY\n\
         \x20   printf %s holdfast > database/username   # the role of the databases' credentials Secret\n\
         \x20   printf %s PASSWORD > database/password\n\
         \x20   cp KEYFILE identity.key && chmod 600 identity.key credentials/* database/*\n{writer}\
         \x20   cat > vault.json <<'END'\n    {vault}\n    END\n\n\
         All databases go over together: do steps a to c for each of them before step d for the first.\n\n"
    )
}

fn database_steps(page: &Page, n: usize, name: &str, standby: &str) -> String {
    let source = page.source(standby);
    let (http, replication, postgres) = (8100 + n, 5500 + n, 5432 + n);
    let vault = vault_config(page);
    let relay = json!({
        "vault": vault, "identity_file": "/root/recover/identity.key", "name": source,
        "listen": format!("127.0.0.1:{http}"), "serve": format!("127.0.0.1:{replication}"),
    });
    let restore = json!({
        "vault": vault, "identity_file": "/root/recover/identity.key", "name": source,
        "target": format!("/var/lib/recover/{source}"), "primary": { "host": "127.0.0.1", "port": replication },
        "instance_id": format!("hand-{source}-1"),
        "synchronous_standby": holdfast_dataplane::config::slot_name(source),
    });
    let recipients = page.vault.as_ref().map(|(_, v)| v.encryption.recipients.clone()).unwrap_or_default();
    let agent = json!({
        "vault": vault, "recipients": recipients, "name": source, "instance_id": format!("hand-{source}-1"),
        "connection": { "host": "127.0.0.1", "port": postgres, "credentials_dir": "/root/recover/database" },
        "durability": "Synchronous", "listen": format!("127.0.0.1:{}", http + 100),
    });
    let mut text = format!("### Database {name} ({source} in the vault)\n\n");
    let _ = write!(
        text,
        "a. Restore and follow. The relay stays running; restore ends with exit code 0.\n\n\
         \x20   cat > {source}-relay.json <<'END'\n    {relay}\n    END\n\
         \x20   cat > {source}-restore.json <<'END'\n    {restore}\n    END\n\
         \x20   holdfast relay --config {source}-relay.json &\n\
         \x20   holdfast restore --config {source}-restore.json\n\
         \x20   chown -R postgres /var/lib/recover/{source}\n\
         \x20   su postgres -c 'postgres -D /var/lib/recover/{source}/pgdata -p {postgres}' &\n\n\
         \x20  Where the operator's standby `{standby}` still runs, use that one instead: its instance id is\n\
         \x20  `kubectl get standbydatabase {standby} -o jsonpath='{{.status.instanceId}}'`.\n\n\
         b. Take over: from here the old site acknowledges nothing more. Can be repeated with the same state file.\n\n\
         \x20   holdfast takeover --vault vault.json --database {source} --state {source}-taker.json\n\n\
         \x20  Must print the sealed LSN (T).\n\n\
         c. Wait for the replay. Repeat until the answer stays the same and is at most a few bytes below T:\n\n\
         \x20   psql -p {postgres} -d postgres -Atc 'SELECT pg_last_wal_replay_lsn(), pg_is_in_recovery()'\n\n\
         d. The point of no return, then open. LSN is the answer of step c, N its timeline plus 1 (usually 2):\n\n\
         \x20   holdfast promote-seal --vault vault.json --database {source} --state {source}-taker.json \\\n\
         \x20     --identity identity.key --replayed LSN --new-timeline N --instance hand-{source}-1\n\
         \x20   psql -p {postgres} -d postgres -Atc 'SELECT pg_promote()'\n\n\
         \x20  The first must say that the promote is stored. If it says `lost`, do NOT open: begin again at b with a new\n\
         \x20  state file. The second must print `t`.\n\n\
         e. Protect it at once. Until the agent streams, commits wait.\n\n\
         \x20   cat > {source}-agent.json <<'END'\n    {agent}\n    END\n\
         \x20   holdfast agent --config {source}-agent.json &\n\
         \x20   curl -s http://127.0.0.1:{agent_http}/status   # must show \"state\":\"Streaming\"\n\n",
        agent_http = http + 100,
    );
    text
}

fn service_steps(page: &Page) -> String {
    let mut text = "### Services, in this order\n\n".to_owned();
    let order = plan_of(&page.spec).waves().into_iter().flatten();
    for name in order {
        let Some(service) = page.spec.services.iter().find(|s| s.name == name) else { continue };
        let _ = writeln!(text, "{name}:\n");
        for workload in &service.workloads {
            let (deployment, replicas) = (&workload.name, workload.replicas);
            let _ = writeln!(text, "    kubectl scale deployment {deployment} --replicas {replicas}");
            let _ = writeln!(text, "    kubectl rollout status deployment {deployment}   # must end with success");
        }
        if let Some(probe) = &service.probe {
            let _ = writeln!(text, "    curl -fsS {}   # must answer with 200", probe_text(probe));
        }
        if let Some(traffic) = &service.traffic {
            let selector = json!([{ "op": "replace", "path": "/spec/selector", "value": traffic.selector }]);
            let _ = writeln!(text, "    kubectl patch service {} --type json -p '{selector}'", traffic.service);
        }
        text.push('\n');
    }
    text
}
