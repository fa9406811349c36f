//! One part of the cluster: a process of the program under test at the end of a cable.
//!
//! Owns: its command line, its log, its end. Never: asks it anything.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};

use crate::Outcome;
use crate::net::Port;

/// A process that is started again and again with the same words.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) port: Port,
    binary: PathBuf,
    dir: PathBuf,
    words: Mutex<Vec<String>>,
    environment: Mutex<Vec<(String, String)>>,
    child: Mutex<Option<Child>>,
    /// How long the log was when somebody turned the page.
    page: AtomicUsize,
}

impl Part {
    /// The files of a part lie in `base`, in a directory of its name.
    pub(crate) fn new(base: &Path, name: &str, port: Port, binary: &Path) -> Outcome<Part> {
        let dir = base.join(name);
        std::fs::create_dir_all(dir.join("keys"))?;
        Ok(Part {
            name: name.to_owned(),
            port,
            binary: binary.to_owned(),
            dir,
            words: Mutex::default(),
            environment: Mutex::default(),
            child: Mutex::default(),
            page: AtomicUsize::new(0),
        })
    }

    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// A file of this part.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.file("run/csi.sock")
    }

    pub(crate) fn admin(&self) -> PathBuf {
        self.file("state/admin/admin.sock")
    }

    /// What it is started with.
    pub(crate) fn words(&self, words: Vec<String>) {
        *lock(&self.words) = words;
    }

    /// What it is started with besides.
    pub(crate) fn environment(&self, environment: Vec<(String, String)>) {
        *lock(&self.environment) = environment;
    }

    pub(crate) fn words_now(&self) -> Vec<String> {
        lock(&self.words).clone()
    }

    pub(crate) fn environment_now(&self) -> Vec<(String, String)> {
        lock(&self.environment).clone()
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        lock(&self.child)
    }

    /// Starts it, if it does not run.
    pub(crate) fn spawn(&self) -> Outcome<()> {
        let mut child = self.child();
        if child.is_some() {
            return Ok(());
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = self.port.command(&self.binary);
        command.args(lock(&self.words).iter()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(lock(&self.environment).clone());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        *child = Some(command.spawn()?);
        Ok(())
    }

    /// Its pid, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// With what it ended by itself.
    pub(crate) fn ended(&self) -> Outcome<Option<String>> {
        match self.child().as_mut() {
            Some(child) => Ok(child.try_wait()?.map(|status| status.to_string())),
            None => Ok(None),
        }
    }

    /// Ends it by SIGKILL, at once.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it by SIGTERM, which it must follow.
    pub(crate) fn terminate(&self) -> Outcome<()> {
        let Some(mut child) = self.child().take() else { return Ok(()) };
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        let status = child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("SIGTERM ended {} with {status}", self.name).into())
        }
    }

    /// Stops it, or lets it go on.
    pub(crate) fn signal(&self, signal: Signal) -> Outcome<()> {
        if let Some(child) = self.child().as_ref() {
            kill_process(Pid::from_child(child), signal)?;
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.file("log")
    }

    fn all_said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// What it has said since somebody turned the page.
    pub(crate) fn said(&self) -> String {
        self.all_said().split_off(self.page.load(Ordering::Relaxed))
    }

    /// What was said so far is no longer of interest.
    pub(crate) fn turn_the_page(&self) {
        self.page.store(self.all_said().len(), Ordering::Relaxed);
    }

    /// The end of that.
    pub(crate) fn said_last(&self) -> String {
        let said = self.all_said();
        let lines: Vec<_> = said.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.kill();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
