"""DimensionalityReducer: transformed Examples and TransformGraph in, reduced ones out."""
