//! podwire.
