"""People accept, edit or reject rows that a model wrote or that `prepare` rejected; that decides which of them are used."""
