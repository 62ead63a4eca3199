"""How columns of a table become numbers: statistics that are sums over clients, and the transforms that follow."""
