//! The driver as a process: how it is started, what it says, how it ends.
//!
//! Owns: its command line, its log, and the one child that runs. Never: asks it anything, or knows what its pool lies on.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};

use crate::Outcome;

/// How a driver ended that was ended by us.
pub(crate) const NOT_RUNNING: &str = "it does not run";

/// What a driver is started with besides its flags.
#[derive(Clone, Debug, Default)]
pub(crate) struct Around {
    /// What is set in its environment.
    pub(crate) environment: Vec<(String, String)>,
    /// A program that it runs under.
    pub(crate) wrapper: Vec<String>,
}

/// How a start came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// It serves.
    Ready,
    /// It stopped itself at a step.
    Stopped,
    /// It is gone, with this status.
    Died(String),
}

/// The program under test, with the files of one node.
pub(crate) struct Program {
    binary: PathBuf,
    dir: PathBuf,
    child: Mutex<Option<Child>>,
    around: Mutex<Around>,
}

impl Program {
    /// The files of its node lie in `dir`.
    pub(crate) fn new(binary: &Path, dir: &Path) -> Program {
        Program {
            binary: binary.to_owned(),
            dir: dir.to_owned(),
            child: Mutex::default(),
            around: Mutex::default(),
        }
    }

    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// The pool file.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("pools.toml")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("run/csi.sock")
    }

    pub(crate) fn admin(&self) -> PathBuf {
        self.dir.join("state/admin/admin.sock")
    }

    /// What the next start is done with.
    pub(crate) fn around(&self, around: Around) {
        *self.around.lock().unwrap_or_else(PoisonError::into_inner) = around;
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its command line.
    pub(crate) fn command(&self) -> Outcome<Command> {
        let around = self.around.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut words = around.wrapper.iter();
        let mut command = match words.next() {
            Some(program) => {
                let mut command = Command::new(program);
                command.args(words).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        command.arg("standalone").arg("--config").arg(self.config());
        command.arg("--endpoint").arg(format!("unix://{}", self.socket().display()));
        command.args(["--node-id", "torture"]).arg("--kubelet-root").arg(self.dir.join("kubelet"));
        command.arg("--state-dir").arg(self.dir.join("state"));
        command.envs(around.environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    /// Starts it.
    pub(crate) fn spawn(&self) -> Outcome<()> {
        *self.child() = Some(self.command()?.spawn()?);
        Ok(())
    }

    /// Whether it has died or stopped itself.
    pub(crate) fn ended(&self) -> Outcome<Option<Start>> {
        let mut driver = self.child();
        let Some(child) = driver.as_mut() else {
            return Ok(Some(Start::Died(NOT_RUNNING.to_owned())));
        };
        if let Some(status) = child.try_wait()? {
            return Ok(Some(Start::Died(status.to_string())));
        }
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        Ok((state == Some('T')).then_some(Start::Stopped))
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// Ends it by SIGKILL, at once.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it by SIGTERM.
    pub(crate) fn terminate(&self) -> Outcome<()> {
        let Some(mut child) = self.child().take() else { return Ok(()) };
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        let status = child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("SIGTERM ended the driver with {status}").into()) }
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The end of its log.
    pub(crate) fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// A copy of all it has logged.
    pub(crate) fn copy_log(&self, to: &Path) -> Outcome<()> {
        std::fs::copy(self.log(), to)?;
        Ok(())
    }

    /// Forgets the log where it has become long.
    pub(crate) fn trim_log(&self) {
        if std::fs::metadata(self.log()).is_ok_and(|log| log.len() > 64 << 20) {
            let _ = std::fs::OpenOptions::new().write(true).truncate(true).open(self.log());
        }
    }
}
