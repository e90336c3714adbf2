"""Parts of `benchmarks.real_shapes`: models, questions, ways of asking, tokens and the bound."""
