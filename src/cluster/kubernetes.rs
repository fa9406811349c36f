//! The Kubernetes API: how it is asked, and what its silence means.
//!
//! Owns: the client, with the credentials of a kubeconfig or of the pod, and the two ways in which a request fails. Never: lets
//! the library parse an answer that could hold a secret: what it cannot read it prints, and the answer to a review repeats the token.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use prost_types::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, chain, quoted};

/// From the first packet to a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// For an answer; a list of ten thousand objects included.
const ANSWER: Duration = Duration::from_secs(20);

/// On a watch, where a minute may pass between two words.
const SILENCE: Duration = Duration::from_secs(120);

/// The API of one cluster.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    config: Arc<Config>,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The API server says no, with this code.
    Refused(u16, String),
    /// It cannot be reached, does not answer in time, or answers what it should not: nothing is known.
    Away(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Refused(code, why) => write!(f, "the Kubernetes API refuses it with {code}: {why}"),
            Fault::Away(why) => write!(f, "the Kubernetes API cannot be asked: {why}"),
        }
    }
}

impl Fault {
    /// As the reason for which a call has no answer.
    pub fn open(&self) -> Error {
        Error::Unavailable(format!("{self}; ask again"))
    }
}

/// The result of a request.
pub type Answer<T> = Result<T, Fault>;

/// A list or map of an object. The API server writes null where it is empty, as Go does.
pub(in crate::cluster) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + serde::Deserialize<'de>,
{
    serde::Deserialize::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Kubernetes {
    /// With the credentials of the pod, or of the file that KUBECONFIG names.
    ///
    /// # Errors
    /// `Precondition` where there are none that can be used.
    pub async fn of_environment() -> crate::error::Result<Kubernetes> {
        let config = Config::infer().await.map_err(|error| unusable("of this pod", &error))?;
        Kubernetes::new(config)
    }

    /// With the credentials of a file; without one, of that which KUBECONFIG names, or `~/.kube/config`. Never with a pod's.
    ///
    /// # Errors
    /// `Precondition` where there are none that can be used.
    pub async fn of_operator(file: Option<&Path>) -> crate::error::Result<Kubernetes> {
        let options = KubeConfigOptions::default();
        let config = match file {
            Some(file) => {
                let read = Kubeconfig::read_from(file);
                let read = read.map_err(|error| unusable(&file.display().to_string(), &error))?;
                Config::from_custom_kubeconfig(read, &options).await
            }
            None => Config::from_kubeconfig(&options).await,
        };
        Kubernetes::new(config.map_err(|error| unusable("of the kubeconfig", &error))?)
    }

    fn new(mut config: Config) -> crate::error::Result<Kubernetes> {
        (config.connect_timeout, config.read_timeout) = (Some(CONNECT), Some(ANSWER));
        // A pooled connection that sat idle must not count as one that is silent.
        config.reset_reader_on_write = true;
        // Whoever asks asks again, and says meanwhile what is wrong.
        config.default_retry = false;
        let client = Client::try_from(config.clone()).map_err(|error| unusable("given", &error))?;
        Ok(Kubernetes { client, config: Arc::new(config) })
    }

    /// One in memory.
    #[cfg(test)]
    pub(in crate::cluster) fn of_test(client: Client) -> Kubernetes {
        let config = Config::new(http::Uri::from_static("http://memory.test"));
        Kubernetes { client, config: Arc::new(config) }
    }

    /// What watches go through: the same, but patient. The library parses what comes there, so it must be nothing that repeats a secret.
    ///
    /// # Errors
    /// `Precondition` where the credentials cannot be used.
    pub(in crate::cluster) fn watching(&self) -> crate::error::Result<Client> {
        let mut config = Config::clone(&self.config);
        config.read_timeout = Some(SILENCE);
        Client::try_from(config).map_err(|error| unusable("given", &error))
    }

    /// The namespace that is meant where none is named: of the kubeconfig's context, or the pod's.
    pub fn namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// What time it is for the API server, in seconds since 1970: what its objects say is compared with that, and not with a clock
    /// that may be wrong. None where it does not say.
    pub async fn clock(&self) -> Option<i64> {
        let request = Request::builder().uri("/version").body(kube::client::Body::empty()).ok()?;
        let answer = tokio::time::timeout(ANSWER, self.client.send(request)).await.ok()?.ok()?;
        moment(answer.headers().get("date")?.to_str().ok()?)
    }

    /// Reads what is at a path.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Answer<T> {
        self.ask(Method::GET, path, None, "application/json").await
    }

    /// Reads only the metadata of a list.
    pub async fn metadata<T: DeserializeOwned>(&self, path: &str) -> Answer<T> {
        let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        self.ask(Method::GET, path, None, accept).await
    }

    /// Makes an object.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, object: &Value) -> Answer<T> {
        self.ask(Method::POST, path, Some(("application/json", object)), "application/json").await
    }

    /// Replaces an object.
    pub async fn put<T: DeserializeOwned>(&self, path: &str, object: &Value) -> Answer<T> {
        self.ask(Method::PUT, path, Some(("application/json", object)), "application/json").await
    }

    /// Changes what is named of an object.
    pub async fn patch<T: DeserializeOwned>(&self, path: &str, change: &Value) -> Answer<T> {
        let body = Some(("application/merge-patch+json", change));
        self.ask(Method::PATCH, path, body, "application/json").await
    }

    /// Deletes an object.
    pub async fn delete(&self, path: &str, options: &Value) -> Answer<Value> {
        self.ask(Method::DELETE, path, Some(("application/json", options)), "application/json").await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
        accept: &str,
    ) -> Answer<T> {
        let away = |why: String| Fault::Away(why);
        let mut request = Request::builder().method(method).uri(path).header("accept", accept);
        if let Some((kind, _)) = body {
            request = request.header("content-type", kind);
        }
        let bytes = body.map_or_else(Vec::new, |(_, value)| value.to_string().into_bytes());
        let request = request.body(bytes).map_err(|error| away(error.to_string()))?;
        let text = tokio::time::timeout(ANSWER, self.client.request_text(request)).await;
        let text = text.map_err(|_| away(format!("no answer within {} s", ANSWER.as_secs())))?;
        let text = text.map_err(fault)?;
        // The words of the parser could quote the answer.
        serde_json::from_str(&text).map_err(|_| away("its answer is none that was asked for".to_owned()))
    }
}

