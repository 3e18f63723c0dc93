//! What one replica of a database is: its store, its settings, its name, and where what belongs to it lies.

use std::path::PathBuf;
use std::rc::Rc;

use crate::log::target_name::TargetName;
use crate::replica::exclusive_writer::ExclusiveWriter;
use crate::replica::maintenance::Maintenance;
use crate::replica::replicator::settings::{ReplicaTarget, Settings};
use crate::replica::spool::Spool;
use crate::replica::upload_queue::UploadQueue;
use crate::store::Store;

pub(super) struct ReplicaSetup {
    pub(super) settings: Rc<Settings>,
    pub(super) target: ReplicaTarget,
    pub(super) name: TargetName,
    pub(super) store: Rc<dyn Store>,
}

impl ReplicaSetup {
    pub(super) fn new(settings: Rc<Settings>, target: ReplicaTarget) -> ReplicaSetup {
        let database = settings.path.display().to_string();
        let name = TargetName::of_replica(&database, target.name.clone());
        ReplicaSetup { store: target.store.clone(), settings, target, name }
    }

    /// The directory beside the database for what belongs to this replica.
    pub(super) fn directory(&self) -> PathBuf {
        self.settings.replica_directory(self.target.directory.as_deref())
    }

    /// An empty queue. Its segments wait in the spool of this replica while the store is away.
    pub(super) fn upload_queue(&self) -> UploadQueue {
        let directory = self.settings.spool_directory(self.target.directory.as_deref());
        UploadQueue::new(self.store.clone(), Spool::new(&directory, self.settings.max_backlog))
    }

    pub(super) fn maintenance(&self) -> Maintenance {
        Maintenance { compaction: self.target.compaction, ..self.settings.maintenance() }
    }

    /// One that does not hold the lease yet. `takeover`: it takes it from another writer.
    pub(super) fn writer(&self, takeover: bool) -> ExclusiveWriter {
        ExclusiveWriter::new(self.store.clone(), self.name.database(), takeover)
    }
}
