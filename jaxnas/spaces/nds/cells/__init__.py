"""Networks of cells: Amoeba, DARTS, ENAS, NASNet and PNAS."""
