//! Authorities, identities and their files.

use super::*;
use crate::transport::{
    AUTHORITY_FILE, BACKDATING, CERTIFICATE_FILE, IdentityError, KEY_FILE, LIFETIME,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// A certificate says role, name and cluster, for each role; the longest name still fits.
#[test]
fn certificate_names_its_holder() {
    let authority = authority(CLUSTER);
    let longest = "n".repeat(63);
    for role in Role::ALL {
        for name in ["w1", "a-b-0", longest.as_str()] {
            let peer = issue(&authority, role, name).peer().clone();
            assert_eq!(
                (peer.role, peer.name.as_str(), peer.cluster),
                (role, name, CLUSTER)
            );
        }
    }
}

/// A name that could change the meaning of the certificate's DNS names, or not be one, is refused.
#[test]
fn unfit_names_are_refused() {
    let authority = authority(CLUSTER);
    let too_long = "n".repeat(64);
    for name in [
        "",
        "-a",
        "a-",
        "A",
        "a.b",
        "a_b",
        "*",
        "ä",
        "a b",
        too_long.as_str(),
    ] {
        let error = authority
            .issue(Role::Worker, name, SystemTime::now())
            .unwrap_err();
        assert!(
            matches!(error, IdentityError::InvalidName(_)),
            "{name}: {error}"
        );
    }
}

/// Certificates begin and end when the documentation says, to the second. The verifier that both
/// sides use is asked on both sides of each end.
#[test]
fn lifetime_is_what_is_documented() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let identity = Authority::create(CLUSTER, now)
        .unwrap()
        .issue(Role::Coordinator, "c1", now)
        .unwrap();
    let verify = |time: SystemTime| verify_server(&identity, &identity, time);
    let (begin, end) = (now - BACKDATING, now + LIFETIME);
    let second = Duration::from_secs(1);
    verify(begin).unwrap();
    verify(end).unwrap();
    verify(begin - second).unwrap_err();
    verify(end + second).unwrap_err();
}

/// An identity never outlives its authority, whatever the clock said when it was issued.
#[test]
fn identity_ends_with_its_authority() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let later = now + LIFETIME / 2;
    let authority = Authority::create(CLUSTER, now).unwrap();
    let identity = authority.issue(Role::Coordinator, "c1", later).unwrap();
    verify_server(&identity, &identity, now + LIFETIME).unwrap();
    verify_server(
        &identity,
        &identity,
        now + LIFETIME + Duration::from_secs(1),
    )
    .unwrap_err();
}

/// Only coordinators and workers can be servers: the usage is in the certificate, so that a
/// stolen submitter's certificate cannot pose as one even with a changed program.
#[test]
fn only_some_roles_can_be_servers() {
    let authority = authority(CLUSTER);
    for role in Role::ALL {
        let identity = issue(&authority, role, "x");
        let verified = verify_server(&identity, &identity, SystemTime::now());
        assert_eq!(verified.is_ok(), role.can_listen(), "{role}: {verified:?}");
    }
}

/// A clock before 1970, or beyond what certificates can say, is an error and no panic.
#[test]
fn impossible_clocks_are_errors() {
    let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    let far_future = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 50);
    for now in [before_1970, far_future] {
        let error = Authority::create(CLUSTER, now).unwrap_err();
        assert!(matches!(error, IdentityError::ClockOutOfRange), "{error}");
    }
}

/// Saving and loading gives the same identity; the key is for its owner only, also where a
/// file with other rights stood before.
#[test]
fn files_round_trip() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().join("new/folder");
    let authority = authority(CLUSTER);
    issue(&authority, Role::Worker, "w1")
        .save(&directory)
        .unwrap();
    let key = directory.join(KEY_FILE);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();

    let identity = issue(&authority, Role::Worker, "w2");
    identity.save(&directory).unwrap();
    let loaded = Identity::load(&directory).unwrap();
    assert_eq!(loaded.peer(), identity.peer());
    assert_eq!(loaded.key().unwrap(), identity.key().unwrap());
    assert_eq!(loaded.authority().unwrap(), identity.authority().unwrap());
    assert_eq!(
        std::fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 3);
}

/// Whatever is wrong with a file, the error names it or says what is broken.
#[test]
fn broken_files_are_named() {
    let authority = authority(CLUSTER);
    for file in [CERTIFICATE_FILE, KEY_FILE, AUTHORITY_FILE] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(file);
        issue(&authority, Role::Worker, "w1")
            .save(directory.path())
            .unwrap();

        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nnonsense").unwrap();
        let error = Identity::load(directory.path()).unwrap_err();
        assert!(matches!(error, IdentityError::Load { .. }), "{error}");
        let folder = directory.path().display().to_string();
        assert!(error.to_string().contains(&folder), "{error}");
        assert!(error.to_string().contains(file), "{error}");

        std::fs::write(&path, vec![b'a'; 1 << 20]).unwrap();
        let error = Identity::load(directory.path()).unwrap_err();
        assert!(matches!(error, IdentityError::TooLarge { .. }), "{error}");
        assert!(error.to_string().contains(file), "{error}");

        std::fs::remove_file(&path).unwrap();
        let error = Identity::load(directory.path()).unwrap_err();
        assert!(matches!(error, IdentityError::Read { .. }), "{error}");
        assert!(error.to_string().contains(file), "{error}");
    }
}

/// Debug output goes into logs: it must not hold the key.
#[test]
fn debug_output_hides_the_key() {
    let identity = issue(&authority(CLUSTER), Role::Worker, "w1");
    let text = format!("{identity:?}");
    assert!(text.contains("w1") && !text.contains("PRIVATE"), "{text}");
}

/// The authority's name constraint: even its own key cannot speak for another cluster. A
/// certificate for another cluster is forged with the authority's key and verified.
#[test]
fn authority_is_bound_to_its_cluster() {
    let now = SystemTime::now();
    let authority = authority(CLUSTER);
    let mut peer = issue(&authority, Role::Coordinator, "c1").peer().clone();
    peer.cluster = OTHER_CLUSTER;
    let forged = authority.issue_to(&peer, now).unwrap();
    let error = verify_server(&forged, &forged, now).unwrap_err();
    assert!(error.to_string().contains("NameConstraint"), "{error}");
}

/// Verifies a server as a connector with `own` identity would at `time`.
fn verify_server(own: &Identity, server: &Identity, time: SystemTime) -> Result<(), rustls::Error> {
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let time = UnixTime::since_unix_epoch(since_1970);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.authority().unwrap())?;
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
        roots.into(),
        rustls::crypto::ring::default_provider().into(),
    )
    .build()
    .unwrap();
    let certificate: CertificateDer<'_> = server.chain().unwrap().remove(0);
    ParsedCertificate::try_from(&certificate)?;
    let name = format!("{}.evoring", server.peer().cluster);
    let name = ServerName::try_from(name).unwrap();
    use rustls::client::danger::ServerCertVerifier;
    verifier
        .verify_server_cert(&certificate, &[], &name, &[], time)
        .map(drop)
}
