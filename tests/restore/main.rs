//! What was stored can be restored: years of it, damaged, proven, in bulk, and while the server restarts.

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod compact;
mod damage;
mod encryption;
mod followers;
mod hostile_store;
mod list;
mod many;
mod restarts;
mod standby;
mod thinned;
mod trust;
mod verify;
