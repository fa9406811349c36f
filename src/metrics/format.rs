//! How metrics are written: OpenMetrics for whoever asks for it, and else the older text that everybody reads.
//!
//! Owns: the difference between the two. Never: knows a metric.

use std::fmt;

use http::HeaderValue;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// OpenMetrics 1.0, as Prometheus asks for it.
    OpenMetrics,
    /// The text format 0.0.4: other collectors, `promtool check metrics` and people.
    Plain,
}

impl Format {
    /// The one for who sends this `Accept`.
    pub(crate) fn wanted(accept: Option<&HeaderValue>) -> Format {
        let asks = accept.and_then(|accept| accept.to_str().ok());
        let asks = asks.is_some_and(|accept| accept.contains("application/openmetrics-text"));
        if asks { Format::OpenMetrics } else { Format::Plain }
    }

    /// Its media type.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// All metrics, as they are now.
    ///
    /// # Errors
    /// Those of whoever tells a figure.
    pub(crate) fn write(self, registry: &Registry) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, registry)?;
        Ok(if self == Format::OpenMetrics { text } else { plain(&text) })
    }
}

/// OpenMetrics describes a family, the older text each series by its full name; it has no units, no infos and no end.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map(|(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (ending, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                other => ("", other),
            };
            if let Some(help) = help.take() {
                plain.push_str(&format!("# HELP {name}{ending} {help}\n"));
            }
            plain.push_str(&format!("# TYPE {name}{ending} {kind}\n"));
        } else if !line.starts_with('#') {
            plain.push_str(line);
            plain.push('\n');
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_for_it_gets_openmetrics() {
        let wanted = |accept: &'static str| Format::wanted(Some(&HeaderValue::from_static(accept)));
        assert_eq!(Format::wanted(None), Format::Plain);
        assert_eq!(wanted("*/*"), Format::Plain);
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert_eq!(wanted(prometheus), Format::OpenMetrics);
    }

    #[test]
    fn the_older_text_names_each_series_in_full() {
        let open = concat!(
            "# HELP a_bytes So much.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total{b=\"# c\"} 1\n",
            "# HELP build The version.\n# TYPE build info\nbuild_info{version=\"1\"} 1\n",
            "# HELP up Whether.\n# TYPE up gauge\nup 1\n# EOF\n",
        );
        let older = concat!(
            "# HELP a_bytes_total So much.\n# TYPE a_bytes_total counter\na_bytes_total{b=\"# c\"} 1\n",
            "# HELP build_info The version.\n# TYPE build_info gauge\nbuild_info{version=\"1\"} 1\n",
            "# HELP up Whether.\n# TYPE up gauge\nup 1\n",
        );
        assert_eq!(plain(open), older);
    }
}
