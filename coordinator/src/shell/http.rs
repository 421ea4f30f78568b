//! `/metrics`, `/healthz` and `/readyz`: read-only HTTP.

use super::metrics::Metrics;
use anyhow::Context as _;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, serve};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What whoever asks under another name is told.
const UNKNOWN_HOST: &str = "unknown Host: ask by IP address or as localhost\n";

/// The running server.
pub(super) struct Http {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Http {
    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it.
    pub(super) fn stop(self) {
        self.task.abort();
    }
}

/// Starts the server.
pub(super) async fn start(address: SocketAddr, metrics: Arc<Metrics>) -> anyhow::Result<Http> {
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("--http {address}: cannot listen there; port 0 takes a free one")
    })?;
    let address = listener
        .local_addr()
        .with_context(|| format!("--http {address}"))?;
    let router = Router::new()
        .route("/metrics", get(text))
        .route("/healthz", get(health))
        .route("/readyz", get(readiness))
        .with_state(metrics)
        .layer(middleware::from_fn(known_host));
    let task = tokio::spawn(async move {
        if let Err(error) = serve(listener, router).await {
            tracing::error!(%error, "the HTTP server ended");
        }
    });
    Ok(Http { address, task })
}

async fn text(State(metrics): State<Arc<Metrics>>) -> Response {
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        metrics.text(),
    )
        .into_response()
}

async fn health(State(metrics): State<Arc<Metrics>>) -> Response {
    page(metrics.healthy())
}

async fn readiness(State(metrics): State<Arc<Metrics>>) -> Response {
    page(metrics.ready())
}

fn page(outcome: Result<(), String>) -> Response {
    match outcome {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
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
/// The worker agent's HTTP server has the same rule.
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
