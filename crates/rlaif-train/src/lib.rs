//! Training that every algorithm shares.
