//! Sequences that are bounded while they are read: what takes far more memory than its bytes of a
//! frame, and bytes, which are taken and given as a whole instead of one by one. For `postcard` a
//! sequence of bytes and bytes look the same.

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use std::collections::BTreeMap;
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

/// An element that holds others.
pub(crate) trait Holds {
    /// How many.
    fn held(&self) -> usize;
}

struct AtMostHeld<T, const MOST: usize, const HELD: usize>(PhantomData<T>);

impl<'de, T, const MOST: usize, const HELD: usize> Visitor<'de> for AtMostHeld<T, MOST, HELD>
where
    T: Deserialize<'de> + Holds,
{
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MOST} elements that hold at most {HELD}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
        let (mut taken, mut held) = (Vec::new(), 0);
        while let Some(element) = elements.next_element::<T>()? {
            held += element.held();
            if taken.len() == MOST || held > HELD {
                let message = format!("more than {MOST} elements, or than {HELD} within them");
                return Err(A::Error::custom(message));
            }
            taken.push(element);
        }
        Ok(taken)
    }
}

/// For `deserialize_with`: a sequence of at most `MOST` elements, which hold at most `HELD` together.
pub(crate) fn at_most_held<'de, D, T, const MOST: usize, const HELD: usize>(
    from: D,
) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Holds,
{
    from.deserialize_seq(AtMostHeld::<T, MOST, HELD>(PhantomData))
}

/// Bytes that are read: at most `MOST`.
struct Taken<const MOST: usize>(Vec<u8>);

struct TakenVisitor<const MOST: usize>;

impl<const MOST: usize> TakenVisitor<MOST> {
    fn checked<E: Error>(bytes: usize) -> Result<(), E> {
        if bytes <= MOST {
            return Ok(());
        }
        Err(E::custom(format!(
            "{bytes} bytes, at most {MOST} are allowed"
        )))
    }
}

impl<'de, const MOST: usize> Visitor<'de> for TakenVisitor<MOST> {
    type Value = Taken<MOST>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MOST} bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Self::checked(bytes.len())?;
        Ok(Taken(bytes.to_vec()))
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Self::Value, E> {
        Self::checked(bytes.len())?;
        Ok(Taken(bytes))
    }

    /// Formats without bytes of their own write numbers.
    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<Self::Value, A::Error> {
        AtMost::<u8, MOST>(PhantomData)
            .visit_seq(elements)
            .map(Taken)
    }
}

impl<'de, const MOST: usize> Deserialize<'de> for Taken<MOST> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_byte_buf(TakenVisitor)
    }
}

/// Bytes that are written.
struct Given<'a>(&'a [u8]);

impl Serialize for Given<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0)
    }
}

/// For fields of bytes.
pub mod bytes {
    use super::{Deserialize, Deserializer, Serializer, Taken};

    /// For `serialize_with`.
    ///
    /// # Errors
    /// Those of the format.
    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    /// For `deserialize_with`: at most `MOST`.
    ///
    /// # Errors
    /// Those of the format, and if there are more.
    pub fn at_most<'de, D, const MOST: usize>(from: D) -> Result<Vec<u8>, D::Error>
    where
        D: Deserializer<'de>,
    {
        Taken::<MOST>::deserialize(from).map(|taken| taken.0)
    }
}

/// For fields of several pieces of bytes.
pub mod pieces {
    use super::{AtMost, Deserializer, Given, PhantomData, Serializer, Taken};

    /// For `serialize_with`.
    ///
    /// # Errors
    /// Those of the format.
    pub fn serialize<S: Serializer>(pieces: &[Vec<u8>], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(pieces.iter().map(|piece| Given(piece)))
    }

    /// For `deserialize_with`: at most `MOST` of at most `BYTES`.
    ///
    /// # Errors
    /// Those of the format, and if there are more.
    pub fn at_most<'de, D, const MOST: usize, const BYTES: usize>(
        from: D,
    ) -> Result<Vec<Vec<u8>>, D::Error>
    where
        D: Deserializer<'de>,
    {
        let pieces = from.deserialize_seq(AtMost::<Taken<BYTES>, MOST>(PhantomData))?;
        Ok(pieces.into_iter().map(|piece| piece.0).collect())
    }
}

/// For fields of bytes, or why there are none.
pub mod result_bytes {
    use super::{Deserialize, Deserializer, Given, Serialize, Serializer, Taken};

