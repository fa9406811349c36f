//! Registration with kubelet, without the node-driver-registrar.
//!
//! Owns: the registration socket and its life. Never: ends the process: volumes are in use while kubelet is away.
//!
//! Kubelet finds the socket in its directory, asks who we are, reads our CSI socket and tells us whether it took us. It
//! tries that once a socket. So the socket is made again whenever that may have failed:
//!  1. our CSI socket answers: only now the registration socket is bound
//!  2. kubelet said no, or nothing for half a minute: the socket goes, and comes back after a pause that grows
//!  3. the file is gone, as when the directory was emptied: it comes back
//!  4. the process ends: the file goes, and kubelet forgets us

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::Uri;
use tonic::{Request, Response, Status};

use crate::config::Endpoint;
use crate::error::{Error, Result, chain};
use crate::proto::csi::GetPluginInfoRequest;
use crate::proto::csi::identity_client::IdentityClient;
use crate::proto::registration::registration_server::{Registration, RegistrationServer};
use crate::proto::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use crate::serve::{Socket, Stop, Width, Witness, serve_by_path};

/// The versions of the standard that kubelet asks about; it knows them by their major number.
const VERSIONS: &str = "1.0.0";

/// Who is registered, and where.
#[derive(Clone, Debug)]
pub struct Registrar {
    /// The driver's name.
    pub driver: String,
    /// The socket that serves CSI, as kubelet sees it.
    pub endpoint: Endpoint,
    /// The registration socket.
    pub socket: PathBuf,
    /// How long things may take.
    pub pace: Pace,
    /// Whether kubelet has registered the driver, and could not have forgotten it since. For readiness, not for liveness: kubelet's
    /// absence is not cured by a restart of ours.
    pub registered: Arc<AtomicBool>,
}

/// How long registration waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Kubelet asks within this time, or the socket is made again.
    pub answer: Duration,
    /// The first pause before the socket is made again; it doubles from time to time.
    pub pause: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// How often the file is looked for.
    pub look: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            answer: Duration::from_secs(30),
            pause: Duration::from_secs(1),
            longest: Duration::from_secs(60),
            look: Duration::from_secs(2),
        }
    }
}

/// What kubelet has said on this socket so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Asked,
    Yes,
    No,
}

/// Why a registration socket is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    Refused,
    Silent,
    Removed,
}

impl Registrar {
    /// Keeps the driver registered until the process is to end.
    pub async fn run(self, stop: Stop) {
        let mut pause = self.pace.pause;
        loop {
            let end = tokio::select! {
                () = stop.wanted() => return,
                end = self.attempt(&stop) => end,
            };
            self.registered.store(false, Ordering::Relaxed);
            match end {
                Ok(End::Stop) => return,
                Ok(End::Removed) => {
                    tracing::warn!(socket = %self.socket.display(), "the registration socket is gone; making it again");
                    pause = self.pace.pause;
                    continue;
                }
                Ok(End::Refused) => tracing::warn!("kubelet refused the registration; trying again"),
                Ok(End::Silent) => tracing::warn!("kubelet has not asked who we are; trying again"),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "failed to register with kubelet; trying again")
                }
            }
            tokio::select! {
                () = stop.wanted() => return,
                () = tokio::time::sleep(jittered(pause)) => {}
            }
            pause = pause.saturating_mul(2).min(self.pace.longest);
        }
    }

    /// One socket, from its making to its end.
    async fn attempt(&self, stop: &Stop) -> Result<End> {
        self.await_driver().await?;
        let directory = self.socket.parent().filter(|directory| directory.is_dir());
        if directory.is_none() {
            let text =
                format!("{}: kubelet has not made its registration directory yet", self.socket.display());
            return Err(Error::Unavailable(text));
        }
        let socket = Socket::bind(&self.socket)?;
        let witness = socket.witness();
        let (tell, mut said) = watch::channel(Said::Nothing);
        let routes =
            Routes::new(RegistrationServer::new(Desk { registrar: self.clone(), tell: Arc::new(tell) }));
        let (close, closed) = tokio::sync::oneshot::channel::<()>();
        let serving = serve_by_path(socket, routes, Width::NODE, async {
            let _ = closed.await;
        });
        let watching = async {
            let end = self.watch(&mut said, &witness, stop).await;
            let _ = close.send(());
            end
        };
        let (served, end) = tokio::join!(serving, watching);
        served.map(|()| end)
    }

    /// Waits until the socket is of no more use.
    async fn watch(&self, said: &mut watch::Receiver<Said>, file: &Witness, stop: &Stop) -> End {
        let silence = tokio::time::Instant::now() + self.pace.answer;
        loop {
            let now = *said.borrow_and_update();
            match now {
                Said::No => return End::Refused,
                Said::Nothing if tokio::time::Instant::now() >= silence => return End::Silent,
                Said::Nothing | Said::Asked | Said::Yes => {}
            }
            if !file.is_there() {
                return End::Removed;
            }
            tokio::select! {
                () = stop.wanted() => return End::Stop,
                () = tokio::time::sleep(self.pace.look) => {}
                Ok(()) = said.changed() => {}
            }
        }
    }

    /// The driver answers on its own socket, as kubelet will ask it in a moment.
    async fn await_driver(&self) -> Result<()> {
        let away = |why: String| Error::Unavailable(format!("the CSI socket does not answer yet: {why}"));
        let channel = tonic::transport::Endpoint::from_shared(self.endpoint.to_string())
            .map_err(|error| away(chain(&error)))?
            .origin(Uri::from_static("http://localhost"))
            .timeout(Duration::from_secs(3))
            .connect()
            .await
            .map_err(|error| away(chain(&error)))?;
        let info = IdentityClient::new(channel).get_plugin_info(GetPluginInfoRequest {}).await;
        info.map(drop).map_err(|status| away(status.to_string()))
    }
}

/// Three quarters to five quarters of it, so that the nodes of a cluster do not all come back at once.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0_u8; 1];
    // Without randomness the pause is the plain one.
    let share = match rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(_) => 0.75 + f64::from(byte[0]) / 512.0,
        Err(_) => 1.0,
    };
    pause.mul_f64(share)
}

/// Answers kubelet.
struct Desk {
    registrar: Registrar,
    tell: Arc<watch::Sender<Said>>,
}

#[tonic::async_trait]
impl Registration for Desk {
    async fn get_info(&self, _: Request<InfoRequest>) -> std::result::Result<Response<PluginInfo>, Status> {
        self.tell.send_if_modified(|said| {
            let first = *said == Said::Nothing;
            if first {
                *said = Said::Asked;
            }
            first
        });
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: self.registrar.driver.clone(),
            endpoint: self.registrar.endpoint.path().display().to_string(),
            supported_versions: vec![VERSIONS.to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        status: Request<RegistrationStatus>,
    ) -> std::result::Result<Response<RegistrationStatusResponse>, Status> {
        let status = status.into_inner();
        if status.plugin_registered {
            tracing::info!("kubelet has registered the driver");
            self.registrar.registered.store(true, Ordering::Relaxed);
            self.tell.send_replace(Said::Yes);
        } else {
            tracing::warn!(error = crate::error::quoted(&status.error), "kubelet refused the driver");
            self.tell.send_replace(Said::No);
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
