"""otcache in the sampling loops of other libraries: toys, loops of each library, measure, test_foreign."""
