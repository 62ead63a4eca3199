"""One file a published algorithm, both halves of it in that file. Algorithms know nothing of engines or schedules."""
