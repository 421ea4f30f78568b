//! Texts of bounded length.

use evoring_protocol::limits::TEXT_BYTES;
use evoring_protocol::work::WorkError;

/// The text, cut to [`TEXT_BYTES`] where a character ends; an ellipsis says so.
pub fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES {
        let end = text.floor_char_boundary(TEXT_BYTES - '…'.len_utf8());
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The error with a cut message.
pub fn bounded(error: WorkError) -> WorkError {
    WorkError {
        message: cut(error.message),
        ..error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claim: a long text is cut between characters and fits; a short one stays.
    #[test]
    fn long_texts_are_cut() {
        let text = cut("é".repeat(TEXT_BYTES));
        assert!(text.len() <= TEXT_BYTES && text.ends_with('…'));
        let whole = "é".repeat(TEXT_BYTES / 2);
        assert_eq!(cut(whole.clone()), whole);
    }
}
