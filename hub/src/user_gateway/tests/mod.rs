//! The room with fake agents behind it and raw consumers in front of it.
//!
//! Invariant: what a consumer sees is read off its socket, byte by byte.

#[cfg(test)]
mod failover;
#[cfg(test)]
mod realtime;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod tickets;
#[cfg(test)]
mod uploads;
#[cfg(test)]
mod waiting;
