//! OPEN: a call's head on its way to the agent. It names an endpoint of the table and
//! never a URL: the agent builds the vendor's path from its own template.
//!
//! ```text
//! call 16 | vendor key 16 | endpoint u16 | body kind u8 (0 none, 1 length, 2 chunked, 3 upgrade)
//! | body bytes u64 | terms: presence u8, and if 1 attempt u8, price version u32, price hash 32, ceiling u64
//! | parameter: length u16, UTF-8 (empty: none) | query: presence u8, length u16, UTF-8 | headers
//! ```
//!
//! Invariant: nothing in it can name a host, a path or a credential.

use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;

use crate::hex::Hex;
use crate::id::CallId;
use crate::id::VendorKeyId;
use crate::money::NanoUsd;

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

/// By which prices a call is sold, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Which attempt at the call this is, from 1.
    pub attempt: u8,
    /// The version of the price table.
    pub price_version: u32,
    /// Its hash.
    pub price_hash: Hex<32>,
    /// The most that the call may cost, at list prices.
    pub ceiling: NanoUsd,
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
    /// What it is sold by; none when it is free.
    pub terms: Option<Terms>,
    /// The headers that may travel.
    pub headers: HeaderMap,
}

impl OpenHead {
    /// The payload.
    ///
    /// # Errors
    /// When there are more headers, or longer ones, than the layout can count, or a ceiling
    /// below 0.
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
        out.put_u8(u8::from(self.terms.is_some()));
        if let Some(terms) = &self.terms {
            terms.put(&mut out)?;
        }
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
        let terms = match reader.u8()? {
            0 => None,
            1 => Some(Terms::read(&mut reader)?),
            _ => return Err(PayloadError::Field("terms")),
        };
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
        Ok(Self { call, vendor_key, endpoint, parameter, query, body, terms, headers })
    }
}

impl Terms {
    fn put(&self, out: &mut BytesMut) -> Result<(), PayloadError> {
        out.put_u8(self.attempt);
        out.put_u32(self.price_version);
        out.put_slice(&self.price_hash.0);
        out.put_u64(u64::try_from(self.ceiling.0).map_err(|_| PayloadError::Field("ceiling"))?);
        Ok(())
    }

    fn read(reader: &mut Reader) -> Result<Self, PayloadError> {
        let (attempt, price_version, price_hash) = (reader.u8()?, reader.u32()?, Hex(reader.array()?));
        let ceiling = i64::try_from(reader.u64()?).map_err(|_| PayloadError::Field("ceiling"))?;
        Ok(Self { attempt, price_version, price_hash, ceiling: NanoUsd(ceiling) })
    }
}
