//! The task of one Vault: passes, and what came of them written into the status.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_api::condition::{find, types};
use holdfast_api::vault::VerificationStatus;
use holdfast_api::{Condition, Problem, VERIFY_NOW_ANNOTATION, Vault, VaultStatus};
use holdfast_vault::{Finding, FindingKind, SharedVerifier, StoreErrorKind, VaultError, VerifyOptions};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::{info, warn};

use super::LOOK;
use super::due::{Due, due};
use super::evidence;
use super::metrics::VaultLabels;
use super::pace::Pace;
use super::part::{of_database_error, part};
use super::scrub::Scrub;
use super::status;
use crate::vault::reason;
use crate::vault_access::VaultAccess;
use crate::{Context, Error, ReconcileError};

/// The field manager of what the verification writes: the reconcile of the same Vault is another.
const FIELD_MANAGER: &str = "holdfast-verification";
const BACKOFF_FIRST: Duration = Duration::from_secs(10);
const BACKOFF_LAST: Duration = Duration::from_secs(600);
/// The name of what belongs to no database.
const SHARED: &str = "journals, plans and evidence";

/// Why a pass does not go on now.
enum Stop {
    /// The spec changed, or the Vault is gone: what is to be done is to be asked again.
    Changed,
    /// Something is in the way. It is tried again.
    Problem(Problem),
}

impl From<VaultError> for Stop {
    fn from(error: VaultError) -> Self {
        let hint = Some(format!("To do: {}", holdfast_api::common::sentence(error.hint())));
        Stop::Problem(Problem { code: reason(&error).to_owned(), message: error.to_string(), hint })
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Problem(Problem { code: error.reason().to_owned(), message: error.to_string(), hint: None })
    }
}

/// The task of one Vault.
pub(super) struct Worker {
    ctx: Arc<Context>,
    /// One step at a time, of all Vaults.
    turn: Arc<Semaphore>,
    reference: ObjectRef<Vault>,
    uid: Option<String>,
    record: VerificationStatus,
    /// What was written last.
    written: (VerificationStatus, Option<Condition>),
    /// The scrub that was interrupted.
    scrub: Option<Scrub>,
    failures: u32,
    not_before: Instant,
}

impl Worker {
    /// A task that goes on from what the Vault's status says.
    pub(super) fn new(ctx: Arc<Context>, turn: Arc<Semaphore>, reference: ObjectRef<Vault>, vault: &Vault) -> Self {
        let status = vault.status.clone().unwrap_or_default();
        let intact = find(&status.conditions, types::INTACT).cloned();
        let record = status.verification.unwrap_or_default();
        let written = (record.clone(), intact);
        let (uid, not_before) = (vault.uid(), Instant::now());
        Self { ctx, turn, reference, uid, record, written, scrub: None, failures: 0, not_before }
    }

    /// Until the Vault is gone.
    pub(super) async fn run(mut self) {
        while let Some(vault) = self.vault() {
            let rest = match due(&vault, &self.record, Timestamp::now()) {
                _ if Instant::now() < self.not_before => LOOK,
                Due::Rest(rest) => rest,
                Due::Begin => {
                    self.begin(&vault);
                    Duration::ZERO
                }
                Due::GoOn => {
                    let result = self.pass(&vault).await;
                    self.after(result)
                }
            };
            self.tell(&vault).await;
            tokio::time::sleep(rest.min(LOOK)).await;
        }
    }

    /// The Vault as it is now; none when it is gone, or another one of the same name took its place.
    fn vault(&self) -> Option<Arc<Vault>> {
        self.ctx.stores.vaults.get(&self.reference).filter(|vault| vault.uid() == self.uid)
    }

    fn begin(&mut self, vault: &Vault) {
        info!(vault = %self.reference, "a pass over everything that is stored begins");
        self.scrub = None;
        self.record.started = Some(Timestamp::now());
        self.record.answered = vault.annotations().get(VERIFY_NOW_ANNOTATION).cloned();
    }

