//! Two sites, a bucket between them, a hospital on top: told as short stories.
//!
//! ```no_run
//! # #![recursion_limit = "256"]
//! # async fn told() -> anyhow::Result<()> {
//! use holdfast_stories::{Site, story};
//!
//! story("power cut", async |story| {
//!     story.open_hospital().await?;
//!     let load = story.load(16)?;
//!     story.acknowledged(&load, 500).await?;
//!     story.lab.site(Site::Primary).kill().await?;
//!     story.fail_over("failover-1").await?;
//!     load.stop().await?;
//!     story.nothing_is_lost(Site::Standby).await
//! })
//! .await
//! # }
//! ```

mod asking;
mod evidence;
mod gate;
mod install;
mod kubernetes;
mod memory;
mod paste;
mod report;
mod story;
mod timeline;
mod traces;
mod vault;
mod view;

pub use asking::{Complaint, OPERATOR, part};
pub use evidence::tells_of_success;
pub use gate::{Caught, Gate};
pub use holdfast_lab::Site;
pub use install::beside_us;
pub use kubernetes::{Condition, Observed, conditions, epoch_us};
pub use memory::{MEMORY_TARGET_MIB, Memory};
pub use paste::blocks;
pub use report::{Report, spans};
pub use story::{DATABASES, NAMESPACE, PLAN, Story, VAULT, addresses, options, story, story_on_empty_clusters};
pub use timeline::{Mark, Span, Timeline};
pub use traces::{COLLECTOR, Collector, TracedSpan};
pub use view::{DatabaseView, View};
