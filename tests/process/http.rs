//! Health and metrics over HTTP: what kubelet's probes and Prometheus are told.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Driver, LONG, Place, eventually, in_time};

/// The exit code of `ctl` for FAILED_PRECONDITION.
const FAILED_PRECONDITION: i32 = 19;

/// A driver that serves HTTP, and where.
struct Served {
    place: Place,
    address: String,
}

impl Served {
    fn new() -> Served {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        Served { place: Place::new(), address }
    }

    fn start(&self) -> Driver {
        self.place.start_with(self.place.command().env("ROCKPOOL_HTTP_LISTEN", &self.address))
    }

    /// The status and the text of a page.
    fn get(&self, path: &str) -> (u16, String) {
        page(&self.address, path)
    }

    /// Connections that say nothing.
    fn silent(&self, count: usize) -> Vec<TcpStream> {
        (0..count).map(|_| TcpStream::connect(&self.address).unwrap()).collect()
    }
}

/// The status and the text of a page. The end of the answer is the end of the connection, which nobody asked for.
pub(crate) fn page(address: &str, path: &str) -> (u16, String) {
    page_as(address, path, "*/*")
}

/// The same for who reads this.
fn page_as(address: &str, path: &str, accept: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, text) = answer.split_once("\r\n\r\n").unwrap();
    (status, text.to_owned())
}

#[test]
fn a_driver_at_work_is_alive_ready_and_counted() {
    let served = Served::new();
    let _driver = served.start();
    assert_eq!(served.get("/healthz"), (200, "ok\n".to_owned()));
    eventually("it is ready", || served.get("/readyz") == (200, "ok\n".to_owned()));
    served.place.ask(&["volume", "create", "first", "--size", "64MiB"]);
    assert_eq!(served.place.refused(&["volume", "create", "first", "--size", "65MiB"]).0, 16);
    let (status, text) = served.get("/metrics");
    assert_eq!(status, 200);
    for row in [
        "rockpool_calls_total{method=\"CreateVolume\",code=\"OK\"} 1\n",
        "rockpool_calls_total{method=\"CreateVolume\",code=\"ALREADY_EXISTS\"} 1\n",
        "rockpool_call_duration_seconds_count{method=\"CreateVolume\"} 2\n",
        "rockpool_pool_up{pool=\"toy\"} 1\n",
        "rockpool_pool_promised_bytes{pool=\"toy\"} 67108864\n",
        "rockpool_ready 1\n",
    ] {
        assert!(text.contains(row), "{row}{text}");
    }
    for row in [
        "rockpool_volumes{pool=\"toy\"} 1\n",
        "rockpool_snapshots{pool=\"toy\"} 0\n",
        "rockpool_records_quarantined{pool=\"toy\"} 0\n",
        "rockpool_recoveries_total{result=\"settled\"} 0\n",
        "rockpool_thaw_timeouts_total 0\n",
        "# TYPE rockpool_calls_total counter\n",
        "# TYPE rockpool_build_info gauge\n",
    ] {
        assert!(text.contains(row), "{row}{text}");
    }
    assert!(
        !text.contains("volume_id"),
        "which volumes there are is shown to nobody who did not ask for it: {text}"
    );
    let open = page_as(&served.address, "/metrics", "application/openmetrics-text;version=1.0.0").1;
    assert!(open.ends_with("# EOF\n") && open.contains("# TYPE rockpool_calls counter\n"), "{open}");
    assert_eq!(served.get("/debug").0, 404);
}

#[test]
fn what_a_caller_invents_is_no_label() {
    let served = Served::new();
    let _driver = served.start();
    // Served by a controller alone, so that this socket does not know it.
    let mut node = served.place.ctl(&["plugin", "probe"]);
    assert!(node.status.success());
    node = served.place.ctl_at(&served.place.admin_socket(), &served.place.socket(), &["plugin", "probe"]);
    assert!(!node.status.success(), "the operators' socket knows no Probe");
    let (_, text) = served.get("/metrics");
    assert!(text.contains("rockpool_calls_total{method=\"unserved\",code=\"UNIMPLEMENTED\"} 1\n"), "{text}");
}

