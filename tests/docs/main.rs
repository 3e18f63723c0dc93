//! What is said of the program is so: the README, the manual pages, the completions, the packages, the page that restores a
//! backup by hand; and what is said of the code: its layers, and the tables of what is tested.

#[path = "../support/mod.rs"]
mod support;

mod by_hand;
mod catalogue;
mod circles;
mod completions;
mod fleet;
mod interop;
mod layers;
mod manuals;
mod output;
mod packages;
mod readme;
mod scratch;
mod type_names;
