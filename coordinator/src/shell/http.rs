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
        .layer(middleware::from_fn_with_state(address.ip(), known_host));
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
async fn known_host(State(own): State<IpAddr>, request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    if is_known(host, own) {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, "unknown Host\n").into_response()
    }
}

fn is_known(host: &str, own: IpAddr) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip() == own || address.ip().is_loopback();
    }
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.parse::<u16>().is_ok())
        .map_or(host, |(name, _)| name);
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address == own || address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: only the machine's own names are answered.
    // Method: names that a browser sends for local and for rebound requests.
    #[test]
    fn only_known_hosts() {
        let own: IpAddr = "127.0.0.1".parse().unwrap();
        for host in [
            "localhost",
            "localhost:9000",
            "127.0.0.1",
            "127.0.0.1:80",
            "[::1]:80",
            "[::1]",
        ] {
            assert!(is_known(host, own), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:9000",
            "localhost.evil.example",
            "10.0.0.1:80",
            "127.0.0.1.evil:1",
        ] {
            assert!(!is_known(host, own), "{host}");
        }
        assert!(is_known("10.0.0.1:80", "10.0.0.1".parse().unwrap()));
    }
}