#[test]
fn a_pool_that_is_away_is_told_and_makes_it_neither_unready_nor_dead() {
    let served = Served::new();
    served.place.miss_a_pool();
    let _driver = served.start();
    let (code, said) = served.place.refused(&["plugin", "probe"]);
    assert!(code == FAILED_PRECONDITION && said.contains("away"), "{code}: {said}");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(served.get(path), (200, "ok\n".to_owned()), "{path}: a restart brings no disk back");
    }
    assert!(served.get("/metrics").1.contains("rockpool_pool_up{pool=\"away\"} 0\n"));
}

#[test]
fn a_driver_that_kubelet_does_not_know_is_not_ready_and_not_dead() {
    let served = Served::new();
    let registry = served.place.path("registry");
    std::fs::create_dir(&registry).unwrap();
    let mut command = served.place.command();
    command.env("ROCKPOOL_HTTP_LISTEN", &served.address);
    let _driver = served.place.start_with(command.env("ROCKPOOL_KUBELET_REGISTRATION_DIR", &registry));
    let (status, text) = served.get("/readyz");
    assert!(status == 503 && text.contains("kubelet has not registered"), "{status}: {text}");
    assert_eq!(served.get("/healthz").0, 200);
    assert!(served.get("/metrics").1.contains("rockpool_kubelet_registered 0\n"));
}

#[test]
fn a_socket_at_which_nobody_answers_is_dead() {
    let served = Served::new();
    let _driver = served.start();
    assert_eq!(served.get("/healthz").0, 200);
    std::fs::remove_file(served.place.socket()).unwrap();
    let (status, text) = served.get("/healthz");
    assert_eq!(status, 503);
    assert!(text.contains("the CSI socket does not answer"), "{text}");
    assert_eq!(served.get("/readyz").0, 503);
}

#[test]
fn who_says_nothing_keeps_nobody_else_waiting() {
    let served = Served::new();
    let mut driver = served.start();
    let mut silent = Vec::new();
    in_time(Duration::from_secs(2), || {
        // More than there is place for; anew at every try, since they end by themselves.
        silent = served.silent(40);
        assert_eq!(served.get("/healthz").0, 200);
    });
    driver.signal(Signal::TERM);
    assert!(driver.ends().success(), "{}", driver.log());
}

#[test]
fn who_has_asked_is_answered_however_many_come_meanwhile() {
    let served = Served::new();
    let _driver = served.start();
    std::fs::remove_file(served.place.socket()).unwrap();
    // Takes connections and says nothing: the answer takes all of its three seconds.
    let _hanging = UnixListener::bind(served.place.socket()).unwrap();
    let mut silent = Vec::new();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| served.get("/healthz"));
        while !asked.is_finished() {
            silent.extend(served.silent(6));
            std::thread::sleep(Duration::from_millis(100));
        }
        let (status, text) = asked.join().unwrap();
        assert!(status == 503 && text.contains("nothing within 3 s"), "{status}: {text}");
    });
}

#[test]
fn who_never_ends_its_request_is_cut_off() {
    let served = Served::new();
    let _driver = served.start();
    let (begun, mut slow) = (Instant::now(), TcpStream::connect(&served.address).unwrap());
    slow.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    while slow.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
        assert!(begun.elapsed() < LONG, "it may go on for ever");
        let _ = slow.write_all(b"x: y\r\n");
    }
}

#[test]
fn a_port_that_cannot_be_had_is_said_before_anything_is_opened() {
    let served = Served::new();
    let _taken = TcpListener::bind(&served.address).unwrap();
    let mut command = served.place.command();
    let said = served.place.refusal(command.env("ROCKPOOL_HTTP_LISTEN", &served.address));
    assert!(said.contains("--http-listen") && said.contains(&served.address), "{said}");
    assert!(!served.place.path("state_dir").exists(), "nothing was opened");
    let said = served.place.refusal(command.env("ROCKPOOL_HTTP_LISTEN", "everywhere"));
    assert!(said.contains("--http-listen `everywhere`: want ADDRESS:PORT, like [::]:9808"), "{said}");
}
