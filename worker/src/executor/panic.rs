//! Panics of kernels as messages.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work`; a panic becomes its message. What `work` changed is not to be used afterwards.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| {
            payload
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
        });
        text.unwrap_or_else(|| "a panic without a message".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claim: both kinds of messages survive, and what does not panic passes through.
    #[test]
    fn messages_survive() {
        assert_eq!(catch(|| 7), Ok(7));
        assert_eq!(
            catch(|| panic!("plain")),
            Err::<(), String>("plain".to_owned())
        );
        let number = 3;
        assert_eq!(
            catch(|| panic!("number {number}")),
            Err::<(), String>("number 3".to_owned())
        );
    }
}
