//! The one place that releases the GIL.

use std::sync::Mutex;

use irouter_sim::SimError;
use pyo3::prelude::*;

use crate::error::to_python;

/// Runs `work` without the GIL, for work of milliseconds and more.
pub(crate) fn detached<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, SimError> + Send,
) -> PyResult<T> {
    py.detach(work).map_err(to_python)
}

/// A Python callback for progress, called as `callback(done, total)` from any thread. When it raises, or a signal such as
/// Ctrl-C has come, the work is told to stop and the exception is kept.
pub(crate) struct Progress {
    callback: Option<Py<PyAny>>,
    raised: Mutex<Option<PyErr>>,
}

impl Progress {
    pub(crate) fn new(callback: Option<Py<PyAny>>) -> Self {
        Self { callback, raised: Mutex::new(None) }
    }

    /// Reports progress; false when the work is to stop.
    pub(crate) fn report(&self, done: usize, total: usize) -> bool {
        let result = Python::attach(|py| {
            py.check_signals()?;
            self.callback.as_ref().map_or(Ok(()), |callback| callback.call1(py, (done, total)).map(drop))
        });
        match result {
            Ok(()) => true,
            Err(error) => {
                if let Ok(mut raised) = self.raised.lock() {
                    raised.get_or_insert(error);
                }
                false
            }
        }
    }

    /// The exception that stopped the work, if one did.
    pub(crate) fn into_error(self) -> Option<PyErr> {
        self.raised.into_inner().ok().flatten()
    }
}
