"""Dataset versions: content-addressed shards, what changed between two, whose rows they hold, and ways out of here."""
