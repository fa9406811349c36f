//! What only Linux knows.
