//! The rules by which a workspace changes, by example: what becomes of a whole workspace, and what is told of it.

mod agent;
mod aggregate;
mod answers;
mod kinship;
mod mirror;
mod record;
mod undo;
mod wish;
mod world;
