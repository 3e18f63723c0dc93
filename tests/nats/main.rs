//! The store on real nats-servers: its contract, logins and limits, outages, far links, clusters.

#[path = "../support/mod.rs"]
mod support;

mod bench_store;
mod cluster;
mod deadlines;
mod far;
mod fencing;
mod limits;
mod logins;
mod outage;
mod own_objects;
mod partition;
mod peer_defects;
mod permissions;
mod service;
mod standby;
mod store_contract;
mod store_nats;
mod store_nats_interop;
mod store_nats_outage;
mod store_nats_sweep;
mod store_nats_tls;
mod strict;
mod topologies;
mod traffic;
mod two_sites;
mod wire;
