//! Why one attempt gave nothing, and whether another may.

use crate::exit::{Exit, Failure};
use evoring_protocol::client::LeaderHint;
use evoring_protocol::transport::TransportError;
use evoring_protocol::{ErrorCode, RemoteError};
use std::net::SocketAddr;

/// Why one attempt gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setback {
    /// Another attempt may succeed; the failure is for when patience ends. Whether the request was
    /// carried out is not known.
    Temporary(Failure),
    /// A coordinator that answers cannot do it for the moment. Whether a write was carried out is not
    /// known: it may have lost its office, or the space on its disk, in between. Anything else was not.
    NotNow(Failure),
    /// The coordinator does not lead, so it carried out nothing.
    Elsewhere {
        /// Its address.
        asked: SocketAddr,
        /// Who leads, as far as it knows.
        leader: Option<LeaderHint>,
    },
    /// No attempt can succeed.
    Final(Failure),
}

impl Setback {
    /// The failure that this is once patience has ended.
    pub fn into_failure(self) -> Failure {
        match self {
            Self::Temporary(failure) | Self::NotNow(failure) | Self::Final(failure) => failure,
            Self::Elsewhere {
                asked,
                leader: None,
            } => Failure::new(
                Exit::Unreachable,
                format!(
                    "no coordinator leads, as the one at {asked} says: fewer than half of them may be running; see `evoring cluster status`"
                ),
            ),
            Self::Elsewhere {
                asked,
                leader: Some(leader),
            } => Failure::new(
                Exit::Unreachable,
                format!(
                    "the leader, {} at {}, does not answer, and the coordinator at {asked} knows no other; see `evoring cluster status`",
                    leader.name, leader.address
                ),
            ),
        }
    }

    /// A setback without an answer.
    pub(super) fn unreachable(reason: impl Into<String>) -> Self {
        Self::Temporary(Failure::new(Exit::Unreachable, reason))
    }

    /// What a coordinator refused. One of a group whose disk takes no writes gives way to another; one
    /// that is alone needs somebody's help.
    pub(super) fn refused(error: &RemoteError, is_group: bool) -> Self {
        let failure = Failure::refused(error);
        match error.code {
            ErrorCode::NotReady | ErrorCode::Busy => Self::NotNow(failure),
            ErrorCode::ReadOnly if is_group => Self::NotNow(failure),
            _ => Self::Final(failure),
        }
    }

    /// What the transport says. While a coordinator is announced, its port may for a moment belong to
    /// somebody else.
    pub(super) fn of_transport(error: &TransportError, is_announced: bool) -> Self {
        let failure = |exit| Failure::new(exit, error.to_string());
        match error {
            TransportError::OtherCluster { .. }
            | TransportError::ForeignServer { .. }
            | TransportError::WrongRole { .. }
                if is_announced =>
            {
                Self::Temporary(failure(Exit::Refused))
            }
            TransportError::OtherCluster { .. }
            | TransportError::ForeignServer { .. }
            | TransportError::WrongRole { .. }
            | TransportError::Expired { .. }
            | TransportError::Refused { .. }
            | TransportError::NoCertificate { .. }
            | TransportError::Codec { .. } => Self::Final(failure(Exit::Refused)),
            TransportError::Identity(_) => Self::Final(failure(Exit::Usage)),
            _ => Self::Temporary(failure(Exit::Unreachable)),
        }
    }

    /// What several attempts at once came to: hopeless only if each is.
    pub(super) fn of_all(failures: &[TransportError], is_announced: bool) -> Self {
        let setbacks: Vec<Self> = failures
            .iter()
            .map(|failure| Self::of_transport(failure, is_announced))
            .collect();
        let all: Vec<String> = failures.iter().map(ToString::to_string).collect();
        let all = all.join("; ");
        let is_final = |setback: &&Self| matches!(setback, Self::Final(_));
        match setbacks.iter().find(|setback| !is_final(setback)) {
            Some(setback) => {
                Self::Temporary(Failure::new(setback.clone().into_failure().exit, all))
            }
            None => match setbacks.into_iter().next() {
                Some(setback) => Self::Final(Failure::new(setback.into_failure().exit, all)),
                None => Self::unreachable("no address"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evoring_protocol::transport::Role;
    use std::time::Duration;

    // Claim: one coordinator with a wrong certificate does not hide the others, and only if all are
    // hopeless the client gives up at once. Method: both kinds, alone and together.
    #[test]
    fn hopeless_only_if_all_are() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let silent = || TransportError::NoAnswer {
            address,
            expected: Role::Coordinator,
            waited: Duration::from_secs(2),
        };
        let expired = || TransportError::Expired {
            address,
            whose: "the other side's",
        };
        let setback = Setback::of_all(&[expired(), silent()], false);
        let Setback::Temporary(failure) = setback else {
            panic!("{setback:?}")
        };
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(failure.message.contains("has expired") && failure.message.contains("2.0 s"));
        let setback = Setback::of_all(&[expired(), expired()], false);
        assert!(
            matches!(&setback, Setback::Final(failure) if failure.exit == Exit::Refused),
            "{setback:?}"
        );
    }

    // Claim: that a coordinator does not lead is never told as such, but as what it means for the
    // user. Method: with and without somebody who leads.
    #[test]
    fn elsewhere_says_what_it_means() {
        let asked = SocketAddr::from(([127, 0, 0, 1], 1));
        let nobody = Setback::Elsewhere {
            asked,
            leader: None,
        };
        assert!(
            nobody
                .into_failure()
                .message
                .contains("no coordinator leads")
        );
        let gone = Setback::Elsewhere {
            asked,
            leader: Some(LeaderHint {
                name: "c2".to_owned(),
                address: "h:1".to_owned(),
            }),
        };
        let failure = gone.into_failure();
        assert!(failure.message.contains("c2 at h:1, does not answer"));
        assert_eq!(failure.exit, Exit::Unreachable);
    }
}
