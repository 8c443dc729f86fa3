"""Studies: tables of runs and seeds, one claim each."""
