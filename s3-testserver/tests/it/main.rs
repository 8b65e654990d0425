//! Proves the test server with a real client (`object_store`), and where a client hides what
//! happens on the wire, with plain TCP. One binary, so that the client is linked once; the modules
//! are named for what they prove.

mod client;
mod configurations_do_what_they_say;
mod create_has_one_winner;
mod faults_do_what_they_say;
mod objects_round_trip;
mod pause_keeps_port_and_data;
mod wrong_requests_are_refused;
