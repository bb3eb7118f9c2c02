"""One run over several processes: launch, topology, communication, signals."""
