//! Neighbour table.
/// Neighbour entries.
#[derive(Clone, Debug, Default)]
pub struct NeighbourTable;
