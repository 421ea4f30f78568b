//! The two calls of etcd's API (etcdserverpb, v3) that are needed here, with the fields that are
//! needed of their messages.

use anyhow::{Context, Result};
use prost::Message;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// `PutRequest`.
#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `PutResponse`.
#[derive(Clone, PartialEq, Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

/// `StatusRequest`.
#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

/// `StatusResponse`.
#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
    #[prost(uint64, tag = "7")]
    raft_applied_index: u64,
}

/// `ResponseHeader`.
#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
    #[prost(int64, tag = "3")]
    revision: i64,
}

/// Where a node stands.
#[derive(Debug, Clone, Copy)]
pub struct State {
    /// Its own id.
    pub member: u64,
    /// The leader's id, 0 if it knows none.
    pub leader: u64,
    /// The last log entry that it applied.
    pub applied: u64,
}

/// One HTTP/2 connection, shared by its copies.
#[derive(Debug, Clone)]
pub struct Link(Channel);

impl Link {
    /// Connects.
    pub async fn connect(url: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true);
        Ok(Self(endpoint.connect().await?))
    }

    /// `KV.Put`.
    pub async fn put(&self, key: &str, value: &str) -> Result<()> {
        let request = PutRequest {
            key: key.into(),
            value: value.into(),
        };
        let response: PutResponse = self.call("/etcdserverpb.KV/Put", request).await?;
        // Every write makes a revision; none means that this was no answer of etcd's.
        let header = response.header.context("etcd's answer has no header")?;
        anyhow::ensure!(header.revision > 0, "etcd's answer has no revision");
        Ok(())
    }

    /// `Maintenance.Status`.
    pub async fn state(&self) -> Result<State> {
        let path = "/etcdserverpb.Maintenance/Status";
        let response: StatusResponse = self.call(path, StatusRequest {}).await?;
        let header = response.header.context("etcd's answer has no header")?;
        Ok(State {
            member: header.member_id,
            leader: response.leader,
            applied: response.raft_applied_index,
        })
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(self.0.clone());
        grpc.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(path);
        let response = grpc
            .unary(tonic::Request::new(request), path, codec)
            .await?;
        Ok(response.into_inner())
    }
}
