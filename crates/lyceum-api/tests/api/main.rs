//! The real service over real sockets: every contract, and every way to be refused.

mod client;
mod contracts;
mod door;
mod house;
mod load;
