//! What any Keyhaven daemon needs and none should write twice: configuration,
//! command-line output, tasks with an end, files, telemetry, hardening.
//!
//! Invariant: a library installs no globals; what is global is set up by a
//! `main` through `telemetry::init` and `admin::install_metrics`.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod failure;
pub mod files;
pub mod hardening;
pub mod link;
pub mod tasks;
pub mod telemetry;
pub mod terminal;
pub mod tls;
