"""How messages become one: only the mean so far, which may be added up in parts."""
