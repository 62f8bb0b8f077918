//! How to recover without the operator, with the `holdfast` binary, PostgreSQL and the vault.
//!
//! Every block is pasted as it is printed, in any terminal: what one block finds out, the next reads from a file in the
//! working folder. `orchestrator/holdfast/tests/runbook.rs` runs them.

use std::fmt::Write as _;

use holdfast_api::recovery_plan::{PlanService, Probe};
use holdfast_vault::CredentialsSource;
use serde_json::{Value, json};

use super::Page;
use super::text::sh;
use crate::execution::plan_of;
use crate::vault_access::vault_config;

/// Where the person works; the database itself is elsewhere, because PostgreSQL's user may not look into /root.
const FOLDER: &str = "/root/recover";
/// The first of the ports of PostgreSQL. Not 5432: Debian's packages start a server of their own there.
const POSTGRES_PORT: usize = 5440;
const POSTGRES_PORT_OF_SERVICES: usize = 5432;

/// The section.
pub(super) fn section(page: &Page) -> String {
    let mut text = format!(
        "## 6. By hand, without the operator\n\n\
        Needs a machine that reaches the bucket, with the `holdfast` binary, PostgreSQL of the source's version (with psql) and\n\
        curl; the bucket's credentials; and one private key (`AGE-SECRET-KEY-1...`, also the one in the safe). Kubernetes is\n\
        needed for the services alone. Work as root in bash. First make sure that no operator carries this plan out:\n\n{}",
        sh(
            "kubectl -n holdfast-system scale deployment --all --replicas 0   # skip it where there is no cluster any more"
        ),
    );
    text.push_str(&files(page));
    for (n, database) in page.spec.databases.iter().enumerate() {
        text.push_str(&database_steps(page, n, &database.name, &database.standby));
    }
    text.push_str(&way_in(page));
    text.push_str(&service_steps(page));
    text
}

fn vault_file(page: &Page) -> Result<Value, String> {
    let Some((_, vault)) = &page.vault else {
        return Err("the Vault of this plan does not exist here; see the bucket's plan/ folder".to_owned());
    };
    let mut config = vault_config(vault, CredentialsSource::Directory(format!("{FOLDER}/credentials").into()))?;
    if signs(page) {
        config.writer_key_file = Some(format!("{FOLDER}/writer.key").into());
    }
    serde_json::to_value(&config).map_err(|error| error.to_string())
}

/// Whether nobody would believe what is stored from here on without the site's writer key.
fn signs(page: &Page) -> bool {
    page.vault.as_ref().is_some_and(|(_, vault)| vault.signing.is_some())
}

fn files(page: &Page) -> String {
    let vault = pretty(&vault_file(page).unwrap_or_else(|problem| json!(problem)));
    let (or_writer, writer) = if signs(page) {
        (
            ", WRITERKEYFILE the file with this site's writer key (`HOLDFAST-WRITER-KEY-1...`)",
            "cp WRITERKEYFILE writer.key && chmod 600 writer.key\n",
        )
    } else {
        ("", "")
    };
    let once = sh(&format!(
        "mkdir -p {FOLDER}/credentials {FOLDER}/database && chmod 700 {FOLDER} && cd {FOLDER}\n\
         printf %s 'ID' > credentials/AWS_ACCESS_KEY_ID\n\
         printf %s 'SECRET' > credentials/AWS_SECRET_ACCESS_KEY\n\
         printf %s 'holdfast' > database/username\n\
         printf %s 'PASSWORD' > database/password\n\
         cp KEYFILE identity.key\n\
         chmod 600 identity.key credentials/* database/*\n{writer}\
         cat > vault.json <<'END'\n{vault}\nEND\n\
         cat > env <<'END'\n\
         cd {FOLDER}\n\
         export PGHOST=127.0.0.1 PGDATABASE=postgres PGUSER=\"$(cat database/username)\" PGPASSWORD=\"$(cat database/password)\"\n\
         END"
    ));
    let placeholders = format!(
        "Put your own for ID and SECRET (of the bucket), PASSWORD (of the databases' role, which is in the databases as it\n\
         was: the Secret that `credentials` of the StandbyDatabases names; `holdfast` is that role's name), KEYFILE\n\
         (the file with the private key){or_writer}.\n"
    );
    format!(
        "### Files, once\n\n{placeholders}\n{once}\
         In every terminal, now and whenever a new one is opened:\n\n{}\
         All databases go over together: do steps a to c for each of them before step d for the first.\n\n",
        sh(&format!(". {FOLDER}/env"))
    )
}

/// A configuration as it stands in an unquoted heredoc: the vault and the instance are read from their files there.
fn config(source: &str, value: &Value) -> String {
    let escaped = pretty(value).replace('\\', "\\\\").replace('$', "\\$").replace('`', "\\`");
    escaped.replace("\"VAULT\"", "$(cat vault.json)").replace("INSTANCE", &format!("$(cat {source}.instance)"))
}

