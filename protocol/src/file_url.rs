//! `file:` URLs of blob stores: a local cluster writes them, coordinator and agents read them.

/// The URL of a folder, given by its absolute path.
pub fn from_path(path: &str) -> String {
    let mut url = String::from("file://");
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                url.push(char::from(byte))
            }
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    url
}

/// The absolute path behind a URL; `None` if it has another scheme, names a host, or is not
/// percent-encoded UTF-8.
pub fn to_path(url: &str) -> Option<String> {
    let text = url.strip_prefix("file://")?;
    let mut bytes = text.bytes();
    let mut path = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        path.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    let path = String::from_utf8(path).ok()?;
    (path.starts_with('/') && !path.contains('\0')).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Claim: any absolute path comes back from its URL, which is plain ASCII.
        #[test]
        fn paths_come_back(path in "/[^\0]{0,40}") {
            let url = from_path(&path);
            prop_assert!(url.is_ascii() && !url.contains(' '), "{}", url);
            prop_assert_eq!(to_path(&url), Some(path));
        }

        /// Claim: no text makes the reader panic.
        #[test]
        fn reading_never_panics(text in "(file://)?/?[%0-9a-zé]{0,20}") {
            let _ = to_path(&text);
        }
    }

    /// Claim: what names no local folder is told apart.
    #[test]
    fn others_are_refused() {
        for url in [
            "",
            "/x",
            "s3://bucket",
            "file://host/x",
            "file:///%2",
            "file:///%zz",
            "file:///%ff",
            "file:///%00",
        ] {
            assert_eq!(to_path(url), None, "{url}");
        }
    }
}
