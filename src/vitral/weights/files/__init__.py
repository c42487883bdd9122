"""Opening weight files of any origin: nothing in them runs, nothing is read unasked."""
