"""How messages become one: the mean, which may be added up in parts; or each as it is."""
