//! Short texts that become something: names, digests, URLs, arguments; and identities.

use evoring::args::{JobRef, PlotSource};
use evoring_jobs::evolution::Chromosome;
use evoring_protocol::transport::Identity;
use evoring_protocol::{Digest, WorkerId, file_url};

/// Parts of an input that holds several texts.
pub const CUT: &str = "=====\n";

/// The texts of an input, `count` of them; those that are not there are empty.
pub fn parts<const COUNT: usize>(data: &[u8]) -> [String; COUNT] {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.splitn(COUNT, CUT);
    std::array::from_fn(|_| parts.next().unwrap_or_default().to_owned())
}

/// One text as each of the small things that texts are read as.
pub fn text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let text: &str = &text;
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(worker) = WorkerId::new(text) {
        assert_eq!(worker.as_str(), text);
    }
    if let Some(chromosome) = Chromosome::parse(text) {
        assert!(chromosome.is_canonical());
        assert_eq!(chromosome.to_string(), text);
    }
    if let Some(path) = file_url::to_path(text) {
        assert!(path.starts_with('/') && !path.contains('\0'));
        assert_eq!(file_url::to_path(&file_url::from_path(&path)), Some(path));
    }
    if let Ok(JobRef::Number(number)) = text.parse() {
        assert_eq!(number.to_string().parse(), Ok(JobRef::Number(number)));
    }
    if let Ok(PlotSource::Folder(folder)) = text.parse() {
        assert_eq!(folder.to_str(), Some(text));
    }
}

/// Certificate, key and the authority's certificate, cut apart by `CUT`.
pub fn identity(data: &[u8]) {
    let [certificate, key, authority] = parts(data);
    let texts = (certificate.clone(), key.clone(), authority.clone());
    if let Ok(identity) = Identity::from_pem(certificate, key, authority) {
        let again = Identity::from_pem(texts.0, texts.1, texts.2).expect("the same once more");
        assert_eq!(again.peer(), identity.peer());
        let folder = tempfile::tempdir().expect("a temporary folder");
        identity.save(folder.path()).expect("an identity is saved");
        let loaded = Identity::load(folder.path()).expect("what was saved can be loaded");
        assert_eq!(loaded.peer(), identity.peer());
    }
}
