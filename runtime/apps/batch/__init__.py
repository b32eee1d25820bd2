"""batch: pictures by the million on Ray. inputs are what is to be done, the ledger what is done."""