    fn after(&mut self, result: Result<(), Stop>) -> Duration {
        match result {
            Ok(()) => {
                self.failures = 0;
                info!(vault = %self.reference, objects = self.record.objects, bytes = self.record.bytes,
                    findings = self.record.findings, "a pass over everything that is stored is complete");
            }
            Err(Stop::Changed) => {}
            Err(Stop::Problem(problem)) => {
                warn!(vault = %self.reference, reason = problem.code, problem = problem.message, "the pass does not go on");
                self.record.problem = Some(problem);
                let backoff = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(8)).min(BACKOFF_LAST);
                (self.failures, self.not_before) = (self.failures.saturating_add(1), Instant::now() + backoff);
                return LOOK;
            }
        }
        Duration::ZERO
    }

    /// Everything that is left of the pass that is under way.
    async fn pass(&mut self, vault: &Vault) -> Result<(), Stop> {
        let access = self.ctx.open_vault_object(vault).await?;
        let (names, own) = self.databases(vault, &access.vault).await?;
        for name in &names {
            let known = self.record.databases.iter().find(|part| part.name == *name);
            if status::is_due(&self.record, known) {
                self.database(vault, name, own.contains(name)).await?;
                self.tell(vault).await;
            }
        }
        self.shared(vault, &access).await?;
        // Complete only with its evidence: what was looked at is not looked at again for it.
        let mut complete = self.record.clone();
        status::complete(&mut complete, &names, self.now());
        evidence::leave(&access.vault, &mut complete).await?;
        if let Some(problem) = &complete.evidence_problem {
            warn!(vault = %self.reference, problem, "a pass left no evidence");
        }
        self.record = complete;
        Ok(())
    }

    /// The databases to look at, in order, and which of them this site protects or follows. Credentials that may list no
    /// names see those alone.
    async fn databases(
        &self,
        vault: &Vault,
        open: &holdfast_vault::Vault,
    ) -> Result<(Vec<String>, Vec<String>), VaultError> {
        let own = own_databases(&self.ctx, vault);
        let mut names = match open.databases().await {
            Ok(names) => names,
            Err(VaultError::Store(error)) if error.kind == StoreErrorKind::Denied => own.clone(),
            Err(error) => return Err(error),
        };
        names.sort();
        names.dedup();
        Ok((names, own))
    }

    /// Scrubs one database to its end.
    async fn database(&mut self, vault: &Vault, name: &str, is_own: bool) -> Result<(), Stop> {
        let interrupted = self.scrub.take().filter(|scrub| scrub.database() == name);
        let mut scrub = interrupted.unwrap_or_else(|| Scrub::new(name, self.sample(vault), Timestamp::now()));
        let part = match self.steps(vault, &mut scrub).await {
            Ok(()) => part(name, &scrub.totals(), &scrub.result(), Some(self.now())),
            Err(Failed::Vault(VaultError::UnknownDatabase { .. })) => return Ok(()),
            // Another site's, whose names these credentials may list.
            Err(Failed::Vault(VaultError::Store(error))) if error.kind == StoreErrorKind::Denied && !is_own => {
                return Ok(());
            }
            Err(failed) => {
                let of_database = match &failed {
                    Failed::Vault(error) => of_database_error(name, error, self.now()),
                    Failed::Stop(_) => None,
                };
                match of_database {
                    Some(part) => part,
                    None => {
                        scrub.close();
                        self.scrub = Some(scrub);
                        return Err(failed.into());
                    }
                }
            }
        };
        if let Some(worst) = &part.worst {
            warn!(vault = %self.reference, database = name, findings = part.findings, worst = worst.message, "not intact");
        }
        self.record.problem = None;
        status::put(&mut self.record, part);
        Ok(())
    }

    /// Step by step with rests between them.
    async fn steps(&mut self, vault: &Vault, scrub: &mut Scrub) -> Result<(), Failed> {
        loop {
            if !scrub.is_open() {
                let access = self.ctx.open_vault_object(vault).await.map_err(Stop::from)?;
                scrub.open(&access.vault, access.identities).await?;
            }
            let pace = Pace::mebibytes_per_second(vault.spec.verification.mebibytes_per_second);
            let (before, started) = (scrub.totals(), Instant::now());
            let through = {
                let _turn = turn(&self.turn).await;
                scrub.step(pace.budget()).await?
            };
            if through {
                return Ok(());
            }
            self.note(scrub);
            let after = scrub.totals();
            self.rest(vault, pace, (after.bytes - before.bytes, after.requests - before.requests), started).await?;
        }
    }

    /// The first finding of a database that was sound does not wait for the end of the scrub.
    fn note(&mut self, scrub: &Scrub) {
        let old = self.record.databases.iter().find(|part| part.name == scrub.database());
        // What is missing may be on its way: the end of the scrub tells.
        let is_sure = |finding: &&Finding| finding.what != FindingKind::Missing;
        let found: Vec<Finding> = scrub.findings().iter().filter(is_sure).cloned().collect();
        if found.is_empty() || old.is_some_and(|old| old.findings > 0) {
            return;
        }
        let completed = old.and_then(|old| old.completed);
        status::put(&mut self.record, part(scrub.database(), &scrub.totals(), &found, completed));
    }

    /// The end of what is looked at now. Never before the pass began, even if this site's clock was set back meanwhile: it
    /// would be looked at again and again.
    fn now(&self) -> Timestamp {
        Timestamp::now().max(self.record.started.unwrap_or(Timestamp::MIN))
    }

    async fn shared(&mut self, vault: &Vault, access: &VaultAccess) -> Result<(), Stop> {
        if !status::is_due(&self.record, self.record.shared.as_ref()) {
            return Ok(());
        }
        let options = VerifyOptions { parallel: 1, ..VerifyOptions::default() };
        let mut verifier = access.vault.shared_verifier(options);
        self.record.shared = match self.shared_steps(vault, &mut verifier).await {
            Ok(()) => {
                let verdict = verifier.verdict();
                Some(part(SHARED, &verdict.totals, &verdict.findings, Some(self.now())))
            }
            // A site that only protects databases may not read the journals. The site that writes them looks at them.
            Err(Failed::Vault(VaultError::Store(error))) if error.kind == StoreErrorKind::Denied => None,
            Err(failed) => return Err(failed.into()),
        };
        Ok(())
    }

    /// Step by step with rests between them, at the pace of the databases.
    async fn shared_steps(&mut self, vault: &Vault, verifier: &mut SharedVerifier) -> Result<(), Failed> {
        loop {
            let pace = Pace::mebibytes_per_second(vault.spec.verification.mebibytes_per_second);
            let (before, started) = (*verifier.totals(), Instant::now());
            let through = {
                let _turn = turn(&self.turn).await;
                verifier.step(pace.budget()).await?
            };
            if through {
                return Ok(());
            }
            let after = verifier.totals();
            self.rest(vault, pace, (after.bytes - before.bytes, after.requests - before.requests), started).await?;
        }
    }

    /// Rests after a step that read so many bytes with so many requests.
    async fn rest(&mut self, vault: &Vault, pace: Pace, read: (u64, u64), started: Instant) -> Result<(), Stop> {
        let (bytes, requests) = read;
        self.ctx.verification.read(&VaultLabels::of(vault), bytes, requests);
        (self.failures, self.record.problem) = (0, None);
        self.tell(vault).await;
        tokio::time::sleep(pace.rest(bytes, requests, started.elapsed())).await;
        let changed = self.vault().is_none_or(|now| now.metadata.generation != vault.metadata.generation);
        if changed { Err(Stop::Changed) } else { Ok(()) }
    }

    /// Of how many objects the body is read, in per cent.
    fn sample(&self, vault: &Vault) -> f64 {
        let otherwise = if vault.spec.encryption.identity.is_some() { 100 } else { 0 };
        match vault.spec.verification.sample_percent.unwrap_or(otherwise) {
            0 => 0.0,
            _ if self.record.findings > 0 => 100.0,
            sample => f64::from(sample),
        }
    }

    /// Writes what is new into the status, and publishes a transition. What cannot be written now is written at the next
    /// occasion.
    async fn tell(&mut self, vault: &Vault) {
        let (old_record, old_intact) = &self.written;
        let intact = status::intact(vault, &self.record, old_intact.as_ref(), Timestamp::now());
        if *old_record == self.record && old_intact.as_ref() == Some(&intact) {
            return;
        }
        let status = VaultStatus {
            verification: Some(self.record.clone()),
            conditions: vec![intact.clone()],
            ..VaultStatus::default()
        };
        if let Err(error) = self.ctx.patch_status_as(FIELD_MANAGER, vault, &status).await {
            warn!(vault = %self.reference, %error, "what the verification found could not be written into the status");
            return;
        }
        let before: Vec<Condition> = old_intact.clone().into_iter().collect();
        self.ctx.publish_transitions(vault, &before, &status.conditions).await;
        self.written = (self.record.clone(), Some(intact));
    }
}

