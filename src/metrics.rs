//! What monitoring can read of this process: the names, labels and meanings of its metrics.
//!
//! Owns: those words. Never: asks a disk or a node: a figure is what is known already, so that a hung disk cannot keep a scrape
//! waiting.
//!
//! Labels are of few values: a method, a code, a pool's name, a reason. What a caller can choose freely is no label.

mod controller;
mod format;
mod node;

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub(crate) use self::controller::of_controller;
pub(crate) use self::format::Format;
pub(crate) use self::node::{Sources, of_node};

/// Upper bounds of the durations that are told apart, in seconds: a create takes milliseconds, the longest call minutes.
const BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// The calls that this process has answered, on whichever socket or connection. Of the process, as its log is.
static CALLS: LazyLock<Calls> = LazyLock::new(Calls::default);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answer {
    method: String,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Method {
    method: String,
}

struct Calls {
    answered: Family<Answer, Counter>,
    took: Family<Method, Histogram>,
}

impl Default for Calls {
    fn default() -> Self {
        let took = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        Calls { answered: Family::default(), took }
    }
}

/// Counts one answered call. `method` is one that is served: another is the caller's own word.
pub(crate) fn answered(method: &str, code: &'static str, took: Duration) {
    let method = method.to_owned();
    CALLS.took.get_or_create(&Method { method: method.clone() }).observe(took.as_secs_f64());
    CALLS.answered.get_or_create(&Answer { method, code }).inc();
}

/// A registry with what every mode counts.
fn registry() -> Registry {
    let mut registry = Registry::with_prefix("rockpool");
    let about = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The version of the program", about);
    registry.register("calls", "Calls that were answered, by gRPC code", CALLS.answered.clone());
    let help = "How long calls took until they were answered";
    registry.register_with_unit("call_duration", help, Unit::Seconds, CALLS.took.clone());
    registry
}

/// One metric whose values are read when it is asked for.
struct Gauges<'a, 'b> {
    encoder: &'a mut DescriptorEncoder<'b>,
}

impl Gauges<'_, '_> {
    /// A gauge with one row for each set of labels.
    fn rows<'r, V>(&mut self, name: &str, help: &str, unit: Option<&Unit>, rows: V) -> fmt::Result
    where
        V: IntoIterator<Item = (&'r [(&'static str, &'r str)], u64)>,
    {
        let mut metric = self.encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in rows {
            ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// A gauge of one value.
    fn one(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)
    }

    /// A counter of one value.
    fn count(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)
    }

    /// A counter with one row for each set of labels.
    fn counts<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        rows: impl IntoIterator<Item = ([(&'static str, &'static str); N], u64)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, count) in rows {
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The counts are of the process, so of all tests: the method is of this one alone.
    #[test]
    fn calls_are_counted_by_method_and_code() {
        answered("Counted", "OK", Duration::from_millis(3));
        answered("Counted", "UNAVAILABLE", Duration::from_millis(30));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry()).expect("a String takes it all");
        for row in [
            "rockpool_calls_total{method=\"Counted\",code=\"OK\"} 1\n",
            "rockpool_call_duration_seconds_bucket{le=\"0.005\",method=\"Counted\"} 1\n",
            "rockpool_call_duration_seconds_count{method=\"Counted\"} 2\n",
            concat!("rockpool_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n"),
        ] {
            assert!(text.contains(row), "{row}{text}");
        }
    }
}
