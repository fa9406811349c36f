//! Programs: the only place that runs one.
//!
//! Owns: the program's arguments, environment, output and time. Never: a shell, an inherited environment, or a search
//! path from outside.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{Error, Result};

/// How long a program may take before it is killed, unless the caller says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(120);

const DIRECTORIES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const MOST_OUTPUT: usize = 1 << 20;
const MOST_SAID: usize = 300;

/// How a program ended that was not killed.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: i32,
    /// All that it wrote to its standard output.
    pub output: String,
    /// The last lines of its standard error, or else of its output, at most 300 bytes.
    pub said: String,
    /// The last 4 KiB of its standard error as they are.
    pub errors: String,
}

/// Runs a program to its end and returns its output. Arguments go to it as they are; there is no shell.
///
/// # Errors
/// `Program` with the last lines of what it said if its exit code is not 0, or it took longer than [`DEADLINE`];
/// `Precondition` if it is not installed.
pub fn run<A: AsRef<OsStr>>(program: &str, arguments: &[A], what: &str) -> Result<String> {
    let ended = run_within(program, arguments, what, DEADLINE)?;
    if ended.code == 0 {
        return Ok(ended.output);
    }
    let said = match ended.said.as_str() {
        "" => format!("{program} ended with code {}", ended.code),
        said => said.to_owned(),
    };
    Err(Error::Program { what: what.to_owned(), said })
}

/// Runs a program to its end, for callers to whom an exit code other than 0 tells something.
///
/// # Errors
/// As [`run`], but every exit code is `Ok`.
pub fn run_within<A: AsRef<OsStr>>(
    program: &str,
    arguments: &[A],
    what: &str,
    deadline: Duration,
) -> Result<Ended> {
    let path = locate(program).ok_or_else(|| {
        let hint =
            package(program).map_or_else(String::new, |name| format!("; the Debian package {name} has it"));
        Error::Precondition(format!("{what}: the program {program} is not installed{hint}"))
    })?;
    let child = Command::new(path)
        .args(arguments)
        .env_clear()
        .env("PATH", SEARCH)
        .env("LC_ALL", "C")
        .envs(settings(program))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| Error::host(format!("{what}: failed to start {program}"), e))?;
    let (status, heard) =
        attend(child, deadline).map_err(|e| Error::host(format!("{what}: failed to run {program}"), e))?;
    let failed = |said: String| Error::Program { what: what.to_owned(), said };
    match status.code() {
        _ if heard.late => {
            Err(failed(format!("{program} took longer than {} s and was killed", deadline.as_secs())))
        }
        Some(_) if heard.output.len() > MOST_OUTPUT => {
            Err(failed(format!("{program} printed more than 1 MiB")))
        }
        Some(code) => Ok(Ended {
            code,
            output: String::from_utf8_lossy(&heard.output).into_owned(),
            said: heard.said(),
            errors: heard.errors(),
        }),
        None => {
            Err(failed(format!("{program} was killed by signal {}", status.signal().unwrap_or_default())))
        }
    }
}

/// Whether a program is installed where [`run`] looks for it.
pub fn found(program: &str) -> bool {
    locate(program).is_some()
}

/// What one program needs in its environment beside the common part.
fn settings(program: &str) -> Option<(&'static str, &'static str)> {
    // The host's own configuration must not decide what a volume's ext4 looks like.
    (program == "mke2fs").then_some(("MKE2FS_CONFIG", "/dev/null"))
}

fn locate(program: &str) -> Option<PathBuf> {
    let named = !program.is_empty() && !program.contains('/');
    DIRECTORIES
        .iter()
        .map(|dir| PathBuf::from(format!("{dir}/{program}")))
        .find(|path| named && path.is_file())
}

