"""The first minutes on a GPU: stages in the order of what they tell, each with a limit. See __main__.py."""