/// A date of HTTP, `Mon, 23 Nov 2026 05:00:00 GMT`.
fn moment(date: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = date.split(' ').collect();
    let [_, day, month, year, time, "GMT"] = words[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let moment: Timestamp = format!("{year}-{month:02}-{day}T{time}Z").parse().ok()?;
    Some(moment.seconds)
}

fn fault(error: kube::Error) -> Fault {
    let kube::Error::Api(status) = error else { return Fault::Away(chain(&error)) };
    let why = quoted(&status.message);
    match status.code {
        // It is busy.
        429 => Fault::Away(format!("429 {why}")),
        code @ 400..500 => Fault::Refused(code, why),
        code => Fault::Away(format!("{code} {why}")),
    }
}

fn unusable(which: &str, error: &dyn std::error::Error) -> Error {
    Error::Precondition(format!("the Kubernetes credentials {which} cannot be used: {}", chain(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_of_http_is_read_and_nothing_else() {
        assert_eq!(moment("Mon, 23 Nov 2026 05:00:00 GMT"), Some(1_795_410_000));
        assert_eq!(moment("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        for date in
            ["", "2026-11-23T05:00:00Z", "Mon, 23 Nov 2026 05:00:00 CET", "Mon, 23 Nox 2026 05:00:00 GMT"]
        {
            assert_eq!(moment(date), None, "{date}");
        }
    }
}
