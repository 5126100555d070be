//! Errors of workloads, predictors, runs and reports: each names the bad value and what was expected.

/// Result of the simulator.
pub type Result<T, E = SimError> = std::result::Result<T, E>;

/// What can go wrong around a simulation.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// An error of the core, unchanged.
    #[error(transparent)]
    Core(#[from] irouter_core::Error),
    /// A row of a workload holds a bad value.
    #[error("row {row} (counted from 0): `{field}` is {value}, expected {expected}")]
    Row {
        /// Row of the workload, counted from 0.
        row: usize,
        /// Column.
        field: &'static str,
        /// The bad value.
        value: String,
        /// What would be accepted.
        expected: String,
    },
    /// Requests of a workload can never run.
    #[error(
        "{request} (requests counted from 0); {too_long} of {requests} do not fit, `drop_too_long` leaves them out"
    )]
    TooLong {
        /// The first of them.
        request: irouter_core::Error,
        /// How many do not fit.
        too_long: usize,
        /// How many there are.
        requests: usize,
    },
    /// Two columns of a workload differ in length.
    #[error("column `{field}` has {found} rows, expected {expected} like `arrival`")]
    Columns {
        /// The column that differs.
        field: &'static str,
        /// Its rows.
        found: usize,
        /// Rows of the arrivals.
        expected: usize,
    },
    /// There is nothing to work with.
    #[error("{what} is empty, expected {expected}")]
    Empty {
        /// What was given.
        what: &'static str,
        /// What would be accepted.
        expected: &'static str,
    },
    /// A parameter is out of range.
    #[error("`{field}` is {value}, expected {expected}")]
    Field {
        /// Path of the field.
        field: String,
        /// The bad value.
        value: String,
        /// What would be accepted.
        expected: String,
    },
    /// Requests wait, and nothing can ever happen again.
    #[error("{waiting} requests wait at the router after {at} s and nothing is left that could end the wait")]
    Stuck {
        /// Requests at the router.
        waiting: usize,
        /// Seconds from the start of the run.
        at: f64,
    },
    /// The caller asked for an end.
    #[error("interrupted")]
    Interrupted,
    /// Text is not valid JSON of its schema.
    #[error("{what}: {message}")]
    Schema {
        /// What was being read.
        what: &'static str,
        /// The parser's message with line and column.
        message: String,
    },
    /// A figure of a report is not a finite number.
    #[error("`{key}` of the report is {value}, expected a finite number")]
    NotFinite {
        /// Key in the report.
        key: String,
        /// The bad value.
        value: f64,
    },
}

impl SimError {
    /// A bad value in a row of a workload.
    #[expect(clippy::needless_pass_by_value, reason = "callers give literals and temporaries")]
    pub fn row(row: usize, field: &'static str, value: impl ToString, expected: impl Into<String>) -> Self {
        Self::Row { row, field, value: value.to_string(), expected: expected.into() }
    }

    /// A parameter that is out of range.
    #[expect(clippy::needless_pass_by_value, reason = "callers give literals and temporaries")]
    pub fn field(field: impl Into<String>, value: impl ToString, expected: impl Into<String>) -> Self {
        Self::Field { field: field.into(), value: value.to_string(), expected: expected.into() }
    }
}
