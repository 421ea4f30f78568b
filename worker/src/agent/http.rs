//! `/metrics`, `/healthz` and `/readyz`: read-only, for a Host that names this machine.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder, IntCounter, IntGauge, Registry, TextEncoder};
use std::net::SocketAddr;
use std::sync::Arc;
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

struct Served {
    metrics: Metrics,
    port: u16,
}

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
    let port = listener.local_addr()?.port();
    let served = Arc::new(Served { metrics, port });
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .layer(from_fn_with_state(Arc::clone(&served), check_host))
        .with_state(served);
    axum::serve(listener, router).await
}

async fn show_metrics(State(served): State<Arc<Served>>) -> Response {
    match served.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(served): State<Arc<Served>>) -> Response {
    let metrics = &served.metrics;
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

/// Refuses requests that a browser was tricked into (DNS rebinding).
async fn check_host(State(served): State<Arc<Served>>, request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let is_allowed = match host.rsplit_once(':') {
        Some((name, port)) => {
            port.parse() == Ok(served.port)
                && (name == "localhost"
                    || name
                        .trim_matches(['[', ']'])
                        .parse::<std::net::IpAddr>()
                        .is_ok())
        }
        None => false,
    };
    if is_allowed {
        next.run(request).await
    } else {
        (
            StatusCode::FORBIDDEN,
            "this Host is not served; ask by IP address or localhost, with the port\n",
        )
            .into_response()
    }
}
