//! Opening a store by what the operator calls it, over the connections of the process.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use crate::error::Result;
use crate::format::time::Timestamp;
use crate::store::Store;
use crate::store::encrypted::{EncryptedStore, Encryption, NameRoot};
use crate::store::service::{RequestError, ServiceDescription, ServiceRequest};
use crate::store::traffic::Traffic;
use crate::store::{dir, nats};
use crate::wakeup::Waker;

/// Which store, with everything needed to open it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreTarget {
    /// A directory; it and its parents are made at the first put.
    Dir(PathBuf),
    Nats(Box<nats::options::NatsOptions>),
}

/// The connections of this process: stores on the same servers with the same login share one.
#[derive(Default)]
pub struct ConnectionPool {
    clients: nats::ClientCache,
}

impl ConnectionPool {
    /// What all connections have carried, by the servers that they are or were to.
    pub fn traffic(&self) -> BTreeMap<String, Traffic> {
        self.clients.traffic()
    }

    /// From now on, what others ask for over connections that are yet to be opened is heard; `waker` is then called.
    pub fn listen(&mut self, waker: Waker, started: Timestamp) {
        self.clients.listen(waker, started);
    }

    /// Hears nothing more.
    pub fn stop_listening(&mut self) {
        self.clients.stop_listening();
    }

    /// What was asked for. `describe` says what the program is, over a connection, in at most so many bytes.
    pub fn requests(
        &mut self,
        now: Instant,
        describe: &dyn Fn(&str, usize) -> ServiceDescription,
    ) -> Vec<ServiceRequest> {
        self.clients.requests(now, describe)
    }

    /// Answers one of those requests.
    pub fn answer(
        &mut self,
        now: Instant,
        request: &ServiceRequest,
        answer: std::result::Result<String, RequestError>,
    ) {
        self.clients.answer(now, request, answer);
    }
}

/// Opens a store. Nothing is contacted before [`Store::connect`].
///
/// Errors: of kind `StoreRefused`, if the target cannot be right.
pub fn open(target: &StoreTarget, encryption: Encryption, pool: &mut ConnectionPool) -> Result<Rc<dyn Store>> {
    let (inner, root): (Rc<dyn Store>, NameRoot) = match target {
        StoreTarget::Dir(path) => (Rc::new(dir::DirStore::new(path)), NameRoot::Directory),
        StoreTarget::Nats(options) => {
            let store = nats::NatsStore::open(options, &mut pool.clients)?;
            (Rc::new(store), NameRoot::Prefix(options.prefix.clone()))
        }
    };
    Ok(Rc::new(EncryptedStore::new(inner, root, encryption)))
}
