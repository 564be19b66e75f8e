//! The rules by which a workspace changes, by example: what becomes of a whole workspace, and what is told of it.

mod adoption;
mod agent;
mod aggregate;
mod agreement;
mod answers;
mod kinship;
mod memory;
mod mirror;
mod record;
mod retold;
mod reunion;
mod store;
mod tokens;
mod undo;
mod watch;
mod wish;
mod world;
