"""What tests share: oracles, cases, builds and counters. Test modules import from here, never from each other."""
