"""Files of weights: every tensor accounted for, adapters merged, LLaVA's layout converted."""
