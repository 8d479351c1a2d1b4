//! What the tools print.
