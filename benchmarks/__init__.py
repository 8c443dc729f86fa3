"""What is timed. Nothing here is a test, and no test is timed."""
