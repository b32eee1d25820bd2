"""batch: pictures by the million on Ray. places and inputs reach files, the ledger knows what is done."""
