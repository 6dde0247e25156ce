//! OPEN: a call's head on its way to the agent. It names an endpoint of the table and
//! never a URL: the agent builds the vendor's path from its own template.
//!
//! ```text
//! call 16 | vendor key 16 | endpoint u16 | body kind u8 (0 none, 1 length, 2 chunked, 3 upgrade)
//! | body bytes u64 | ticket: length u16, 0 is none, and bytes
//! | parameter: length u16, UTF-8 (empty: none) | query: presence u8, length u16, UTF-8 | headers
//! ```
//!
//! Invariant: nothing in it can name a host, a path or a credential.

use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;

use crate::id::CallId;
use crate::id::VendorKeyId;
use crate::ticket::TICKET_BYTES_MAX;

use super::wire::PayloadError;
use super::wire::Reader;
use super::wire::put_headers;
use super::wire::put_text;

/// How the request's body is framed toward the vendor: as the consumer framed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body.
    None,
    /// The consumer declared this many bytes.
    Known(u64),
    /// The consumer sent chunks.
    Chunked,
    /// The consumer asks for a WebSocket. The hub sends no DATA before a HEAD of 101; after it, DATA both ways is
    /// the connection's raw bytes and END its FIN.
    Upgrade,
}

/// The payload of OPEN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenHead {
    /// The call.
    pub call: CallId,
    /// Which of the agent's offers serves it.
    pub vendor_key: VendorKeyId,
    /// The endpoint's number in the shared table.
    pub endpoint: u16,
    /// The template's parameter (Azure's deployment), if it has one.
    pub parameter: Option<String>,
    /// The query, without `?`, if there was one.
    pub query: Option<String>,
    /// How the body is framed.
    pub body: BodyLength,
    /// The order, a [`crate::ticket::SignedTicket`] that is yet to be read; none when the call is free.
    pub ticket: Option<Bytes>,
    /// The headers that may travel.
    pub headers: HeaderMap,
}

impl OpenHead {
    /// The payload.
    ///
    /// # Errors
    /// When there are more headers, or longer ones, than the layout can count, or a ticket
    /// that is too long.
    pub fn encode(&self) -> Result<Bytes, PayloadError> {
        let mut out = BytesMut::with_capacity(512);
        out.put_slice(&self.call.0);
        out.put_slice(&self.vendor_key.0);
        out.put_u16(self.endpoint);
        let (kind, length) = match self.body {
            BodyLength::None => (0, 0),
            BodyLength::Known(length) => (1, length),
            BodyLength::Chunked => (2, 0),
            BodyLength::Upgrade => (3, 0),
        };
        out.put_u8(kind);
        out.put_u64(length);
        let ticket = self.ticket.as_deref().unwrap_or_default();
        let is_within = ticket.len() <= TICKET_BYTES_MAX;
        let length = u16::try_from(ticket.len()).ok().filter(|_| is_within).ok_or(PayloadError::Field("ticket"))?;
        out.put_u16(length);
        out.put_slice(ticket);
        put_text(&mut out, self.parameter.as_deref().unwrap_or(""));
        out.put_u8(u8::from(self.query.is_some()));
        put_text(&mut out, self.query.as_deref().unwrap_or(""));
        put_headers(&mut out, &self.headers)?;
        Ok(out.freeze())
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it does not follow the layout.
    pub fn decode(payload: Bytes) -> Result<Self, PayloadError> {
        let mut reader = Reader::new(payload);
        let call = CallId(reader.array()?);
        let vendor_key = VendorKeyId(reader.array()?);
        let endpoint = reader.u16()?;
        let body = match (reader.u8()?, reader.u64()?) {
            (0, 0) => BodyLength::None,
            (1, length) => BodyLength::Known(length),
            (2, 0) => BodyLength::Chunked,
            (3, 0) => BodyLength::Upgrade,
            _ => return Err(PayloadError::Field("body")),
        };
        let length = usize::from(reader.u16()?);
        if length > TICKET_BYTES_MAX {
            return Err(PayloadError::Field("ticket"));
        }
        let ticket = Some(reader.bytes(length)?).filter(|ticket| !ticket.is_empty());
        let parameter = reader.text("parameter")?;
        let has_query = reader.u8()?;
        let query = reader.text("query")?;
        let query = match has_query {
            0 if query.is_empty() => None,
            1 => Some(query),
            _ => return Err(PayloadError::Field("query")),
        };
        let headers = reader.headers()?;
        reader.end()?;
        let parameter = Some(parameter).filter(|parameter| !parameter.is_empty());
        Ok(Self { call, vendor_key, endpoint, parameter, query, body, ticket, headers })
    }
}
