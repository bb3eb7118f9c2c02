"""One run over several processes: who they are, and how they talk."""
