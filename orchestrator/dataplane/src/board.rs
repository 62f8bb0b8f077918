//! The one place where a role's tasks leave what `/status` says.

use std::sync::{Arc, Mutex, PoisonError};

/// A shared value; cheap to clone.
#[derive(Debug, Default)]
pub(crate) struct Board<S>(Arc<Mutex<S>>);

impl<S> Clone for Board<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Clone> Board<S> {
    pub(crate) fn new(status: S) -> Self {
        Self(Arc::new(Mutex::new(status)))
    }

    pub(crate) fn read(&self) -> S {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the value and returns what `change` returns.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut S) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
