//! What a learned policy is shown of the cluster, in training and when it serves.

pub mod counts;
