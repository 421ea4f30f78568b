//! Questions about the group of coordinators itself.

use super::{Client, Setback};
use crate::exit::Failure;
use crate::follow::unexpected;
use evoring_protocol::client::{ClientReply, ClientRequest, ClusterView, LeaderHint, MemberView};
use std::time::Instant;

/// The member that leads, as far as the one that answered knows.
pub fn leader(view: &ClusterView) -> Option<&MemberView> {
    let leader = view.leader?;
    view.members.iter().find(|member| member.id == leader)
}

/// Whether the leader itself answered: only it knows how far the others are.
pub fn is_told_by_leader(view: &ClusterView) -> bool {
    leader(view).is_some_and(|leader| leader.name == view.answered_by)
}

impl Client {
    /// The group as its leader knows it, or else as the coordinator does that knows most.
    pub async fn cluster(&mut self) -> Result<ClusterView, Failure> {
        let began = Instant::now();
        loop {
            match self.try_cluster().await {
                Ok(view) => return Ok(view),
                Err(setback) => self.wait_or_fail(setback, began).await?,
            }
        }
    }

    /// [`Client::cluster`] in one round over the coordinators.
    pub async fn try_cluster(&mut self) -> Result<ClusterView, Setback> {
        let mut best: Option<ClusterView> = None;
        // Everybody once, the hint of the last one, and one whose hint was late.
        for _ in 0..self.access.coordinators() + 2 {
            let view = match self.try_ask(&ClientRequest::Cluster).await {
                Ok(ClientReply::Cluster(view)) => *view,
                Ok(other) => return Err(Setback::Final(unexpected("Cluster", &other))),
                Err(setback) => return best.ok_or(setback),
            };
            if is_told_by_leader(&view) {
                return Ok(view);
            }
            let leader = leader(&view).map(|leader| LeaderHint {
                name: leader.name.clone(),
                address: leader.address.clone(),
            });
            if let Some(asked) = self.address() {
                self.heed(&Setback::Elsewhere { asked, leader }).await;
            }
            let knowledge = |view: &ClusterView| (!view.members.is_empty(), view.term, view.commit);
            if best
                .as_ref()
                .is_none_or(|best| knowledge(best) < knowledge(&view))
            {
                best = Some(view);
            }
        }
        best.ok_or_else(|| Setback::unreachable("no coordinator answered"))
    }

    /// Asks for something that must not be done twice, so it is sent again only where it was
    /// certainly not carried out; `None` if nobody knows whether it was.
    pub async fn ask_unrepeated(
        &mut self,
        request: &ClientRequest,
    ) -> Result<Option<ClientReply>, Failure> {
        let began = Instant::now();
        loop {
            let setback = match self.connection().await {
                Err(setback) => setback,
                Ok(current) => match self.ask_on(current, request).await {
                    Ok(reply) => return Ok(Some(reply)),
                    Err(Setback::Temporary(_)) => return Ok(None),
                    Err(setback) => setback,
                },
            };
            self.wait_or_fail(setback, began).await?;
        }
    }
}
