//! Sequences whose elements take far more memory than bytes of a frame: their number is bounded
//! while they are read.

use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

struct AtMost<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for AtMost<T, MOST> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MOST} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
        let mut taken = Vec::new();
        while let Some(element) = elements.next_element()? {
            if taken.len() == MOST {
                let message = format!("more than {MOST} elements of a sequence");
                return Err(A::Error::custom(message));
            }
            taken.push(element);
        }
        Ok(taken)
    }
}

/// For `deserialize_with`: a sequence of at most `MOST` elements.
pub(crate) fn at_most<'de, D, T, const MOST: usize>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    from.deserialize_seq(AtMost::<T, MOST>(PhantomData))
}