/// Why a scrub does not go on.
enum Failed {
    Vault(VaultError),
    Stop(Stop),
}

impl From<VaultError> for Failed {
    fn from(error: VaultError) -> Self {
        Failed::Vault(error)
    }
}

impl From<Stop> for Failed {
    fn from(stop: Stop) -> Self {
        Failed::Stop(stop)
    }
}

impl From<Failed> for Stop {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Vault(error) => error.into(),
            Failed::Stop(stop) => stop,
        }
    }
}

async fn turn(semaphore: &Semaphore) -> Option<SemaphorePermit<'_>> {
    // It cannot fail: nobody closes it.
    semaphore.acquire().await.ok()
}

/// The names in the vault of what this namespace protects in it, or follows from it.
fn own_databases(ctx: &Context, vault: &Vault) -> Vec<String> {
    let (namespace, name) = (vault.namespace(), vault.name_any());
    let protected = ctx
        .stores
        .protected_databases
        .state()
        .into_iter()
        .filter(|database| database.namespace() == namespace && database.spec.vault.name == name);
    let standbys = ctx
        .stores
        .standby_databases
        .state()
        .into_iter()
        .filter(|standby| standby.namespace() == namespace && standby.spec.vault.name == name);
    let names = protected.map(|database| database.vault_name().to_owned());
    names.chain(standbys.map(|standby| standby.spec.source.clone())).collect()
}
