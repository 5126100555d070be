//! What the name and the options of an external policy say.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use irouter_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::PREFIX;

/// Where the policy is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Target {
    /// A process that listens on this socket, started by somebody else.
    Socket(PathBuf),
    /// A program with arguments, to be started for each run.
    Command(Vec<String>),
}

impl Target {
    /// Reads `external:PATH.sock` or `external:PROGRAM ARGUMENTS`. Words of a command end at white space, without quoting.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        let text = name.strip_prefix(PREFIX).unwrap_or(name).trim();
        let path = Path::new(text);
        if path.extension().is_some_and(|extension| extension == "sock") {
            let is_socket = path.metadata().is_ok_and(|metadata| metadata.file_type().is_socket());
            let bad = || Error::field("policy", name, "the path of a Unix socket that a process listens on");
            return is_socket.then(|| Self::Socket(path.to_owned())).ok_or_else(bad);
        }
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        match words.first() {
            Some(program) if is_program(program) => Ok(Self::Command(words)),
            Some(program) => Err(Error::field(
                "policy",
                name,
                format!("a program; there is no `{program}`, nor on the PATH"),
            )),
            None => Err(Error::field("policy", name, "`external:PATH.sock` or `external:PROGRAM ARGUMENTS`")),
        }
    }
}

fn is_program(word: &str) -> bool {
    if word.contains('/') {
        return Path::new(word).is_file();
    }
    std::env::var_os("PATH")
        .is_some_and(|folders| std::env::split_paths(&folders).any(|folder| folder.join(word).is_file()))
}

/// How long a policy may take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Limits {
    /// Seconds for each answer.
    pub(crate) timeout_s: f64,
    /// Seconds to start, connect and answer the greeting.
    pub(crate) start_timeout_s: f64,
    /// After so many late answers in a row it is not asked any more.
    pub(crate) max_timeouts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { timeout_s: 1.0, start_timeout_s: 30.0, max_timeouts: 3 }
    }
}

impl Limits {
    pub(crate) fn new(options: &Map<String, Value>) -> Result<Self> {
        let schema = |error: serde_json::Error| Error::Schema {
            what: "options of an external policy".into(),
            message: error.to_string(),
        };
        let defaults = serde_json::to_value(Self::default()).map_err(schema)?;
        let known = || defaults.as_object().into_iter().flat_map(|known| known.keys().map(String::as_str));
        if let Some(bad) = options.keys().find(|option| known().all(|name| name != option.as_str())) {
            return Err(Error::unknown("policy option", bad, known()));
        }
        let limits: Self = serde_json::from_value(Value::Object(options.clone())).map_err(schema)?;
        for (field, seconds) in [("timeout_s", limits.timeout_s), ("start_timeout_s", limits.start_timeout_s)]
        {
            if !(seconds > 0.0 && seconds <= 3600.0) {
                return Err(Error::field(field, seconds, "a number of seconds above 0, at most 3600"));
            }
        }
        if limits.max_timeouts == 0 {
            return Err(Error::field("max_timeouts", 0, "at least 1"));
        }
        Ok(limits)
    }

    pub(crate) fn answer(&self) -> Duration {
        Duration::from_secs_f64(self.timeout_s)
    }

    pub(crate) fn start(&self) -> Duration {
        Duration::from_secs_f64(self.start_timeout_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_its_words_and_its_program_must_exist() {
        let words = ["sh", "policy.sh", "--fast"].map(str::to_owned).to_vec();
        assert_eq!(Target::parse("external: sh policy.sh  --fast").unwrap(), Target::Command(words));
        for (name, expected) in [
            ("external:no-such-program x", "there is no `no-such-program`"),
            ("external:./no/such/program", "there is no `./no/such/program`"),
            ("external:", "`external:PATH.sock` or `external:PROGRAM ARGUMENTS`"),
            ("external:/no/such.sock", "the path of a Unix socket"),
        ] {
            let message = Target::parse(name).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn limits_out_of_range_and_unknown_ones_are_named() {
        let limits = |text: &str| {
            let Value::Object(options) = serde_json::from_str(text).unwrap() else { panic!("{text}") };
            Limits::new(&options)
        };
        assert_eq!(limits("{}").unwrap(), Limits::default());
        assert_eq!(limits(r#"{"timeout_s": 2}"#).unwrap().answer(), Duration::from_secs(2));
        for (text, expected) in [
            (r#"{"timeout_s": 0}"#, "`timeout_s` is 0"),
            (r#"{"start_timeout_s": -1}"#, "`start_timeout_s` is -1"),
            (r#"{"max_timeouts": 0}"#, "`max_timeouts` is 0"),
            (r#"{"timeout": 1}"#, "did you mean `timeout_s`?"),
            (r#"{"timeout_s": "1"}"#, "invalid type"),
        ] {
            let message = limits(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
