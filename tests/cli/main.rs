//! What an operator gives and gets: the configuration, the command line, what is refused, what is told, who may read it.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod config;
mod config_check;
mod config_guide;
mod contexts;
mod heartbeat;
mod monitoring;
mod neighbours;
mod secrets;
mod service;
mod users;