    /// For `serialize_with`.
    ///
    /// # Errors
    /// Those of the format.
    pub fn serialize<S: Serializer, E: Serialize>(
        result: &Result<Vec<u8>, E>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        result.as_ref().map(|bytes| Given(bytes)).serialize(to)
    }

    /// For `deserialize_with`: at most `MOST`.
    ///
    /// # Errors
    /// Those of the format, and if there are more.
    pub fn at_most<'de, D, E, const MOST: usize>(from: D) -> Result<Result<Vec<u8>, E>, D::Error>
    where
        D: Deserializer<'de>,
        E: Deserialize<'de>,
    {
        let result = Result::<Taken<MOST>, E>::deserialize(from)?;
        Ok(result.map(|taken| taken.0))
    }
}

/// For fields that map something to bytes.
pub mod map_to_bytes {
    use super::{BTreeMap, Deserialize, Deserializer, Given, Serialize, Serializer, Taken};

    /// For `serialize_with`.
    ///
    /// # Errors
    /// Those of the format.
    pub fn serialize<S: Serializer, K: Serialize>(
        map: &BTreeMap<K, Vec<u8>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_map(map.iter().map(|(key, bytes)| (key, Given(bytes))))
    }

    /// For `deserialize_with`: at most `MOST` bytes each.
    ///
    /// # Errors
    /// Those of the format, and if there are more.
    pub fn at_most<'de, D, K, const MOST: usize>(from: D) -> Result<BTreeMap<K, Vec<u8>>, D::Error>
    where
        D: Deserializer<'de>,
        K: Deserialize<'de> + Ord,
    {
        let map = BTreeMap::<K, Taken<MOST>>::deserialize(from)?;
        Ok(map.into_iter().map(|(key, taken)| (key, taken.0)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct OneByOne {
        bytes: Vec<u8>,
        pieces: Vec<Vec<u8>>,
        good: Result<Vec<u8>, String>,
        bad: Result<Vec<u8>, String>,
        map: BTreeMap<u8, Vec<u8>>,
    }

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Whole {
        #[serde(serialize_with = "bytes::serialize")]
        #[serde(deserialize_with = "bytes::at_most::<_, 300>")]
        bytes: Vec<u8>,
        #[serde(serialize_with = "pieces::serialize")]
        #[serde(deserialize_with = "pieces::at_most::<_, 3, 300>")]
        pieces: Vec<Vec<u8>>,
        #[serde(serialize_with = "result_bytes::serialize")]
        #[serde(deserialize_with = "result_bytes::at_most::<_, _, 300>")]
        good: Result<Vec<u8>, String>,
        #[serde(serialize_with = "result_bytes::serialize")]
        #[serde(deserialize_with = "result_bytes::at_most::<_, _, 300>")]
        bad: Result<Vec<u8>, String>,
        #[serde(serialize_with = "map_to_bytes::serialize")]
        #[serde(deserialize_with = "map_to_bytes::at_most::<_, _, 300>")]
        map: BTreeMap<u8, Vec<u8>>,
    }

    fn both(bytes: usize, pieces: usize) -> (OneByOne, Whole) {
        let some = vec![200; bytes];
        let pieces = vec![some.clone(); pieces];
        let whole = Whole {
            bytes: some.clone(),
            pieces: pieces.clone(),
            good: Ok(some.clone()),
            bad: Err("no".into()),
            map: BTreeMap::from([(1, some.clone()), (2, Vec::new())]),
        };
        let one_by_one = OneByOne {
            bytes: some.clone(),
            pieces,
            good: Ok(some.clone()),
            bad: Err("no".into()),
            map: BTreeMap::from([(1, some), (2, Vec::new())]),
        };
        (one_by_one, whole)
    }

    /// Claim: bytes taken as a whole have the form on the wire that they had one by one, and are read
    /// back up to the limits and not beyond.
    /// Method: the same values in both ways; none, some, the most, one more.
    #[test]
    fn bytes_as_a_whole() {
        for (bytes, pieces, fits) in [(0, 0, true), (300, 3, true), (301, 3, false), (5, 4, false)]
        {
            let (one_by_one, whole) = both(bytes, pieces);
            let encoded = postcard::to_stdvec(&one_by_one).unwrap();
            assert_eq!(postcard::to_stdvec(&whole).unwrap(), encoded);
            let read = postcard::from_bytes::<Whole>(&encoded).ok();
            assert_eq!(
                read,
                fits.then_some(whole),
                "{bytes} bytes, {pieces} pieces"
            );
        }
    }
}
