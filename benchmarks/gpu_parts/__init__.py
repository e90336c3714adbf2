"""Parts of `benchmarks.gpu`; each module has ``measure(run)``, an iterator of rows."""
