//! What a store has of one database, as replication and restore both need to know it: where its history ends, of which
//! database it is, and whether a live database continues it.

pub mod changes_search;
pub mod checkpoint_note;
pub mod end_note;
pub mod find_end;
pub mod listing;
pub mod origin;
pub mod owner;
pub mod page_sums_file;
pub mod recipients_note;
pub mod stored_end;
