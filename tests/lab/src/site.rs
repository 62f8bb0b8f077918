//! One site: a real single-node Kubernetes cluster in namespaces of its own.
//!
//! Its network, mount, PID, UTS and IPC namespaces live exactly as long as its PID 1, which is this
//! program ([`supervisor`]): kill that one process and the whole site is gone, as in a power cut.

pub(crate) mod certificates;
pub(crate) mod cgroup;
pub(crate) mod config;
pub(crate) mod launch;
pub(crate) mod programs;
pub(crate) mod supervisor;

use std::fmt;

use serde::{Deserialize, Serialize};

/// The two sites of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Site {
    Primary,
    Standby,
}

impl Site {
    pub const ALL: [Self; 2] = [Self::Primary, Self::Standby];

    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
        }
    }

    pub(crate) fn index(self) -> u8 {
        match self {
            Self::Primary => 1,
            Self::Standby => 2,
        }
    }

    /// The node's address: the API server and NodePorts answer here.
    pub fn ip(self) -> String {
        format!("10.77.0.1{}", self.index())
    }

    pub(crate) fn services(self) -> String {
        format!("10.9{}.0.0/24", self.index())
    }

    /// The Service `kubernetes`: the first address of the range.
    pub(crate) fn api_service(self) -> String {
        format!("10.9{}.0.1", self.index())
    }

    pub(crate) fn dns_service(self) -> String {
        format!("10.9{}.0.10", self.index())
    }

    pub(crate) fn pods(self) -> String {
        format!("10.8{}.0.0/24", self.index())
    }

    /// The end of the site's link that is plugged into the bridge.
    pub(crate) fn link(self) -> String {
        format!("hf-v{}", self.index())
    }

    /// The other end, before it is moved into the site as `eth0`.
    pub(crate) fn inner_link(self) -> String {
        format!("hf-p{}", self.index())
    }

    /// Fixed, so that neighbours find the site at once when its power comes back.
    pub(crate) fn mac(self) -> String {
        format!("02:48:46:00:00:1{}", self.index())
    }

    pub(crate) fn cgroup(self) -> String {
        format!("hf-{}", self.name())
    }
}

impl fmt::Display for Site {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}
