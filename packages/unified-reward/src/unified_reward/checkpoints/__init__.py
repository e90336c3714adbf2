"""Files of weights: every tensor is accounted for, adapters merged, LLaVA's layout converted."""
