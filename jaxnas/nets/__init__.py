"""The kit that the networks of all spaces are built from: layers, ways of choosing operations, initialisation."""
