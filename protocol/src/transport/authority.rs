//! The authority of a cluster: who holds its key decides who belongs.

use super::error::IdentityError;
use super::identity::Identity;
use super::peer::{Peer, Role, cluster_name};
use crate::ClusterId;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints,
    PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use std::fmt;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;

/// How long certificates are valid from the moment they are made, the authority's and all that
/// it issues. A throw-away authority's key is dropped after issuing, so nothing can be renewed:
/// this is also the longest life of such a cluster. 30 days outlast any job on one machine.
pub const LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Certificates are valid from this long before they are made, for clocks that differ.
pub const BACKDATING: Duration = Duration::from_secs(10 * 60);

/// A cluster's certificate authority with its private key, in memory only. Dropping it makes
/// further certificates impossible.
pub struct Authority {
    cluster: ClusterId,
    issuer: CertifiedIssuer<'static, KeyPair>,
    not_after: OffsetDateTime,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes the authority of `cluster` (random bytes) with a new key, valid for [`LIFETIME`]
    /// from `now`.
    pub fn create(cluster: ClusterId, now: SystemTime) -> Result<Self, IdentityError> {
        let subject = format!("the authority of cluster {cluster}");
        let failed = |source| IdentityError::Issue {
            subject: subject.clone(),
            source,
        };
        let (not_before, not_after) = validity(now)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut parameters = parameters(
            &format!("Evoring authority {cluster}"),
            &key,
            not_before,
            not_after,
        );
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // A stolen key can speak for this cluster only.
        parameters.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(cluster_name(cluster))],
            excluded_subtrees: Vec::new(),
        });
        let issuer = CertifiedIssuer::self_signed(parameters, key).map_err(failed)?;
        Ok(Self {
            cluster,
            issuer,
            not_after,
        })
    }

    /// Makes an identity with a new key, valid for [`LIFETIME`] from `now` but never longer than
    /// the authority.
    ///
    /// # Errors
    /// [`IdentityError::InvalidName`] unless `name` is 1 to 63 characters of `a-z`, `0-9` and `-`,
    /// neither beginning nor ending with `-`.
    pub fn issue(
        &self,
        role: Role,
        name: &str,
        now: SystemTime,
    ) -> Result<Identity, IdentityError> {
        self.issue_to(&Peer::new(role, name, self.cluster)?, now)
    }

    /// Believes what `peer` says, its cluster included.
    pub(super) fn issue_to(&self, peer: &Peer, now: SystemTime) -> Result<Identity, IdentityError> {
        let failed = |source| IdentityError::Issue {
            subject: peer.to_string(),
            source,
        };
        let (not_before, not_after) = validity(now)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut parameters = parameters(
            &peer.to_string(),
            &key,
            not_before,
            not_after.min(self.not_after),
        );
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if peer.role.can_listen() {
            parameters
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        for name in [peer.dns_name(), cluster_name(peer.cluster)] {
            let name = name.try_into().map_err(failed)?;
            parameters.subject_alt_names.push(SanType::DnsName(name));
        }
        let certificate = parameters.signed_by(&key, &self.issuer).map_err(failed)?;
        Identity::from_pem(certificate.pem(), key.serialize_pem(), self.issuer.pem())
    }
}

fn validity(now: SystemTime) -> Result<(OffsetDateTime, OffsetDateTime), IdentityError> {
    let since_1970 = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|_| IdentityError::ClockOutOfRange)?;
    let at = |moment: Duration| {
        i64::try_from(moment.as_secs())
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .ok_or(IdentityError::ClockOutOfRange)
    };
    Ok((
        at(since_1970.saturating_sub(BACKDATING))?,
        at(since_1970.saturating_add(LIFETIME))?,
    ))
}

/// Every field is set here or by the caller: the library's defaults are valid from 1975 to 4096.
fn parameters(
    common_name: &str,
    key: &KeyPair,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
) -> CertificateParams {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, common_name);
    let mut parameters = CertificateParams::default();
    parameters.not_before = not_before;
    parameters.not_after = not_after;
    parameters.distinguished_name = distinguished_name;
    parameters.serial_number = Some(serial_number(key));
    parameters.use_authority_key_identifier_extension = true;
    parameters
}

/// Unique because the key is: the first 16 bytes of the public key's digest, kept positive.
fn serial_number(key: &KeyPair) -> SerialNumber {
    let mut bytes = crate::Digest::of(key.public_key_raw()).0;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes[..16])
}
