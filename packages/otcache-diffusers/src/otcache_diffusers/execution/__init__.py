"""Skip steps of a run: executor, plan, cache policy, cache; ``blocks`` skip inside the network."""
