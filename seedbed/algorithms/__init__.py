"""One file a published algorithm, both halves of it in the one file. Algorithms know nothing of engines or schedules."""
