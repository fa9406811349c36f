//! The log: text on stderr for people, or JSON on stdout for collectors, the last lines also in memory (`csi::recent`).
//!
//! Owns: what is let through. Libraries speak from `warn` on only: below that, they print what crosses the wire;
//! the client of the Kubernetes API does so above it, too, and is not heard at all.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::csi::recent::RECENT;

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people, on stderr.
    Text,
    /// One JSON object a line, on stdout.
    Json,
}

/// From which level on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What an operator must look at.
    Error,
    /// What went wrong, refused calls included.
    Warn,
    /// Every call.
    Info,
    /// For developers.
    Debug,
    /// For developers, everything.
    Trace,
}

/// Starts the log of this process.
pub fn start(format: LogFormat, level: LogLevel) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let filter = Targets::new()
        .with_target("rockpool", level)
        .with_target("kube_client", LevelFilter::OFF)
        .with_target("kube_runtime", LevelFilter::OFF)
        .with_default(level.min(LevelFilter::WARN));
    // As JSON whatever the log is: who puts them into a bug report has to tell names from other words.
    let kept = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(|| &RECENT);
    let registry = tracing_subscriber::registry().with(filter).with(kept);
    match format {
        LogFormat::Text => {
            let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
            registry.with(lines.with_ansi(std::io::stderr().is_terminal())).init();
        }
        // Nothing else is ever written there by a process that serves.
        LogFormat::Json => {
            let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stdout);
            registry.with(lines.json().flatten_event(true)).init();
        }
    }
}
