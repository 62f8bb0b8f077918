use std::io;
use std::time::Duration;

/// What can go wrong in the lab. The message says what was tried; the source says why it failed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// This machine cannot run the lab; the text says what is missing and what to do.
    #[error("{0}")]
    Machine(String),
    #[error("could not {what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("`{command}` failed ({status}){}", output_block(.output))]
    Command {
        command: String,
        status: String,
        /// The end of what it printed.
        output: String,
    },
    #[error("waited {} s for {what}; last seen: {last}", .after.as_secs())]
    Timeout { what: String, after: Duration, last: String },
    #[error("{what}")]
    Kubernetes {
        what: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("{what}: {message}")]
    Store { what: String, message: String },
    #[error("{0}")]
    State(String),
}

pub type Result<T, E = LabError> = std::result::Result<T, E>;

fn output_block(output: &str) -> String {
    match output.trim() {
        "" => String::new(),
        text => format!(":\n{text}"),
    }
}

/// Adds what was being done to an [`io::Error`].
pub(crate) trait IoContext<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| LabError::Io { what: what(), source })
    }
}
