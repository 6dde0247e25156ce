//! HEAD: the vendor's response head, and the trailers that END may carry.
//!
//! ```text
//! HEAD: status u16 | headers        END: nothing, or headers
//! headers: count u16, then per header: name length u16, name, value length u16, value
//! ```
//!
//! Invariant: values, duplicates and the order within a name are carried as they came.

use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::StatusCode;

use super::wire::PayloadError;
use super::wire::Reader;
use super::wire::put_headers;

/// The payload of HEAD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// A final status, 200 to 599, or 101 in answer to an OPEN that asks for an upgrade; no other 1xx is relayed.
    pub status: StatusCode,
    /// The headers that may travel.
    pub headers: HeaderMap,
}

impl ResponseHead {
    /// The payload.
    ///
    /// # Errors
    /// When there are more headers, or longer ones, than the layout can count.
    pub fn encode(&self) -> Result<Bytes, PayloadError> {
        let mut out = BytesMut::with_capacity(512);
        out.put_u16(self.status.as_u16());
        put_headers(&mut out, &self.headers)?;
        Ok(out.freeze())
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it does not follow the layout.
    pub fn decode(payload: Bytes) -> Result<Self, PayloadError> {
        let mut reader = Reader::new(payload);
        let status = reader.u16()?;
        if !(status == 101 || (200..600).contains(&status)) {
            return Err(PayloadError::Field("status"));
        }
        let status = StatusCode::from_u16(status).map_err(|_| PayloadError::Field("status"))?;
        let headers = reader.headers()?;
        reader.end()?;
        Ok(Self { status, headers })
    }
}

/// The payload of END.
///
/// # Errors
/// When there are more trailers, or longer ones, than the layout can count.
pub fn encode_trailers(trailers: Option<&HeaderMap>) -> Result<Bytes, PayloadError> {
    let mut out = BytesMut::new();
    if let Some(trailers) = trailers {
        put_headers(&mut out, trailers)?;
    }
    Ok(out.freeze())
}

/// Reads the payload of END.
///
/// # Errors
/// When it does not follow the layout.
pub fn decode_trailers(payload: Bytes) -> Result<Option<HeaderMap>, PayloadError> {
    if payload.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader::new(payload);
    let trailers = reader.headers()?;
    reader.end()?;
    Ok(Some(trailers))
}
