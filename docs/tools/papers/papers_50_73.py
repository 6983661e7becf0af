from .row import Paper
PAPERS: tuple[Paper, ...] = ()
