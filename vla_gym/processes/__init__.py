"""Worker processes and programs, with time limits; any of them may hang or die."""
