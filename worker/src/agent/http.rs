//! `/metrics`, `/healthz` and `/readyz`: read-only HTTP, for known Hosts.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder, IntCounter, IntGauge, Registry, TextEncoder};
use std::net::{IpAddr, SocketAddr};
use tokio::net::TcpListener;

/// The agent's metrics; `docs/metrics.md` says what they mean.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// `evoring_worker_items_total`
    pub items: IntCounter,
    /// `evoring_worker_items_failed_total`
    pub items_failed: IntCounter,
    /// `evoring_worker_ranks_total`
    pub ranks: IntCounter,
    /// `evoring_worker_ranks_failed_total`
    pub ranks_failed: IntCounter,
    /// `evoring_worker_executor_deaths_total`
    pub executor_deaths: IntCounter,
    /// `evoring_worker_slots`
    pub slots: IntGauge,
    /// `evoring_worker_slots_ready`
    pub slots_ready: IntGauge,
    /// `evoring_worker_slots_busy`
    pub slots_busy: IntGauge,
    /// `evoring_worker_connected`
    pub connected: IntGauge,
    /// `evoring_worker_unacknowledged_reports`
    pub unacknowledged: IntGauge,
}

impl Metrics {
    /// Registers all of them.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        Ok(Self {
            items: counter("evoring_worker_items_total", "Items that gave a result.")?,
            items_failed: counter(
                "evoring_worker_items_failed_total",
                "Items that ended with an error.",
            )?,
            ranks: counter(
                "evoring_worker_ranks_total",
                "Ranks of gangs that gave a result.",
            )?,
            ranks_failed: counter(
                "evoring_worker_ranks_failed_total",
                "Ranks of gangs that ended without a result.",
            )?,
            executor_deaths: counter(
                "evoring_worker_executor_deaths_total",
                "Executor processes that ended.",
            )?,
            slots: gauge("evoring_worker_slots", "Slots of this worker.")?,
            slots_ready: gauge(
                "evoring_worker_slots_ready",
                "Slots whose executor is ready.",
            )?,
            slots_busy: gauge(
                "evoring_worker_slots_busy",
                "Slots that run a lease or a rank.",
            )?,
            connected: gauge(
                "evoring_worker_connected",
                "1 while a session with the coordinator stands.",
            )?,
            unacknowledged: gauge(
                "evoring_worker_unacknowledged_reports",
                "Reports that wait for an acknowledgement.",
            )?,
            registry,
        })
    }

    fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// What whoever asks under another name is told.
const UNKNOWN_HOST: &str = "unknown Host: ask by IP address or as localhost\n";

/// Binds the address; the port is the caller's to announce.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| {
        std::io::Error::new(
            e.kind(),
            format!("metrics address {address}: {e}; name another with --http"),
        )
    })
}

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, metrics: Metrics) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .layer(from_fn(known_host))
        .with_state(metrics);
    axum::serve(listener, router).await
}

async fn show_metrics(State(metrics): State<Metrics>) -> Response {
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(metrics): State<Metrics>) -> Response {
    if metrics.connected.get() == 1 && metrics.slots_ready.get() > 0 {
        "ready\n".into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "no session with a coordinator, or no executor is ready\n",
        )
            .into_response()
    }
}

/// Refuses requests that a web page in somebody's browser was made to send here under another
/// name (DNS rebinding).
async fn known_host(request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    if is_known(host) {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, UNKNOWN_HOST).into_response()
    }
}

/// Whether a request's Host is none that a browser could be tricked into (DNS rebinding): an IP
/// address or `localhost`, with or without a port. A name that somebody else's DNS answers is not.
/// The coordinator's HTTP server has the same rule.
fn is_known(host: &str) -> bool {
    let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
    if host.parse::<SocketAddr>().is_ok() || is_address(host) {
        return true;
    }
    let (name, port) = host.rsplit_once(':').unwrap_or((host, "0"));
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    bracketed.is_some_and(is_address) || (name == "localhost" && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: addresses and the machine's own name are answered, names that DNS answers are not.
    // Method: what browsers and Prometheus send, and what a rebound page would.
    #[test]
    fn only_known_hosts() {
        for host in [
            "localhost",
            "localhost:9000",
            "127.0.0.1",
            "127.0.0.1:80",
            "[::1]:80",
            "[::1]",
            "10.0.0.1:80",
        ] {
            assert!(is_known(host), "{host}");
        }
        for host in [
            "",
            ":80",
            "evil.example",
            "evil.example:9000",
            "localhost.evil.example",
            "localhost:port",
            "127.0.0.1.evil:1",
            "[evil]",
        ] {
            assert!(!is_known(host), "{host}");
        }
    }
}