/// The package that has a program, as Debian calls it.
pub fn package(program: &str) -> Option<&'static str> {
    Some(match program {
        "mkfs.ext4" | "mke2fs" | "e2fsck" | "resize2fs" | "tune2fs" | "dumpe2fs" | "chattr" => "e2fsprogs",
        "mkfs.xfs" | "xfs_growfs" | "xfs_repair" | "xfs_admin" | "xfs_io" => "xfsprogs",
        "mkfs.btrfs" | "btrfs" => "btrfs-progs",
        "lvm" | "lvs" | "vgs" | "pvs" | "lvcreate" | "lvremove" | "lvchange" | "lvextend" => "lvm2",
        "thin_delta" | "thin_dump" | "thin_check" => "thin-provisioning-tools",
        "cryptsetup" => "cryptsetup-bin",
        "mount" | "umount" => "mount",
        "blkid" | "wipefs" | "fstrim" | "fsck" => "util-linux",
        _ => return None,
    })
}

/// What came from a program while it ran.
#[derive(Default)]
struct Heard {
    output: Vec<u8>,
    errors: VecDeque<u8>,
    late: bool,
}

impl Heard {
    fn errors(&self) -> String {
        let bytes: Vec<u8> = self.errors.iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last whole lines of standard error that fit, as one line without control characters. A program that asks a
    /// question that nobody answers may have said so only on its standard output.
    fn said(&self) -> String {
        let mut words = self.errors();
        if words.is_empty() {
            let end = self.output.len().saturating_sub(4096);
            words = String::from_utf8_lossy(&self.output[end..]).into_owned();
        }
        // mkfs.xfs prints all its options after what is wrong.
        let text = words.split("Usage:").next().unwrap_or_default();
        let mut said = String::new();
        for line in text.lines().rev().map(str::trim).filter(|line| !line.is_empty()) {
            let clean: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let joined = if said.is_empty() { clean } else { format!("{clean}; {said}") };
            if joined.len() > MOST_SAID {
                if said.is_empty() {
                    let start = (joined.len() - MOST_SAID..).find(|at| joined.is_char_boundary(*at));
                    said = joined[start.unwrap_or_default()..].to_owned();
                }
                break;
            }
            said = joined;
        }
        said
    }
}

/// Reads what the program prints until it ends, and kills it when its time is over.
fn attend(mut child: Child, deadline: Duration) -> std::io::Result<(ExitStatus, Heard)> {
    let mut heard = Heard::default();
    let listened = listen(&mut child, deadline, &mut heard);
    if listened.is_err() {
        // Not waited for yet, so the pid is still its own.
        let _ = child.kill();
    }
    let status = child.wait()?;
    listened.map(|()| (status, heard))
}

fn listen(child: &mut Child, deadline: Duration, heard: &mut Heard) -> std::io::Result<()> {
    let (Some(mut output), Some(mut errors)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(ErrorKind::BrokenPipe.into());
    };
    rustix::io::ioctl_fionbio(&output, true)?;
    rustix::io::ioctl_fionbio(&errors, true)?;
    // The handle means this process and no other, even after its pid was given away.
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let (started, mut open) = (Instant::now(), [true, true]);
    loop {
        let left = deadline.saturating_sub(started.elapsed());
        let mut waiting = vec![PollFd::new(&process, PollFlags::IN)];
        let pipes = [output.as_fd(), errors.as_fd()];
        waiting
            .extend((0..2).filter(|i| open[*i]).map(|i| PollFd::from_borrowed_fd(pipes[i], PollFlags::IN)));
        let time = rustix::time::Timespec::try_from(left).map_err(|_| ErrorKind::InvalidInput)?;
        let ready = match poll(&mut waiting, Some(&time)) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        // A grandchild may keep a pipe open: what matters is that the program itself has ended.
        let ended = !waiting[0].revents().is_empty();
        open[0] = open[0] && drain(&mut output, |bytes| heard.hear_output(bytes))?;
        open[1] = open[1] && drain(&mut errors, |bytes| heard.hear_errors(bytes))?;
        if ended {
            return Ok(());
        }
        if ready == 0 && !heard.late {
            heard.late = true;
            pidfd_send_signal(&process, Signal::KILL)?;
            return Ok(());
        }
    }
}

/// Reads what is there, but no more than a pipe can hold; false when nothing can come any more.
fn drain(pipe: &mut impl Read, mut hear: impl FnMut(&[u8])) -> std::io::Result<bool> {
    let mut buffer = [0; 8192];
    for _ in 0..128 {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => hear(&buffer[..count]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

impl Heard {
    fn hear_output(&mut self, bytes: &[u8]) {
        let room = (MOST_OUTPUT + 1).saturating_sub(self.output.len());
        self.output.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn hear_errors(&mut self, bytes: &[u8]) {
        self.errors.extend(bytes);
        let surplus = self.errors.len().saturating_sub(4096);
        self.errors.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_reach_the_program_as_they_are_and_the_environment_does_not() {
        assert_eq!(
            run("echo", &["-n", "$HOME; a  b", "`id`"], "failed to echo").unwrap(),
            "$HOME; a  b `id`"
        );
        let environment = run::<&str>("env", &[], "failed to list").unwrap();
        let mut lines: Vec<_> = environment.lines().filter(|line| !line.starts_with("PWD=")).collect();
        lines.sort_unstable();
        assert_eq!(lines, ["LC_ALL=C", &format!("PATH={SEARCH}")]);
    }

    #[test]
    fn a_failure_carries_the_last_words() {
        let error =
            run("sh", &["-c", "echo out; seq 1 9999 >&2; echo 'no such thing' >&2; exit 3"], "failed to try")
                .unwrap_err();
        let Error::Program { what, said } = error else { panic!("{error:?}") };
        assert_eq!(what, "failed to try");
        assert!(said.ends_with("9999; no such thing") && said.len() <= 300, "{said}");
        let error = run("sh", &["-c", "echo 'Proceed anyway?'; exit 1"], "failed to try").unwrap_err();
        assert_eq!(error.to_string(), "failed to try: Proceed anyway?");
        let error = run("sh", &["-c", "exit 3"], "failed to try").unwrap_err();
        assert_eq!(error.to_string(), "failed to try: sh ended with code 3");
        let error = run("sh", &["-c", "kill -9 $$"], "failed to try").unwrap_err();
        assert_eq!(error.to_string(), "failed to try: sh was killed by signal 9");
    }

    #[test]
    fn one_endless_line_is_cut_to_its_end() {
        let error = run(
            "sh",
            &["-c", "head -c 99999 /dev/zero | tr '\\0' x >&2; printf äöend >&2; exit 1"],
            "failed",
        )
        .unwrap_err();
        let Error::Program { said, .. } = error else { panic!("{error:?}") };
        assert!(said.ends_with("äöend") && said.len() <= 300, "{said}");
    }

    #[test]
    fn an_exit_code_can_be_the_answer() {
        let ended = run_within("sh", &["-c", "echo yes; exit 1"], "failed to ask", DEADLINE).unwrap();
        assert_eq!((ended.code, ended.output.as_str()), (1, "yes\n"));
    }

    #[test]
    fn a_program_that_hangs_is_killed_in_time() {
        let started = Instant::now();
        let error = run_within("sleep", &["600"], "failed to sleep", Duration::from_millis(200)).unwrap_err();
        assert!(error.to_string().contains("was killed"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_grandchild_that_keeps_the_pipe_is_not_waited_for() {
        let started = Instant::now();
        let output = run("sh", &["-c", "sleep 120 & echo $!"], "failed to fork").unwrap();
        assert!(started.elapsed() < Duration::from_secs(60));
        let pid = output.trim().parse().ok().and_then(Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_its_package() {
        assert!(found("sh") && !found("mkfs.nothing") && !found("../bin/sh") && !found(""));
        let error = run::<&str>("mkfs.nothing", &[], "failed to format").unwrap_err();
        assert_eq!(error.to_string(), "failed to format: the program mkfs.nothing is not installed");
        assert_eq!(package("mkfs.xfs"), Some("xfsprogs"));
    }

    #[test]
    fn much_output_is_refused_without_blocking() {
        let error = run("head", &["-c", "3000000", "/dev/zero"], "failed to read").unwrap_err();
        assert!(error.to_string().contains("more than 1 MiB"), "{error}");
    }
}
