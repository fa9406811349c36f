//! The network of the cluster: one namespace for each part, and between them a switch that can be told to fail.
//!
//! Owns: the namespaces, the cables, the rules by which the switch drops packets. The switch is the namespace of the test itself,
//! which the script made for it, so that all of it goes with the test. Never: touches a network that it has not made.
//!
//! ```text
//!   n1 ── 10.77.1.2        ┌────────┐        10.77.4.2 ── c1
//!   n2 ── 10.77.2.2 ───────│ switch │─────── 10.77.5.2 ── c2
//!   n3 ── 10.77.3.2        └────────┘
//! ```

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

use crate::Outcome;
use crate::host::run;

/// Where named namespaces are kept; the script has put a filesystem of its own there.
const NAMES: &str = "/run/netns";

/// How packets on a way are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nobody hears of it.
    Silent,
    /// The sender is told.
    Loud,
}

/// The end of a cable.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    name: String,
    number: u8,
}

impl Port {
    /// A namespace with one cable to the switch. Numbers from 1 on, each once.
    pub(crate) fn new(name: &str, number: u8) -> Outcome<Port> {
        let port = Port { name: name.to_owned(), number };
        let (inside, outside) = (port.address(), Ipv4Addr::new(10, 77, number, 1));
        let switch = port.cable();
        ip(&["netns", "add", name])?;
        ip(&["link", "add", &switch, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        ip(&["address", "add", &format!("{outside}/24"), "dev", &switch])?;
        ip(&["link", "set", &switch, "up"])?;
        for words in [
            &["link", "set", "lo", "up"][..],
            &["address", "add", &format!("{inside}/24"), "dev", "eth0"],
            &["link", "set", "eth0", "up"],
            &["route", "add", "default", "via", &outside.to_string()],
        ] {
            ip(&[&["-n", name], words].concat())?;
        }
        Ok(port)
    }

    /// Its address.
    pub(crate) fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 2)
    }

    /// Takes it away, with whoever is left there.
    pub(crate) fn remove(&self) {
        // One that is gone already is as good.
        let _ = ip(&["link", "del", &self.cable()]);
        let _ = ip(&["netns", "del", &self.name]);
    }

    fn cable(&self) -> String {
        format!("sw-{}", self.name)
    }

    /// The namespace as a file.
    pub(crate) fn namespace(&self) -> PathBuf {
        PathBuf::from(NAMES).join(&self.name)
    }

    /// A command that runs in this namespace of the network, and in no other one of its own.
    pub(crate) fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace().display())).arg("--").arg(program);
        command
    }

    /// Pulls the cable.
    pub(crate) fn unplug(&self) -> Outcome<()> {
        ip(&["link", "set", &self.cable(), "down"])
    }

    /// Puts it back.
    pub(crate) fn plug(&self) -> Outcome<()> {
        ip(&["link", "set", &self.cable(), "up"])
    }

    /// Ends every connection over this cable, both ends of which hear so at once.
    pub(crate) fn reset(&self) -> Outcome<()> {
        run(self.command("ss".as_ref()).args(["-K", "-t", "state", "established"])).map(drop)
    }
}

/// The switch passes packets on, and loses none.
pub(crate) fn switch_on() -> Outcome<()> {
    ip(&["link", "set", "lo", "up"])?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    Ok(())
}

/// From now on what `from` sends to `to` is lost; the other way is as it was.
pub(crate) fn cut(from: &Port, to: &Port, loss: Loss) -> Outcome<()> {
    rule("add", from, to, loss)
}

/// What was lost since [`cut`] comes through again.
pub(crate) fn mend(from: &Port, to: &Port, loss: Loss) -> Outcome<()> {
    rule("del", from, to, loss)
}

fn rule(verb: &str, from: &Port, to: &Port, loss: Loss) -> Outcome<()> {
    let how = match loss {
        Loss::Silent => "blackhole",
        Loss::Loud => "prohibit",
    };
    let preference = (100 + u32::from(from.number) * 16 + u32::from(to.number)).to_string();
    let (from, to) = (from.address().to_string(), to.address().to_string());
    ip(&["rule", verb, "from", &from, "to", &to, "pref", &preference, how])
}

fn ip(words: &[&str]) -> Outcome<()> {
    run(Command::new("ip").args(words)).map(drop)
}
