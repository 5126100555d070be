//! A process that is started for one run and ended with it.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::connection::{now, remaining};

/// Environment variable with the path of the socket that the process is to connect to.
const SOCKET_VARIABLE: &str = "IROUTER_POLICY_SOCKET";
/// How long a process may take to end by itself once its connection is closed.
const GRACE: Duration = Duration::from_secs(1);
/// Time between two looks at a process that is starting or ending.
const LOOK: Duration = Duration::from_millis(2);

/// A running process; dropped, it is ended.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Starts `command` and waits until it has connected.
    ///
    /// What it prints goes to our standard error, since our standard output may be a report.
    pub(crate) fn start(command: &[String], limit: Duration) -> Result<(Self, UnixStream), String> {
        let failed = |what: &'static str| move |error: io::Error| format!("{what} failed: {error}");
        let deadline = now() + limit;
        let folder = PrivateFolder::new().map_err(failed("making a folder for its socket"))?;
        let socket = folder.0.join("policy.sock");
        let listener = listen(&socket).map_err(failed("listening for it"))?;
        let (program, arguments) = command.split_first().ok_or("it has no program")?;
        let child = Command::new(program)
            .args(arguments)
            .env(SOCKET_VARIABLE, &socket)
            .stdin(Stdio::null())
            .stdout(io::stderr())
            .spawn()
            .map_err(failed("starting it"))?;
        let mut process = Self(child);
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).map_err(failed("connecting to it"))?;
                    return Ok((process, stream));
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(failed("connecting to it")(error)),
            }
            if let Ok(Some(status)) = process.0.try_wait() {
                return Err(format!("it ended before it connected to {SOCKET_VARIABLE}: {status}"));
            }
            if remaining(deadline).is_none() {
                return Err(format!(
                    "it did not connect to {SOCKET_VARIABLE} within {} s",
                    limit.as_secs_f64()
                ));
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let deadline = now() + GRACE;
        while remaining(deadline).is_some() {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK);
        }
        // Errors mean that it has ended meanwhile.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(socket)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A folder that nobody else can enter, removed with what is in it.
struct PrivateFolder(PathBuf);

impl PrivateFolder {
    fn new() -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("irouter-{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                // Left behind by a process that had this number before.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        // Nothing is lost where this fails: the folder is a temporary one.
        let _ = fs::remove_dir_all(&self.0);
    }
}
