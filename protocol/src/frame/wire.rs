//! Reading and writing the fields of binary payloads. All integers are big-endian.
//!
//! Invariant: a reader never reads past its bytes and never allocates more than it was given.

use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;

/// A payload that does not follow its layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// A field reaches beyond the payload.
    #[error("the payload ends inside a field")]
    Truncated,
    /// Bytes are left after the last field.
    #[error("the payload goes on after its last field")]
    Trailing,
    /// A field holds what it may not hold.
    #[error("the field {0} holds a value it may not hold")]
    Field(&'static str),
}

/// Takes fields off the front of a payload.
#[derive(Debug)]
pub(super) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub(super) fn new(payload: Bytes) -> Self {
        Self { rest: payload }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<Bytes, PayloadError> {
        if self.rest.len() < count {
            return Err(PayloadError::Truncated);
        }
        Ok(self.rest.split_to(count))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], PayloadError> {
        let bytes = self.bytes(N)?;
        bytes.as_ref().try_into().map_err(|_| PayloadError::Truncated)
    }

    pub(super) fn u8(&mut self) -> Result<u8, PayloadError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, PayloadError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, PayloadError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, PayloadError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A text behind its length of two bytes.
    pub(super) fn text(&mut self, field: &'static str) -> Result<String, PayloadError> {
        let count = self.u16()?;
        let bytes = self.bytes(count.into())?;
        std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| PayloadError::Field(field))
    }

    /// A header block: a count, then name and value behind their lengths. Values
    /// share the payload's memory.
    pub(super) fn headers(&mut self) -> Result<HeaderMap, PayloadError> {
        let count = self.u16()?;
        let mut headers = HeaderMap::with_capacity(usize::from(count).min(64));
        for _ in 0..count {
            let name_bytes = self.u16()?;
            let name = self.bytes(name_bytes.into())?;
            let name = HeaderName::from_bytes(&name).map_err(|_| PayloadError::Field("header name"))?;
            let value_bytes = self.u16()?;
            let value = self.bytes(value_bytes.into())?;
            let value = HeaderValue::from_maybe_shared(value).map_err(|_| PayloadError::Field("header value"))?;
            headers.try_append(name, value).map_err(|_| PayloadError::Field("header count"))?;
        }
        Ok(headers)
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    pub(super) fn end(self) -> Result<(), PayloadError> {
        if self.rest.is_empty() { Ok(()) } else { Err(PayloadError::Trailing) }
    }
}

/// Writes a text behind its length; a text beyond 65,535 bytes is cut at a character.
pub(super) fn put_text(out: &mut BytesMut, text: &str) {
    let mut end = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u16(u16::try_from(end).expect("bounded by u16::MAX above"));
    out.put_slice(&text.as_bytes()[..end]);
}

/// Writes a header block, in the map's order.
///
/// # Errors
/// `Field` when there are more headers, or longer ones, than the layout can count.
pub(super) fn put_headers(out: &mut BytesMut, headers: &HeaderMap) -> Result<(), PayloadError> {
    out.put_u16(u16::try_from(headers.len()).map_err(|_| PayloadError::Field("header count"))?);
    for (name, value) in headers {
        let name = name.as_str().as_bytes();
        out.put_u16(u16::try_from(name.len()).map_err(|_| PayloadError::Field("header name"))?);
        out.put_slice(name);
        out.put_u16(u16::try_from(value.len()).map_err(|_| PayloadError::Field("header value"))?);
        out.put_slice(value.as_bytes());
    }
    Ok(())
}
