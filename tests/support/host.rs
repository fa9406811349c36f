//! What programs that drive the real binary do to the host: run programs, and unmount what they left.

use std::path::Path;
use std::process::{Command, Stdio};

use rockpool::os::mount;

/// What goes wrong is told to a person.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Runs a program; what it printed.
pub(crate) fn run(command: &mut Command) -> Outcome<String> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{:?} ended with {}: {said}", command.get_program(), output.status).into())
}

/// Unmounts what is mounted below, from the innermost out; says what resists.
pub(crate) fn clear(below: &Path) -> Vec<String> {
    let mut left = Vec::new();
    // As the table shows it.
    let below = below.canonicalize().unwrap_or_else(|_| below.to_owned());
    for mounted in mount::table().unwrap_or_default().iter().rev() {
        if mounted.point.starts_with(&below)
            && let Err(error) = mount::unmount_path(&mounted.point)
        {
            left.push(rockpool::error::chain(&error));
        }
    }
    left
}
