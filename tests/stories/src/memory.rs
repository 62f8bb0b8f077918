//! How much memory Holdfast's parts take.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use holdfast_lab::Site;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use crate::story::Story;

/// What each part may take at most, under load.
pub const MEMORY_TARGET_MIB: u64 = 64;

/// Peaks by part, in bytes; of several pods the largest.
#[derive(Clone, Debug, Default)]
pub struct Memory(BTreeMap<String, u64>);

impl Memory {
    /// Takes over what is larger there.
    pub fn join(&mut self, other: Memory) {
        for (part, bytes) in other.0 {
            let most = self.0.entry(part).or_default();
            *most = bytes.max(*most);
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let mut line = String::from("memory, peak resident:");
        for (part, bytes) in &self.0 {
            // Writing to a String cannot fail.
            let _ = write!(line, " {part} {:.1} MiB,", *bytes as f64 / f64::from(1 << 20));
        }
        line + &format!(" each at most {MEMORY_TARGET_MIB} as the target")
    }
}

impl Story {
    /// The most that the operator, an agent and a relay of a site had resident at any moment since they were started, as
    /// the kernel counts it: code and stack included.
    pub async fn peak_memory(&self, site: Site) -> Result<Memory> {
        let parts = ListParams::default().labels("app.kubernetes.io/component in (operator, agent, relay)");
        let mut memory = Memory::default();
        for pod in Api::<Pod>::all(self.client(site).await?).list(&parts).await? {
            let running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
            let (true, Some(part)) = (running, pod.labels().get("app.kubernetes.io/component")) else { continue };
            let namespace = pod.namespace().unwrap_or_default();
            let bytes = self.lab.site(site).peak_memory_bytes(&namespace, &pod.name_any()).await?;
            memory.join(Memory([(part.clone(), bytes)].into()));
        }
        Ok(memory)
    }
}
