//! What is read again, and what is refused, when the content of files changes.

use super::*;
use std::time::SystemTime;

/// Claim: a side comes from memory while its files stay as they are, and is read again after any
/// of them was written: in place, and as a new file. Method: the sizes stay the same; the time of
/// the write in place is set, so that the clock's resolution does not matter.
#[test]
fn changed_files_are_read_again() {
    let (folder, spec) = idx_folder(false);
    let path = folder.path().join("train-labels-idx1-ubyte");
    let first = load(&spec, Side::Train).unwrap();
    let again = load(&spec, Side::Train).unwrap();
    assert!(std::sync::Arc::ptr_eq(&first.images, &again.images));

    std::fs::write(&path, idx(&[4], &[0, 1, 2, 2])).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let second = load(&spec, Side::Train).unwrap();
    assert_eq!(second.images.labels, [0, 1, 2, 2]);
    assert_ne!(second.digest, first.digest);

    let new = folder.path().join("new");
    std::fs::write(&new, idx(&[4], &[0, 1, 2, 1])).unwrap();
    std::fs::rename(&new, &path).unwrap();
    let third = load(&spec, Side::Train).unwrap();
    assert_eq!((&third.images, third.digest), (&first.images, first.digest));

    std::fs::remove_file(&path).unwrap();
    assert!(load(&spec, Side::Train).unwrap_err().can_retry());
}

/// Claim: a call that names a content is refused on other data, naming file, expected and got, and
/// another worker may have the right ones; the test side is not concerned.
#[test]
fn data_of_other_content_are_refused() {
    let (folder, spec) = idx_folder(false);
    let digest = load(&spec, Side::Train).unwrap().digest;
    let named = |digest| DataSpec {
        digest: Some(digest),
        ..spec.clone()
    };
    load(&named(digest), Side::Train).unwrap();
    let other = Digest::of(b"other");
    let error = load(&named(other), Side::Train).unwrap_err();
    assert!(error.can_retry());
    let message = error.to_string();
    for part in [text(folder.path()), digest.to_string(), other.to_string()] {
        assert!(message.contains(&part), "{message} should contain {part}");
    }
    load(&named(other), Side::Test).unwrap();
}

/// Claim: the digest depends on images and labels, and not on the files that they came in.
/// Method: plain and compressed IDX and `.npz`, channels first and last; every kind of change.
#[test]
fn the_digest_is_that_of_the_images() {
    let digest = |spec: &DataSpec| load(spec, Side::Train).unwrap().digest;
    let (_plain, plain) = idx_folder(false);
    let (_packed, packed) = idx_folder(true);
    let pixels: Vec<u8> = (0..24).collect();
    let labels = || {
        npy(
            "<i4",
            "4,",
            &[0, 1, 2, 1].map(|label: i32| label.to_le_bytes()).concat(),
        )
    };
    let mut digests = vec![digest(&plain), digest(&packed)];
    let (_first, file, _) = npz(npy("|u1", "4, 2, 3", &pixels), labels(), true);
    digests.push(digest(&spec(DataSource::Npz(file), [1, 2, 3], 3)));
    let (_last, file, _) = npz(npy("|u1", "4, 2, 3, 1", &pixels), labels(), false);
    digests.push(digest(&spec(DataSource::Npz(file), [1, 2, 3], 3)));
    assert!(digests.iter().all(|digest| *digest == digests[0]));

    let images = |pixels, labels| Images { pixels, labels };
    let bytes = |change: usize| {
        let mut pixels = pixels.clone();
        pixels[change % 24] ^= u8::from(change < 24);
        Pixels::Bytes(pixels)
    };
    let floats = Pixels::Floats(
        pixels
            .iter()
            .map(|value| f32::from(*value) / 255.0)
            .collect(),
    );
    let base = images(bytes(24), vec![0, 1, 2, 1]);
    assert_eq!(base.digest([1, 2, 3]), digests[0]);
    let all = BTreeSet::from([
        base.digest([1, 2, 3]),
        base.digest([1, 3, 2]),
        images(bytes(0), base.labels.clone()).digest([1, 2, 3]),
        images(bytes(23), base.labels.clone()).digest([1, 2, 3]),
        images(bytes(24), vec![0, 1, 1, 2]).digest([1, 2, 3]),
        images(floats, base.labels.clone()).digest([1, 2, 3]),
    ]);
    assert_eq!(all.len(), 6);
}

/// Claim: both sides of a folder must have the same classes, or their labels would not mean the
/// same. Method: as many folders on both sides, of which one has another name.
#[test]
fn sides_with_other_classes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["train/ant", "train/bee", "test/ant", "test/cat"] {
        picture(&folder.path().join(name).join("1.png"), 2, 2, [1, 1, 1]);
    }
    let spec = spec(DataSource::Folder(text(folder.path())), [1, 2, 2], 2);
    for side in [Side::Train, Side::Test] {
        let error = read(&spec, side).unwrap_err();
        let expected = "got [\"bee\"] in train/ alone and [\"cat\"] in test/ alone";
        assert!(
            error.to_string().ends_with(expected) && !error.can_retry(),
            "{error}"
        );
    }
    std::fs::rename(
        folder.path().join("test/cat"),
        folder.path().join("test/bee"),
    )
    .unwrap();
    assert_eq!(read(&spec, Side::Test).unwrap().labels, [0, 1]);
    for number in 0..9 {
        std::fs::create_dir(folder.path().join(format!("test/x{number}"))).unwrap();
    }
    let message = read(&spec, Side::Train).unwrap_err().to_string();
    let expected = "got [] in train/ alone and [\"x0\", \"x1\", \"x2\", \"x3\", \"x4\"] and 4 more in test/ alone";
    assert!(message.ends_with(expected), "{message}");
}