fn pretty(value: &Value) -> String {
    // What was just made of strings and numbers can be written.
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn database_steps(page: &Page, n: usize, name: &str, standby: &str) -> String {
    let source = page.source(standby);
    format!(
        "### Database {name} ({source} in the vault)\n\n{}{}{}{}",
        restore(source, standby, n),
        take_over(source, n),
        promote(source, n),
        protect(page, source, n)
    )
}

fn restore(source: &str, standby: &str, n: usize) -> String {
    let (http, replication, postgres) = (8100 + n, 5500 + n, POSTGRES_PORT + n);
    let relay = config(
        source,
        &json!({
            "vault": "VAULT", "identity_file": format!("{FOLDER}/identity.key"), "name": source,
            "listen": format!("127.0.0.1:{http}"), "serve": format!("127.0.0.1:{replication}"),
        }),
    );
    let target = format!("/var/lib/recover/{source}");
    let restore = config(
        source,
        &json!({
            "vault": "VAULT", "identity_file": format!("{FOLDER}/identity.key"), "name": source,
            "target": target, "primary": { "host": "127.0.0.1", "port": replication }, "instance_id": "INSTANCE",
            "synchronous_standby": holdfast_dataplane::config::slot_name(source),
        }),
    );
    let follow = sh(&format!(
        "[ -s {source}.instance ] || date -u +hand-{source}-%Y%m%d-%H%M%S > {source}.instance\n\
         cat > {source}-relay.json <<END\n{relay}\nEND\n\
         cat > {source}-restore.json <<END\n{restore}\nEND\n\
         nohup holdfast relay --config {source}-relay.json > {source}-relay.log 2>&1 & echo $! > {source}-relay.pid\n\
         mkdir -p {target} /var/run/postgresql && chown postgres /var/run/postgresql\n\
         holdfast restore --config {source}-restore.json && chown -R postgres {target}"
    ));
    let start = sh(&format!(
        "BIN=/usr/lib/postgresql/$(cat {target}/pgdata/PG_VERSION)/bin   # Debian; elsewhere the folder of pg_ctl\n\
         su - postgres -c \"$BIN/pg_ctl -D {target}/pgdata -l {target}/log -o '-p {postgres}' -w -t 3600 start\"\n\
         psql -p {postgres} -XAtc 'SELECT pg_is_in_recovery()'"
    ));
    let instead = sh(&format!(
        "kubectl get standbydatabase {standby} -o jsonpath='{{.status.instanceId}}' > {source}.instance\n\
         nohup kubectl port-forward pod/{standby}-0 {postgres}:5432 > {source}-forward.log 2>&1 &"
    ));
    format!(
        "a. Restore and follow. The relay stays running. Restore must end with `restored and verified`; when it says that the\n\
         relay's address is in use, change the ports in this block and the next ones.\n\n{follow}\
         Start PostgreSQL on it. Must show `server started` and `t` (it follows, and takes no writes). When it does not, the\n\
         reason is in `{target}/log`; when psql is refused, the password is wrong: correct it before you go on.\n\n{start}\
         Only where the operator's standby `{standby}` still runs, use that one and leave out both blocks above and step e (its\n\
         own agent waits for the promotion):\n\n{instead}"
    )
}

fn take_over(source: &str, n: usize) -> String {
    let postgres = POSTGRES_PORT + n;
    let seal = sh(&format!("holdfast takeover --vault vault.json --database {source} --state {source}-taker.json"));
    let replayed = sh(&format!("psql -p {postgres} -XAtc 'SELECT pg_last_wal_replay_lsn()'"));
    format!(
        "b. Take over: from here the old site acknowledges nothing more. Must print `sealed {source} at T`. When it gives up,\n\
         repeat it: the state file remembers.\n\n{seal}\
         c. Wait for the replay. Repeat it until the answer stays the same; it is T, or a little below where a record was cut.\n\n{replayed}"
    )
}

fn promote(source: &str, n: usize) -> String {
    let postgres = POSTGRES_PORT + n;
    let open = sh(&format!(
        "LSN=$(psql -p {postgres} -XAtc 'SELECT pg_last_wal_replay_lsn()')\n\
         TIMELINE=$(psql -p {postgres} -XAtc 'SELECT greatest((SELECT timeline_id FROM pg_control_checkpoint()),\n  \
         (SELECT received_tli FROM pg_stat_wal_receiver)) + 1')\n\
         holdfast promote-seal --vault vault.json --database {source} --state {source}-taker.json --identity identity.key \\\n  \
         --replayed \"$LSN\" --new-timeline \"$TIMELINE\" --instance \"$(cat {source}.instance)\" \\\n  \
         && psql -p {postgres} -XAtc 'SELECT pg_promote()'"
    ));
    format!(
        "d. The point of no return, then open. PostgreSQL is promoted only when the seal is stored. Must print `promote seal stored`\n\
         and then `t`. When it says that the standby must replay further, wait and repeat it. When it says that the takeover was\n\
         lost, nothing was opened: `mv {source}-taker.json {source}-taker.lost` and begin again at b.\n\n{open}"
    )
}

fn protect(page: &Page, source: &str, n: usize) -> String {
    let (http, postgres) = (8200 + n, POSTGRES_PORT + n);
    let recipients = page.vault.as_ref().map(|(_, v)| v.encryption.recipients.clone()).unwrap_or_default();
    let agent = config(
        source,
        &json!({
            "vault": "VAULT", "recipients": recipients, "name": source, "instance_id": "INSTANCE",
            "connection": { "host": "127.0.0.1", "port": postgres, "credentials_dir": format!("{FOLDER}/database") },
            "durability": "Synchronous", "listen": format!("127.0.0.1:{http}"),
        }),
    );
    let start = sh(&format!(
        "cat > {source}-agent.json <<END\n{agent}\nEND\n\
         nohup holdfast agent --config {source}-agent.json > {source}-agent.log 2>&1 & echo $! > {source}-agent.pid\n\
         for second in $(seq 120); do curl -s http://127.0.0.1:{http}/status | grep -o '\"state\":\"Streaming\"' && break; sleep 1; done"
    ));
    format!(
        "e. Protect it at once: until the agent streams, commits wait. Must print `\"state\":\"Streaming\"`; when it prints nothing, the\n\
         reason is in `{source}-agent.log`.\n\n{start}"
    )
}

/// The services look for each database at the name of its StandbyDatabase.
fn way_in(page: &Page) -> String {
    let namespace = &page.namespace;
    let mut text = "### The way from the services to the databases\n\n\
        With kubectl at the cluster where the services shall run. Skip a database whose standby of the operator was used: its\n\
        Service leads there already. MACHINE is the address of the machine that runs PostgreSQL, as the cluster's nodes reach it:\n\
        `hostname -I` prints its addresses.\n\n"
        .to_owned();
    for (n, database) in page.spec.databases.iter().enumerate() {
        let (service, port) = (&database.standby, POSTGRES_PORT + n);
        let _ = write!(
            text,
            "{}: must show MACHINE and port {port}.\n\n{}",
            database.name,
            sh(&format!(
                "kubectl -n {namespace} delete service {service} --ignore-not-found\n\
                 kubectl apply -f - <<'END'\n\
                 apiVersion: v1\n\
                 kind: Service\n\
                 metadata: {{name: {service}, namespace: {namespace}}}\n\
                 spec: {{ports: [{{name: postgresql, port: {POSTGRES_PORT_OF_SERVICES}, targetPort: {port}}}]}}\n\
                 ---\n\
                 apiVersion: discovery.k8s.io/v1\n\
                 kind: EndpointSlice\n\
                 metadata:\n  name: {service}-by-hand\n  namespace: {namespace}\n  \
                 labels: {{kubernetes.io/service-name: {service}, endpointslice.kubernetes.io/managed-by: by-hand}}\n\
                 addressType: IPv4\n\
                 ports: [{{name: postgresql, port: {port}}}]\n\
                 endpoints: [{{addresses: [MACHINE]}}]\n\
                 END\n\
                 kubectl -n {namespace} get endpointslices -l kubernetes.io/service-name={service}"
            ))
        );
    }
    let standbys: Vec<&str> = page.spec.databases.iter().map(|d| d.standby.as_str()).collect();
    let _ = write!(
        text,
        "Leave the operator at 0 replicas while the databases run there: it would lead the Services back to its own standbys. Before\n\
         it is started again, delete those StandbyDatabases ({}).\n\n",
        standbys.join(", ")
    );
    text
}

fn service_steps(page: &Page) -> String {
    let mut text = "### Services, in this order\n\n".to_owned();
    let order = plan_of(&page.spec).waves().into_iter().flatten();
    for name in order {
        let Some(service) = page.spec.services.iter().find(|s| s.name == name) else { continue };
        let _ = write!(text, "{name}: the rollout must end with success, the probe without an error.\n\n");
        text.push_str(&sh(&start_service(&page.namespace, service)));
    }
    text
}

fn start_service(namespace: &str, service: &PlanService) -> String {
    let mut lines = Vec::new();
    for workload in &service.workloads {
        let (deployment, replicas) = (&workload.name, workload.replicas);
        lines.push(format!("kubectl -n {namespace} scale deployment {deployment} --replicas {replicas}"));
        lines.push(format!("kubectl -n {namespace} rollout status deployment {deployment}"));
    }
    if let (Some(probe), Some(workload)) = (&service.probe, service.workloads.first()) {
        lines.push(ask(namespace, &workload.name, probe));
    }
    if let Some(traffic) = &service.traffic {
        let selector = json!([{ "op": "replace", "path": "/spec/selector", "value": traffic.selector }]);
        lines.push(format!("kubectl -n {namespace} patch service {} --type json -p '{selector}'", traffic.service));
    }
    lines.join("\n")
}

/// Asks a pod of the workload what the plan's probe asks. Over a way of kubectl's own: the person's machine need not
/// reach the pods.
fn ask(namespace: &str, deployment: &str, probe: &Probe) -> String {
    let (port, path) = (probe.http.port, &probe.http.path);
    format!(
        "kubectl -n {namespace} port-forward deployment/{deployment} 18080:{port} > /dev/null & sleep 3\n\
         curl -fsS http://127.0.0.1:18080{path}; kill $!"
    )
}
